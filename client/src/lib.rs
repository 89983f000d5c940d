//! The Syncline client: one document kept in step with a server, offline or not, and honest about what is saved.
//!
//! ```text
//! session   the state machine of one document over one connection; pure, no clock, no I/O
//! wire      the two dialects behind one set of messages
//! acks      which local edits the server has said are on its disk
//! presence  awareness: our own state, and everyone else's as raw JSON
//! backoff   when to come back; pure, given a random number
//! driver    Tokio around a session: sockets, reconnecting, the [`Client`] handle
//! ```
//!
//! Architecture invariants: `session` and what it uses name neither Tokio nor a clock nor a random source. One task
//! owns a session; a [`Client`] only sends it commands and watches its [`Status`].

mod acks;
pub mod backoff;
pub mod driver;
mod presence;
pub mod session;
pub mod types;
mod wire;

pub use driver::{Client, ClientConfig, ClientError, Connection, Status};
pub use syncline_protocol::detect::Dialect;
pub use yrs;
