//! The admin socket, over which commands reach a running server.
//!
//! ```text
//! socket.rs   DATA/admin.sock: created so that only its owner can ever connect
//! client.rs   the client, used by commands
//! ```
//!
//! Nothing here listens on a network: the socket can be used only by users who may read the data directory's files,
//! enforced by the system (mode 0600) and again by user id. Its routes are in `http/routes.rs`.

mod client;
mod socket;

pub use client::Running;
pub use socket::{AdminSocket, SOCKET_FILE};
