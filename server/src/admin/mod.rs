//! Requests of operators' commands to a running server, over a Unix socket in the data directory.
//!
//! ```text
//! message.rs  requests and answers: lines of JSON, followed by a file's bytes
//! socket.rs   DATA/admin.sock: created so that only its owner can ever connect
//! serve.rs    accepts connections and carries out requests
//! import.rs   imports an update into an open document as a client would
//! client.rs   the client, used by commands
//! ```
//!
//! A store has one owner, so a running server does the work. Nothing here listens on a network: the socket can
//! be used only by users who may read the data directory's files, enforced by the system (mode 0600) and again
//! by user id.

pub mod client;
mod import;
pub mod message;
mod serve;
mod socket;

pub use serve::{Admin, run};
pub use socket::{AdminSocket, SOCKET_FILE};
