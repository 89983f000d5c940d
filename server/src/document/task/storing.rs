//! Replacing a document's records by a snapshot, and waiting for the disk.

use syncline_log::store::Snapshot;

use super::Task;
use crate::document::block_in_place::block_in_place_if;

impl Task {
    /// Replaces the records by one snapshot. It follows them through the same channel to the log, so it
    /// covers exactly those before it.
    pub(super) async fn compact(&mut self) {
        if self.storage_failed {
            return;
        }
        let (upto, update) = block_in_place_if(self.core.is_large(), || self.core.snapshot(&mut self.effects));
        // Pending updates must be in the log again before the snapshot removes their first copy.
        self.execute().await;
        // Reset after that: the pending updates would otherwise trigger the next snapshot immediately, and so
        // on.
        self.records_since_snapshot = 0;
        self.bytes_since_snapshot = 0;
        self.snapshot_bytes = update.len();
        self.metrics.compactions.inc();
        self.log.compact(Snapshot { upto, update }).await;
    }

    /// Waits until everything sent to the log is on disk, or storage has failed.
    pub(super) async fn settle(&mut self) {
        self.update_durable().await;
        while !self.core.is_settled() {
            self.log.durable_changed().await;
            self.update_durable().await;
        }
    }
}
