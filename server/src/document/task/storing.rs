//! Requesting a snapshot from the core, and waiting for the disk.

use super::Task;
use crate::document::event::Event;

impl Task {
    /// Replaces the records by one snapshot.
    pub(super) fn compact(&mut self) {
        self.handle(Event::Compact);
        self.execute();
    }

    /// Waits until everything sent to the log is on disk, or storage has failed.
    pub(super) async fn settle(&mut self) {
        self.update_durable();
        while !self.core.is_settled() {
            self.log.changed().await;
            self.update_durable();
        }
    }
}
