//! PURE: the newest changes of a document, for clients that missed only a few.
//!
//! A diff carries the whole delete set, these changes do not. The buffer is bounded: a client with an older
//! position sends a state vector instead.

use std::collections::VecDeque;

use bytes::Bytes;
use syncline_protocol::ids::Seq;

/// Limit on the number of changes.
const MAX_CHANGES: usize = 512;
/// Limit on the bytes of the changes.
pub(super) const MAX_BYTES: usize = 32 * 1024;

/// The newest changes, in the order they were sent to readers.
#[derive(Debug)]
pub struct RecentChanges {
    /// Contains every change after this record.
    after: Seq,
    /// Several changes may share a sequence number: an update and the pending ones it made integrable.
    changes: VecDeque<(Seq, Bytes)>,
    bytes: usize,
}

impl RecentChanges {
    /// An empty buffer: no changes since this record.
    pub fn after(after: Seq) -> Self {
        Self { after, changes: VecDeque::new(), bytes: 0 }
    }

    /// The end of a stored history. `records` follow the record `after`, in order.
    pub fn of<'a>(after: Seq, records: impl DoubleEndedIterator<Item = (Seq, &'a Bytes)>) -> Self {
        let mut newest = Vec::new();
        let mut bytes = 0;
        let mut tail = Self::after(after);
        for (seq, update) in records.rev() {
            bytes += update.len();
            if newest.len() == MAX_CHANGES || bytes > MAX_BYTES {
                tail.after = seq;
                break;
            }
            newest.push((seq, update));
        }
        newest.into_iter().rev().for_each(|(seq, update)| tail.push(seq, update));
        tail
    }

    /// Adds a change that is being sent to readers.
    pub fn push(&mut self, seq: Seq, update: &Bytes) {
        if update.len() > MAX_BYTES {
            *self = Self::after(seq);
            return;
        }
        self.bytes += update.len();
        // Copied: a slice would keep the whole received frame in memory.
        self.changes.push_back((seq, Bytes::copy_from_slice(update)));
        while self.changes.len() > MAX_CHANGES || self.bytes > MAX_BYTES {
            self.drop_oldest();
        }
    }

    /// Bytes of the changes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The changes after `seq`; `None` if some of them are no longer here.
    pub fn since(&self, seq: Seq) -> Option<impl Iterator<Item = (Seq, &Bytes)>> {
        let first = self.changes.partition_point(|(of, _)| *of <= seq);
        (seq >= self.after).then(|| self.changes.range(first..).map(|(seq, update)| (*seq, update)))
    }

    /// Drops all changes of the oldest record: keeping some of them would leave a gap.
    fn drop_oldest(&mut self) {
        let Some(&(oldest, _)) = self.changes.front() else { return };
        while let Some((_, update)) = self.changes.pop_front_if(|(seq, _)| *seq == oldest) {
            self.bytes -= update.len();
        }
        self.after = oldest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seqs(tail: &RecentChanges, since: u64) -> Option<Vec<u64>> {
        tail.since(Seq(since)).map(|changes| changes.map(|(seq, _)| seq.0).collect())
    }

    #[test]
    fn tail_returns_all_changes_since_seq_or_none() {
        let mut tail = RecentChanges::after(Seq(5));
        assert_eq!(seqs(&tail, 5), Some(vec![]));
        assert_eq!(seqs(&tail, 4), None);
        for seq in [6, 8, 8, 9] {
            tail.push(Seq(seq), &Bytes::from_static(b"x"));
        }
        assert_eq!(seqs(&tail, 5), Some(vec![6, 8, 8, 9]));
        assert_eq!(seqs(&tail, 7), Some(vec![8, 8, 9]));
        assert_eq!(seqs(&tail, 8), Some(vec![9]));
    }

    #[test]
    fn tail_is_bounded_and_never_splits_a_record() {
        let mut tail = RecentChanges::after(Seq::ZERO);
        for seq in [1, 1, 1].into_iter().chain(2..=510) {
            tail.push(Seq(seq), &Bytes::from_static(b"x"));
        }
        assert_eq!(seqs(&tail, 0).map(|seqs| seqs.len()), Some(512));
        tail.push(Seq(511), &Bytes::from_static(b"x"));
        assert_eq!((seqs(&tail, 0), seqs(&tail, 1).map(|seqs| seqs.len())), (None, Some(510)));
        tail.push(Seq(512), &Bytes::from(vec![0; MAX_BYTES]));
        assert_eq!((seqs(&tail, 510), seqs(&tail, 511)), (None, Some(vec![512])));
        tail.push(Seq(513), &Bytes::from(vec![0; MAX_BYTES + 1]));
        assert_eq!((seqs(&tail, 512), seqs(&tail, 513)), (None, Some(vec![])));
    }

    #[test]
    fn tail_of_stored_history_keeps_its_end() {
        let records: Vec<(Seq, Bytes)> = (11..=20).map(|seq| (Seq(seq), Bytes::from(vec![0; 8 * 1024]))).collect();
        let tail = RecentChanges::of(Seq(10), records.iter().map(|(seq, update)| (*seq, update)));
        assert_eq!((seqs(&tail, 15), seqs(&tail, 16)), (None, Some(vec![17, 18, 19, 20])));
        let tail = RecentChanges::of(Seq(10), records[..2].iter().map(|(seq, update)| (*seq, update)));
        assert_eq!((seqs(&tail, 9), seqs(&tail, 10)), (None, Some(vec![11, 12])));
    }
}
