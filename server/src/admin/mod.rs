//! What an operator's command asks of a running server, over a Unix socket in the data directory.
//!
//! ```text
//! message.rs  the requests and answers: lines of JSON, with a file's bytes behind
//! socket.rs   DATA/admin.sock: made so that nobody but its owner can ever reach it
//! serve.rs    accepting, and doing what is asked
//! import.rs   an update enters a document like a client's, and is answered when it is on disk
//! client.rs   the command's end
//! ```
//!
//! The store has one owner, so the server does the work. Nothing here listens on a network: who may use the socket is who
//! may read the data directory's files, checked by the system (mode 0600) and once more by user id.

pub mod client;
mod import;
pub mod message;
mod serve;
mod socket;

pub use serve::{Admin, run};
pub use socket::{AdminSocket, SOCKET_FILE};
