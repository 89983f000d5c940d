//! What operators' commands ask of a running server, over the admin socket.
//!
//! ```text
//! backups.rs    takes a backup and streams its progress
//! documents.rs  exports and imports one document
//! import.rs     imports an update into an open document as a client would
//! ```
//!
//! A store has one owner, so a running server does the work. `admin/client.rs` sends the requests.

pub(crate) mod backups;
pub(crate) mod documents;
mod import;

use std::sync::Arc;

use syncline_log::Log;
use tokio::sync::Mutex;

use crate::registry::Registry;

/// The parts of the server that operators' requests use.
pub(crate) struct Operator {
    /// Documents are read from it.
    log: Log,
    /// Updates are imported through it.
    registry: Arc<Registry>,
    /// Held while a backup is taken: one at a time.
    backup: Arc<Mutex<()>>,
}

impl Operator {
    /// Requests read from `log` and write through `registry`.
    pub(crate) fn new(log: Log, registry: Arc<Registry>) -> Self {
        Self { log, registry, backup: Arc::default() }
    }
}
