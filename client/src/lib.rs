//! The Syncline client: documents that can be edited offline. Every edit is stored on the device first and synced when
//! there is a network.
//!
//! Start with [`Device::open`] and [`Device::document`]; a [`Document`] has handles for each shared type
//! ([`Document::text_at`], [`Document::map`], [`Document::counter`], ...).
//!
//! ```text
//! device     what an app opens: the device's store, its one connection, its documents
//! document   one document: the queue of unsaved edits, the state machine of its sync
//! handles    handles to shared types by name: texts, maps, lists, counters, choices, registers
//! types      the data types behind the handles, as pure functions
//! blocking   devices, documents and handles for programs without an async runtime
//! stock      one in-memory document over a stock dialect: for other servers, load tests, comparisons
//! backoff    reconnect delays; pure, the caller passes a random number in
//! socket     the WebSocket used by `device` and `stock`
//! ```
//!
//! Architecture invariants: the state machines (`document::core`, `stock::session`) do not depend on Tokio, a clock or
//! a random source. One task owns a device's documents and its socket; handles only send it commands.

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
