//! PURE: when a snapshot of a document is worth its cost.

use crate::document::options::Compaction;

/// The larger the last snapshot, the more records are kept before the next: it may cost each of them at most
/// this many bytes.
const SNAPSHOT_BYTES_PER_RECORD: usize = 128;

/// What is pending, which each snapshot writes again, in records of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct PendingSize {
    pub(super) records: usize,
    pub(super) bytes: usize,
}

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
    pub(super) fn is_due(&self, compaction: &Compaction, pending: PendingSize) -> bool {
        let records = compaction.records.max((self.snapshot_bytes / SNAPSHOT_BYTES_PER_RECORD) as u64);
        let bytes = compaction.bytes.max(self.snapshot_bytes + pending.bytes);
        self.has_records(records, pending) || self.bytes >= bytes
    }

    /// True if a snapshot is worth making while the document is quiet, or before it leaves memory.
    pub(super) fn is_worth_it_when_idle(&self, compaction: &Compaction, pending: PendingSize) -> bool {
        self.has_records(compaction.idle_records, pending)
    }

    /// The more is pending, the more records are kept before the next snapshot.
    fn has_records(&self, records: u64, pending: PendingSize) -> bool {
        let pending = pending.records.max(pending.bytes / SNAPSHOT_BYTES_PER_RECORD);
        self.records >= records.max(pending as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPACTION: Compaction = Compaction { records: 10, bytes: 1_000, idle_records: 5 };

    const NOTHING: PendingSize = PendingSize { records: 0, bytes: 0 };

    #[test]
    fn snapshot_is_due_after_records_or_bytes_and_later_after_a_large_one() {
        let mut snapshots = SnapshotSchedule::new(0, 0, 0);
        let note = |snapshots: &mut SnapshotSchedule, records: usize, bytes: usize| {
            (0..records).for_each(|_| snapshots.note_record(bytes));
        };
        note(&mut snapshots, 5, 1);
        assert!(snapshots.is_worth_it_when_idle(&COMPACTION, NOTHING) && !snapshots.is_due(&COMPACTION, NOTHING));
        assert!(
            !snapshots.is_worth_it_when_idle(&COMPACTION, PendingSize { records: 1, bytes: 6 * 128 }),
            "what is pending is written again"
        );
        assert!(
            !snapshots.is_worth_it_when_idle(&COMPACTION, PendingSize { records: 6, bytes: 6 }),
            "in records of its own"
        );
        note(&mut snapshots, 1, 995);
        assert!(snapshots.is_due(&COMPACTION, NOTHING), "1,000 bytes");
        snapshots.note_snapshot(20 * 128);
        note(&mut snapshots, 19, 1);
        assert!(!snapshots.is_due(&COMPACTION, NOTHING), "the last snapshot cost 128 bytes for each of 20 records");
        note(&mut snapshots, 1, 1);
        assert!(snapshots.is_due(&COMPACTION, NOTHING));
    }
}
