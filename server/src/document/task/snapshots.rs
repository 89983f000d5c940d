//! PURE: when a snapshot of a document is worth its cost.

use crate::document::options::Compaction;

/// The larger the last snapshot, the more records are kept before the next: it may cost each of them at most
/// this many bytes.
const SNAPSHOT_BYTES_PER_RECORD: usize = 128;

/// What the log has of a document since its last snapshot.
#[derive(Debug)]
pub(super) struct SnapshotSchedule {
    records: u64,
    bytes: usize,
    /// Size of the last snapshot.
    snapshot_bytes: usize,
}

impl SnapshotSchedule {
    /// A document that was loaded from a snapshot of `snapshot_bytes` and `records` of `bytes`.
    pub(super) fn new(records: u64, bytes: usize, snapshot_bytes: usize) -> Self {
        Self { records, bytes, snapshot_bytes }
    }

    pub(super) fn note_record(&mut self, bytes: usize) {
        self.records += 1;
        self.bytes += bytes;
    }

    /// A snapshot was made. The pending updates that were appended again with it do not count: they would trigger the next
    /// one immediately, and so on.
    pub(super) fn note_snapshot(&mut self, bytes: usize) {
        *self = Self::new(0, 0, bytes);
    }

    /// True if a snapshot is due while the document is in use.
    pub(super) fn is_due(&self, compaction: &Compaction, pending_bytes: usize) -> bool {
        let records = compaction.records.max((self.snapshot_bytes / SNAPSHOT_BYTES_PER_RECORD) as u64);
        let bytes = compaction.bytes.max(self.snapshot_bytes + pending_bytes);
        self.has_records(records, pending_bytes) || self.bytes >= bytes
    }

    /// True if a snapshot is worth making while the document is quiet, or before it leaves memory.
    pub(super) fn is_worth_it_when_idle(&self, compaction: &Compaction, pending_bytes: usize) -> bool {
        self.has_records(compaction.idle_records, pending_bytes)
    }

    /// What is pending is written again by each snapshot: the more it is, the more records are kept before the next.
    fn has_records(&self, records: u64, pending_bytes: usize) -> bool {
        self.records >= records.max((pending_bytes / SNAPSHOT_BYTES_PER_RECORD) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPACTION: Compaction = Compaction { records: 10, bytes: 1_000, idle_records: 5 };

    #[test]
    fn snapshot_is_due_after_records_or_bytes_and_later_after_a_large_one() {
        let mut snapshots = SnapshotSchedule::new(0, 0, 0);
        let note = |snapshots: &mut SnapshotSchedule, records: usize, bytes: usize| {
            (0..records).for_each(|_| snapshots.note_record(bytes));
        };
        note(&mut snapshots, 5, 1);
        assert!(snapshots.is_worth_it_when_idle(&COMPACTION, 0) && !snapshots.is_due(&COMPACTION, 0));
        assert!(!snapshots.is_worth_it_when_idle(&COMPACTION, 6 * 128), "what is pending is written again");
        note(&mut snapshots, 1, 995);
        assert!(snapshots.is_due(&COMPACTION, 0), "1,000 bytes");
        snapshots.note_snapshot(20 * 128);
        note(&mut snapshots, 19, 1);
        assert!(!snapshots.is_due(&COMPACTION, 0), "the last snapshot cost 128 bytes for each of 20 records");
        note(&mut snapshots, 1, 1);
        assert!(snapshots.is_due(&COMPACTION, 0));
    }
}
