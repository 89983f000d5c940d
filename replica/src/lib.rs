//! A Yjs document, in the two forms in which Syncline keeps one: as a hub does, and as whoever edits it does.
//!
//! ```text
//! structs/     PURE: encoded structs and deletions, without integration: the struct store
//! hub/         PURE: a document as a hub keeps it: the struct store, what waits, registers
//! replica.rs   PURE: a document with its tree, as an editor keeps it
//! pending_updates.rs      PURE: updates that wait for others, beside a tree
//! yrs_input.rs    PURE: updates as yrs can take them
//! crdt.rs      the yrs document, its traps contained
//! clocks.rs    PURE: the next clock of every client, beside a tree
//! known.rs     PURE: a state vector on its own
//! local_edits.rs     changes made here: the client's edits
//! json/        PURE: a document as JSON and back
//! register.rs  PURE: versioned registers, decided by who owns the document
//! register_watch.rs     which registers an update has changed, in a tree
//! ```
//!
//! No clock, no I/O, no runtime. Bytes must have passed the scanner (`syncline_protocol::update`).

mod clocks;
mod crdt;
mod hub;
mod json;
mod known;
mod local_edits;
mod pending_updates;
mod register;
mod register_watch;
mod replica;
mod structs;
mod yrs_input;

pub use crdt::{Crdt, CrdtError};
pub use hub::{Entered, Full, HubDocument, HubLimits, Refused};
pub use json::{JsonError, MAX_JSON_DEPTH, from_json, to_json};
pub use known::Known;
pub use pending_updates::HeldLimits;
pub use register::{
    Decision, MAX_REMEMBERED_WRITES, REGISTERS, RegisterState, RegisterWrite, decide, parse_ulid, ulid_text,
};
pub use replica::{Replica, Taken};
pub use structs::{Pieces, StructStore, Superseded};
