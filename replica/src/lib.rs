//! A CRDT document that survives its inputs: shared by the server, which relays it, and the client, which edits it.
//!
//! ```text
//! crdt.rs      the yrs document, its traps contained
//! local.rs     changes made here: the client's edits
//! replica.rs   PURE: the document and the updates that wait for others
//! ```
//!
//! No clock, no I/O, no runtime. Bytes must have passed the scanner (`syncline_protocol::update`).

mod crdt;
mod local;
mod replica;

pub use crdt::{Crdt, CrdtError, Known};
pub use replica::{HeldLimits, Replica, Taken};
