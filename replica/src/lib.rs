//! A CRDT document that survives its inputs: shared by the server, which relays it, and the client, which edits it.
//!
//! ```text
//! crdt.rs      the yrs document, its traps contained
//! fault.rs     for tests: a panic within the CRDT
//! growth.rs    PURE: how large it may become, how much work an update may be
//! json/        PURE: a document as JSON and back
//! local.rs     changes made here: the client's edits
//! clocks.rs    PURE: the next clock of every client
//! replica.rs   PURE: the document, and what becomes of an update
//! held.rs      PURE: updates that wait for others
//! resting.rs   PURE: a document kept as bytes until its tree is needed
//! register.rs  PURE: versioned registers, decided by who owns the document
//! watch.rs     which registers an update has changed
//! ```
//!
//! No clock, no I/O, no runtime. Bytes must have passed the scanner (`syncline_protocol::update`).

mod clocks;
mod crdt;
pub mod fault;
mod growth;
mod held;
mod json;
mod local;
mod register;
mod replica;
mod resting;
mod structs;
mod watch;

pub use crdt::{Crdt, CrdtError, Known};
pub use growth::{Full, GrowthLimits};
pub use held::HeldLimits;
pub use json::{JsonError, MAX_JSON_DEPTH, from_json};
pub use register::{
    Decision, MAX_REMEMBERED_WRITES, REGISTERS, RegisterState, RegisterWrite, decide, parse_ulid, ulid_text,
};
pub use replica::{Replica, Taken};
pub use resting::Resting;
pub use structs::StructStore;
