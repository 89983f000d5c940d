//! PURE: the newest changes of a document, as they were sent: a client that missed a few gets exactly those.
//!
//! A diff carries the whole delete set; a tail does not. It is bounded and may begin anywhere: who comes from before its
//! beginning sends a state vector.

use std::collections::VecDeque;

use bytes::Bytes;
use syncline_protocol::ids::Seq;

/// Most changes kept.
const MAX_CHANGES: usize = 512;
/// Most bytes of them.
pub(super) const MAX_BYTES: usize = 32 * 1024;

/// The newest changes, in the order in which readers were sent them.
#[derive(Debug)]
pub struct Tail {
    /// Everything after this record is here.
    after: Seq,
    /// Several may have one number: an update and those that had waited for it.
    changes: VecDeque<(Seq, Bytes)>,
    bytes: usize,
}

impl Tail {
    /// Nothing has changed since this record.
    pub fn after(after: Seq) -> Self {
        Self { after, changes: VecDeque::new(), bytes: 0 }
    }

    /// The end of a stored history: `records` come after `after`, in order.
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

    /// Adds what readers are sent now.
    pub fn push(&mut self, seq: Seq, update: &Bytes) {
        if update.len() > MAX_BYTES {
            *self = Self::after(seq);
            return;
        }
        self.bytes += update.len();
        // A copy: a slice would keep the whole frame it came in.
        self.changes.push_back((seq, Bytes::copy_from_slice(update)));
        while self.changes.len() > MAX_CHANGES || self.bytes > MAX_BYTES {
            self.drop_oldest();
        }
    }

    /// Bytes of the changes in it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What came after `seq`; `None`: not all of it is here.
    pub fn since(&self, seq: Seq) -> Option<impl Iterator<Item = (Seq, &Bytes)>> {
        let first = self.changes.partition_point(|(of, _)| *of <= seq);
        (seq >= self.after).then(|| self.changes.range(first..).map(|(seq, update)| (*seq, update)))
    }

    /// Drops the oldest record's changes, all of them: half of them would be a hole.
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

    fn seqs(tail: &Tail, since: u64) -> Option<Vec<u64>> {
        tail.since(Seq(since)).map(|changes| changes.map(|(seq, _)| seq.0).collect())
    }

    #[test]
    fn it_tells_what_came_after_or_nothing() {
        let mut tail = Tail::after(Seq(5));
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
    fn it_is_bounded_in_number_and_in_bytes_and_never_keeps_half_of_a_record() {
        let mut tail = Tail::after(Seq::ZERO);
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
    fn of_a_stored_history_the_newest_part_is_kept() {
        let records: Vec<(Seq, Bytes)> = (11..=20).map(|seq| (Seq(seq), Bytes::from(vec![0; 8 * 1024]))).collect();
        let tail = Tail::of(Seq(10), records.iter().map(|(seq, update)| (*seq, update)));
        assert_eq!((seqs(&tail, 15), seqs(&tail, 16)), (None, Some(vec![17, 18, 19, 20])));
        let tail = Tail::of(Seq(10), records[..2].iter().map(|(seq, update)| (*seq, update)));
        assert_eq!((seqs(&tail, 9), seqs(&tail, 10)), (None, Some(vec![11, 12])));
    }
}
