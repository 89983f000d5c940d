//! Sends records and snapshots from a document's task to the log's thread.

use std::sync::atomic::Ordering;

use super::DocumentLog;
use crate::queue::Command;
use crate::store::{Record, Snapshot};

impl DocumentLog {
    /// Queues consecutive records, the first of which follows the last one appended. [`DocumentLog::durable`] reports
    /// the outcome. Never waits: ask [`DocumentLog::has_room`] before the next event is processed.
    ///
    /// Panics when the sequence numbers are not consecutive: the caller's state cannot be trusted then.
    pub fn append(&mut self, records: Vec<Record>) {
        let Some(last) = records.last().map(|record| record.seq) else { return };
        for (expected, record) in (self.last.0 + 1..).zip(&records) {
            assert_eq!(record.seq.0, expected, "record out of order in document {:?}", self.document.name);
        }
        self.last = last;
        self.push(Command::Append { epoch: self.epoch, records });
    }

    /// Queues a snapshot of records that were appended before. Never waits. No outcome is reported, because a
    /// compaction does not affect acknowledgements.
    ///
    /// Panics when the snapshot contains records that were not appended.
    pub fn compact(&mut self, snapshot: Snapshot) {
        assert!(
            snapshot.upto <= self.last,
            "snapshot contains records that were not appended to document {:?}",
            self.document.name
        );
        self.push(Command::Compact { snapshot });
    }

    /// Whether the document may process its next event. False while it has queued more than its share: then
    /// [`DocumentLog::changed`] returns when there is room again.
    pub fn has_room(&mut self) -> bool {
        let has_room = self.commands.has_room(&self.document);
        self.waits_for_room = !has_room;
        has_room
    }

    /// Waits until [`DocumentLog::has_room`]. For callers that do not need [`DocumentLog::changed`].
    pub async fn room(&mut self) {
        while !self.has_room() {
            self.changed().await;
        }
    }

    /// If the log is closed, the document is marked as failed.
    fn push(&self, command: Command) {
        self.document.queued.fetch_add(1, Ordering::Relaxed);
        if self.commands.push(&self.document, command).is_err() {
            self.document.dropped(1);
        }
    }
}
