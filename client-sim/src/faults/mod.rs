//! Is anything lost? Devices, networks, servers and disks fail, and afterwards every edit must be in its document once.
//!
//! ```text
//! scenario        devices, a bad network and a real server run a plan; soak runs random plans
//! kill_test       a device that is killed while it edits (device_process: its process)
//! durability      servers that crash, lose power or lose their disk
//! oracle          the edits of devices, and the comparison with a document
//! judgement       which edits are lost or doubled: the same for devices and authors
//! network         a TCP proxy with faults
//! actor           a device that other programs drive
//! cli             arguments and output of `run`, `soak` and `kill-test`
//! ```

pub(crate) mod actor;
pub(crate) mod cli;
mod device_process;
pub(crate) mod durability;
mod judgement;
mod kill_test;
mod network;
mod oracle;
mod scenario;
mod soak;
