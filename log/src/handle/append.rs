//! Sends records and snapshots from a document's task to the log's thread, with backpressure.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{Command, Document, DocumentLog, MAX_QUEUED_BYTES};
use crate::store::{Record, Snapshot};

/// Counted for each record in addition to its update.
const RECORD_OVERHEAD_BYTES: usize = 64;

impl DocumentLog {
    /// Appends consecutive records, the first of which follows the last one appended. Waits while the queue is full.
    /// [`DocumentLog::durable`] reports the outcome. Dropping the future before it completes appends nothing.
    ///
    /// Panics when the sequence numbers are not consecutive: the caller's state cannot be trusted then.
    pub async fn append(&self, records: Vec<Record>) {
        let Some((slot, permit)) = self.reserve(queued_bytes(&records)).await else { return };
        self.send_records(slot, records, permit);
    }

    fn send_records(&self, slot: mpsc::Permit<'_, Command>, records: Vec<Record>, permit: OwnedSemaphorePermit) {
        let Some(last) = records.last().map(|record| record.seq) else { return };
        let before = self.last.load(Ordering::Relaxed);
        for (expected, record) in (before + 1..).zip(&records) {
            assert_eq!(record.seq.0, expected, "record out of order in document {:?}", self.document.name);
        }
        self.last.store(last.0, Ordering::Relaxed);
        self.send(slot, Command::Append { document: self.document(), epoch: self.epoch, records, permit });
    }

    /// [`DocumentLog::append`] without waiting. Returns the records as the error when the queue is full.
    ///
    /// Panics like [`DocumentLog::append`].
    pub fn try_append(&self, records: Vec<Record>) -> Result<(), Vec<Record>> {
        let permits = queued_bytes(&records).min(MAX_QUEUED_BYTES) as u32;
        let Ok(permit) = Arc::clone(&self.byte_budget).try_acquire_many_owned(permits) else { return Err(records) };
        let Ok(slot) = self.commands.try_reserve() else { return Err(records) };
        self.send_records(slot, records, permit);
        Ok(())
    }

    /// Queues a snapshot of records that were appended before. Waits while the queue is full. No outcome is reported,
    /// because a compaction does not affect acknowledgements.
    ///
    /// Panics when the snapshot contains records that were not appended.
    pub async fn compact(&self, snapshot: Snapshot) {
        let last = self.last.load(Ordering::Relaxed);
        assert!(
            snapshot.upto.0 <= last,
            "snapshot contains records that were not appended to document {:?}",
            self.document.name
        );
        let Some((slot, permit)) = self.reserve(snapshot.update.len()).await else { return };
        self.send(slot, Command::Compact { document: self.document(), snapshot, permit });
    }

    /// Waits for space in the queue. `None`: the log is closed, and the document is marked as failed.
    async fn reserve(&self, bytes: usize) -> Option<(mpsc::Permit<'_, Command>, OwnedSemaphorePermit)> {
        let permits = bytes.min(MAX_QUEUED_BYTES) as u32;
        let permit = Arc::clone(&self.byte_budget).acquire_many_owned(permits).await.ok();
        let slot = self.commands.reserve().await.ok();
        if slot.is_none() {
            self.document.fail();
        }
        slot.zip(permit)
    }

    fn send(&self, slot: mpsc::Permit<'_, Command>, command: Command) {
        self.document.queued.fetch_add(1, Ordering::Relaxed);
        slot.send(command);
    }

    fn document(&self) -> Arc<Document> {
        Arc::clone(&self.document)
    }
}

/// How much of [`MAX_QUEUED_BYTES`] the records use.
fn queued_bytes(records: &[Record]) -> usize {
    records.iter().map(|record| record.update.len() + RECORD_OVERHEAD_BYTES).sum()
}
