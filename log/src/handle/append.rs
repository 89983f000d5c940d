//! Handing in: what a document's task gives the log's thread, and the wait for room.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{Command, Document, DocumentLog, MAX_QUEUED_BYTES};
use crate::store::{Record, Snapshot};

/// What a record takes beside its update.
const RECORD_OVERHEAD_BYTES: usize = 64;

impl DocumentLog {
    /// Hands in records, consecutive and beginning one after the last. Waits while the queue is full. The outcome
    /// comes by [`DocumentLog::durable`]; a dropped future hands in nothing.
    ///
    /// Panics when the numbers do not follow: the caller's state is then not to be trusted.
    pub async fn append(&self, records: Vec<Record>) {
        let Some((slot, room)) = self.enter(room_for(&records)).await else { return };
        self.hand_in(slot, records, room);
    }

    fn hand_in(&self, slot: mpsc::Permit<'_, Command>, records: Vec<Record>, room: OwnedSemaphorePermit) {
        let Some(last) = records.last().map(|record| record.seq) else { return };
        let before = self.last.load(Ordering::Relaxed);
        for (expected, record) in (before + 1..).zip(&records) {
            assert_eq!(record.seq.0, expected, "record out of order in document {:?}", self.document.name);
        }
        self.last.store(last.0, Ordering::Relaxed);
        self.send(slot, Command::Append { document: self.document(), epoch: self.epoch, records, room });
    }

    /// [`DocumentLog::append`] where nothing has to be waited for. Gives the records back when something has.
    ///
    /// Panics as it does.
    pub fn try_append(&self, records: Vec<Record>) -> Result<(), Vec<Record>> {
        let permits = room_for(&records).min(MAX_QUEUED_BYTES) as u32;
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(permits) else { return Err(records) };
        let Ok(slot) = self.commands.try_reserve() else { return Err(records) };
        self.hand_in(slot, records, room);
        Ok(())
    }

    /// Hands in a snapshot of records that were handed in before. Waits while the queue is full. It changes nothing
    /// that is acknowledged, so there is nothing to wait for.
    ///
    /// Panics when the snapshot is of records that were not handed in.
    pub async fn compact(&self, snapshot: Snapshot) {
        let last = self.last.load(Ordering::Relaxed);
        assert!(
            snapshot.upto.0 <= last,
            "snapshot of records that are not logged in document {:?}",
            self.document.name
        );
        let Some((slot, room)) = self.enter(snapshot.update.len()).await else { return };
        self.send(slot, Command::Compact { document: self.document(), snapshot, room });
    }

    /// Waits for room. `None`: the log is closed, and the document knows it.
    async fn enter(&self, bytes: usize) -> Option<(mpsc::Permit<'_, Command>, OwnedSemaphorePermit)> {
        let permits = bytes.min(MAX_QUEUED_BYTES) as u32;
        let room = Arc::clone(&self.room).acquire_many_owned(permits).await.ok();
        let slot = self.commands.reserve().await.ok();
        if slot.is_none() {
            self.document.fail();
        }
        slot.zip(room)
    }

    fn send(&self, slot: mpsc::Permit<'_, Command>, command: Command) {
        self.document.queued.fetch_add(1, Ordering::Relaxed);
        slot.send(command);
    }

    fn document(&self) -> Arc<Document> {
        Arc::clone(&self.document)
    }
}

/// What records take of [`MAX_QUEUED_BYTES`].
fn room_for(records: &[Record]) -> usize {
    records.iter().map(|record| record.update.len() + RECORD_OVERHEAD_BYTES).sum()
}
