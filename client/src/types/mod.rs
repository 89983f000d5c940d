//! Data types that work offline, as pure functions on yrs transactions: no clock, no random source, no I/O. Times and
//! ids are given.
//!
//! ```text
//! value       JSON and bytes without lifetimes
//! clock       a hybrid logical clock that a wrong clock elsewhere cannot run away with
//! lww_map     the newest write of a key wins
//! counter     increments add up
//! choice      writes made apart are kept until someone chooses
//! register    one writer at a time, decided by the server; `registers` reads them
//! text_merge  diffs and three-way merges of texts, by words
//! apart       what two replicas changed both since they were together
//! rebase      what one replica changed, done again on an unrelated history
//! predictor   which version a user would choose, from earlier choices
//! ```
//!
//! Every layout is in `protocol/SPEC.md`, "Offline data types". A type is a plain struct that holds the names of what
//! it lives in. Architecture invariant: nothing here names the session, the driver, Tokio or the system's clock.

pub mod apart;
pub mod choice;
pub mod clock;
pub mod counter;
pub mod lww_map;
pub mod predictor;
pub mod rebase;
pub mod register;
pub mod registers;
mod sequence;
pub mod text_merge;
mod tree;
pub mod value;

pub use choice::ChoiceRegister;
pub use clock::Hlc;
pub use counter::Counter;
pub use lww_map::LwwMap;
pub use register::{RegisterConflict, RegisterState, RegisterWrite};
pub use value::Value;
