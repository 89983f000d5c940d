//! One document over a stock dialect (y-websocket, Hocuspocus), in memory only: for other servers, load tests and
//! comparisons. Edits are lost with the process; use a [`crate::device::Device`] to keep them.
//!
//! ```text
//! session   the state machine of one document over one connection; pure, no clock, no I/O
//! wire      the two dialects behind one set of messages
//! acks      which local edits the server has acknowledged as saved
//! presence  awareness: our own state, and the states of others as raw JSON
//! driver    runs a session on Tokio: socket, reconnecting, the [`driver::Client`] handle
//! ```

mod acks;
pub mod driver;
mod presence;
pub mod session;
mod wire;
