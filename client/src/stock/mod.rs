//! One document over a stock dialect (y-websocket, Hocuspocus), in memory only: for other servers, for load, for
//! comparing. What must survive its process is a [`crate::device::Device`]'s.
//!
//! ```text
//! session   the state machine of one document over one connection; pure, no clock, no I/O
//! wire      the two dialects behind one set of messages
//! acks      which local edits the server has said are on its disk
//! presence  awareness: our own state, and everyone else's as raw JSON
//! driver    Tokio around a session: sockets, reconnecting, the [`driver::Client`] handle
//! ```

mod acks;
pub mod driver;
mod presence;
pub mod session;
mod wire;
