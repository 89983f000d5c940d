//! A document's records replaced by a snapshot, and the wait for the disk.

use syncline_log::store::Snapshot;

use super::Task;
use crate::document::apart::apart_if;

impl Task {
    /// Replaces the records by one snapshot. It follows them down the same channel, so it covers what it should.
    pub(super) async fn compact(&mut self) {
        if self.storage_failed {
            return;
        }
        let (upto, update) = apart_if(self.core.is_large(), || self.core.snapshot(&mut self.effects));
        // What waits goes into the log again before the snapshot takes its first copy away.
        self.execute().await;
        // Reset after that: what waits would call for the next snapshot at once, and for ever.
        self.records_since_snapshot = 0;
        self.bytes_since_snapshot = 0;
        self.snapshot_bytes = update.len();
        self.metrics.compactions.inc();
        self.log.compact(Snapshot { upto, update }).await;
    }

    /// Waits until all that was sent to the log is on disk, or never will be.
    pub(super) async fn settle(&mut self) {
        self.take_durable().await;
        while !self.core.is_settled() {
            self.log.durable_changed().await;
            self.take_durable().await;
        }
    }
}
