//! A Yjs document in the two forms that Syncline uses: an encoded struct store for a hub, and a CRDT tree for a client
//! that edits.
//!
//! ```text
//! structs/            PURE: the struct store: encoded structs and deletions, without integration
//! hub/                PURE: a document in a hub: struct store, pending updates, registers
//! replica.rs          PURE: a document with its tree, in a client
//! pending_updates.rs  PURE: pending updates of a `Replica`
//! yrs_input.rs        PURE: rewrites updates so that yrs can apply them
//! crdt.rs             the yrs document, with panics caught and known faults avoided
//! clocks.rs           PURE: the next clock of every client of a `Replica`
//! known.rs            PURE: a state vector on its own
//! local_edits.rs      local edits of a `Replica`
//! json/               PURE: export to JSON and import from it
//! register.rs         PURE: versioned registers and the decision on their writes
//! register_watch.rs   which registers of a `Replica` were changed
//! ```
//!
//! No clock, no I/O, no runtime. Input must have passed the scanner (`syncline_protocol::update`).

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
pub use hub::{Full, HubDocument, HubLimits, Refused, Released, Source, WeighOutcome, Weighed};
pub use json::{JsonError, MAX_JSON_DEPTH, from_json, to_json};
pub use known::Known;
pub use pending_updates::PendingLimits;
pub use register::{
    Decision, MAX_REMEMBERED_WRITES, REGISTERS, RegisterState, RegisterWrite, decide, parse_ulid, ulid_text,
};
pub use replica::{Replica, UpdateOutcome};
pub use structs::{Pieces, StructStore, Superseded};
