//! Data types that can be edited offline, as pure functions on yrs transactions: no clock, no random source, no I/O.
//! The caller passes times and ids in.
//!
//! ```text
//! value       JSON and bytes without lifetimes
//! clock       a hybrid logical clock; a wrong clock on another device moves it by a bounded amount only
//! lww_map     the newest write of a key wins
//! counter     concurrent increments add up
//! choice      concurrent writes are all kept until a user chooses one
//! register    a compare-and-set register, written by the server only; `registers` reads them
//! text_merge  word-based diffs and three-way merges of texts
//! apart       finds what two replicas both changed since their common base
//! rebase      applies one replica's changes to an unrelated history
//! predictor   predicts which version a user will choose, from earlier choices
//! ```
//!
//! The layout of every type is specified in `protocol/SPEC.md`, "Offline data types". A type is a plain struct that
//! holds only the name of the root type that stores it. Architecture invariant: nothing here depends on the session,
//! the driver, Tokio or the system clock.

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
pub use counter::CounterRoot;
pub use lww_map::LwwMapRoot;
pub use register::{RegisterConflict, RegisterState, RegisterWrite};
pub use value::Value;
