//! Whether the server keeps what it acknowledged: writers of every dialect keep a ledger while the server, its power or
//! its disk is taken away; then documents are read anew and held against it.
//!
//! ```text
//! ledger   what was sent, what was acknowledged, and the judgement; pure
//! link     one bare connection of any dialect
//! writer   one author: edits, waits for acknowledgements, leaves and comes back
//! fleet    many authors, and readers that come and go
//! crash    `syncline-sim crash`: signal 9, and failpoints
//! mount    a file system of its own, whose power can be cut
//! power    `syncline-sim power-cut`
//! disk     `syncline-sim disk-fault`
//! ```

pub mod crash;
pub mod disk;
mod fleet;
mod ledger;
mod link;
mod mount;
pub mod power;
mod writer;
