//! The Syncline client: documents that are edited offline, stored on the device first, and synced when there is a network.
//!
//! ```text
//! device     what an app opens: the device's store, its one socket, its documents
//! document   one document: the queue of what is not saved, the state machine of its sync
//! handles    what lies in a document, by name: texts, maps, lists, counters, choices, registers
//! types      the data types under them, pure
//! blocking   devices, documents and handles for programs without a runtime
//! stock      one document in memory over a stock dialect: other servers, load, comparisons
//! backoff    when to come back; pure, given a random number
//! socket     the WebSocket under both
//! ```
//!
//! Architecture invariants: state machines (`document::core`, `stock::session`) name neither Tokio nor a clock nor a
//! random source. One task owns a device's documents and its socket; handles only send it commands.

#![deny(missing_docs)]

pub mod backoff;
pub mod blocking;
pub mod device;
pub mod document;
pub mod handles;
mod socket;
pub mod stock;
pub mod types;

pub use device::{Device, DeviceConfig, DeviceError, Traffic, WallClock};
pub use document::{
    Document, DocumentStatus, EditError, Entry, EntryKind, EntryState, Event, Events, Export, SyncReport, SyncState,
};
pub use stock::driver::{Client, ClientConfig, ClientError, Connection, Status};
pub use stock::session;
pub use syncline_protocol::detect::Dialect;
pub use ulid::Ulid;
pub use yrs;
