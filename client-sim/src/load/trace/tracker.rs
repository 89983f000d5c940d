//! Tracks which edits have arrived at a reader, by the content of the received updates and never by counting frames: a
//! server may merge updates, repeat them, or answer a slow reader with one diff.
//!
//! An edit has arrived when everything that it inserts and deletes has arrived. Most servers relay updates unchanged, so the
//! bytes are first compared with the next expected edit, and only other updates are decoded.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result};
use yrs::Update;
use yrs::updates::decoder::Decode;

use super::plan::Plan;

/// The updates that a reader received, in order: cheap to keep, and enough to rebuild its document.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ReceivedLog {
    entries: Vec<ReceivedUpdate>,
}

#[derive(Debug, PartialEq, Eq)]
enum ReceivedUpdate {
    /// The unchanged update of this edit.
    Edit(u32),
    /// Any other update.
    Other(Box<[u8]>),
}

impl ReceivedLog {
    /// The updates in order of arrival.
    pub(super) fn updates<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = &'a [u8]> {
        self.entries.iter().map(|entry| match entry {
            ReceivedUpdate::Edit(index) => &plan.edits[*index as usize].update[..],
            ReceivedUpdate::Other(bytes) => bytes,
        })
    }
}

/// The progress of one reader.
pub(super) struct Tracker {
    plan: Arc<Plan>,
    /// Every update received.
    pub log: ReceivedLog,
    /// Number of edits that have arrived.
    pub arrived_count: usize,
    arrived: Bits,
    /// Every edit below this one has arrived.
    prefix: u32,
    /// Inserted clocks that have arrived.
    inserted: Bits,
    /// Deleted clocks that have arrived.
    deleted: Bits,
}

impl Tracker {
    /// Creates a tracker to which nothing has arrived.
    pub(super) fn new(plan: Arc<Plan>) -> Self {
        let (inserted, deleted) = (Bits::default(), Bits::default());
        Self {
            plan,
            log: ReceivedLog::default(),
            arrived_count: 0,
            arrived: Bits::default(),
            prefix: 0,
            inserted,
            deleted,
        }
    }

    /// Records a received update and appends the edits that have arrived with it to `new_edits`.
    pub(super) fn apply(&mut self, update: &[u8], new_edits: &mut Vec<u32>) -> Result<()> {
        let plan = Arc::clone(&self.plan);
        match plan.edits.get(self.prefix as usize) {
            Some(edit) if edit.update == update => {
                self.log.entries.push(ReceivedUpdate::Edit(self.prefix));
                self.mark(&plan, &edit.inserts, &edit.deletes, new_edits);
            }
            _ => {
                self.log.entries.push(ReceivedUpdate::Other(update.into()));
                let update = Update::decode_v1(update).context("the server sent an update that cannot be decoded")?;
                let (inserts, deletes) = (plan.clocks(&update.insertions(true)), plan.clocks(update.delete_set()));
                self.mark(&plan, &inserts, &deletes, new_edits);
            }
        }
        while self.arrived.all(self.prefix..self.prefix + 1) {
            self.prefix += 1;
        }
        Ok(())
    }

    /// Every edit below this one has arrived.
    pub(super) fn prefix(&self) -> u32 {
        self.prefix
    }

    fn mark(&mut self, plan: &Plan, inserts: &[Range<u32>], deletes: &[Range<u32>], new_edits: &mut Vec<u32>) {
        for clocks in inserts {
            self.inserted.set(clocks.clone());
        }
        for clocks in deletes {
            self.deleted.set(clocks.clone());
        }
        let touched = inserts.iter().flat_map(|clocks| plan.inserting(clocks));
        let touched = touched.chain(deletes.iter().flat_map(|clocks| plan.deleting(clocks)));
        let mut last = None;
        for index in touched {
            // A long deletion yields its edit once per character.
            if last == Some(index) || self.arrived.all(index..index + 1) || !self.is_complete(plan, index) {
                last = Some(index);
                continue;
            }
            last = Some(index);
            self.arrived.set(index..index + 1);
            self.arrived_count += 1;
            new_edits.push(index);
        }
    }

    fn is_complete(&self, plan: &Plan, index: u32) -> bool {
        let edit = &plan.edits[index as usize];
        edit.inserts.iter().all(|clocks| self.inserted.all(clocks.clone()))
            && edit.deletes.iter().all(|clocks| self.deleted.all(clocks.clone()))
    }
}

/// A bit set that grows as needed.
#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn set(&mut self, range: Range<u32>) {
        let words = range.end.div_ceil(64) as usize;
        if self.0.len() < words {
            self.0.resize(words, 0);
        }
        for bit in range {
            self.0[bit as usize / 64] |= 1 << (bit % 64);
        }
    }

    fn all(&self, mut range: Range<u32>) -> bool {
        range.all(|bit| self.0.get(bit as usize / 64).is_some_and(|word| word & (1 << (bit % 64)) != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::{Patch, Trace, Transaction};
    use super::super::plan::text_of;
    use super::*;

    fn plan() -> Arc<Plan> {
        let edits = [(0, 0, "hello"), (1, 3, ""), (2, 0, "y"), (0, 1, "j"), (0, 1, "")];
        let transactions = edits.map(|(at, del, ins)| Transaction { patches: vec![Patch(at, del, ins.into())] });
        let trace = Trace { transactions: transactions.to_vec(), end: "oy".into() };
        Arc::new(Plan::new(&trace, 1).unwrap())
    }

    #[test]
    fn unchanged_updates_in_order_arrive_one_by_one() {
        let plan = plan();
        let mut tracker = Tracker::new(Arc::clone(&plan));
        let mut new_edits = Vec::new();
        for edit in &plan.edits {
            tracker.apply(&edit.update, &mut new_edits).unwrap();
        }
        assert_eq!(new_edits, [0, 1, 2, 3, 4]);
        assert_eq!(text_of(tracker.log.updates(&plan)).unwrap(), "oy");
    }

    #[test]
    fn merged_update_delivers_all_its_edits_and_repeat_delivers_none() {
        let plan = plan();
        let mut tracker = Tracker::new(Arc::clone(&plan));
        let merged = yrs::merge_updates_v1(plan.edits[..4].iter().map(|edit| &edit.update[..])).unwrap();
        let mut new_edits = Vec::new();
        tracker.apply(&merged, &mut new_edits).unwrap();
        new_edits.sort_unstable();
        assert_eq!((&new_edits[..], tracker.prefix()), (&[0, 1, 2, 3][..], 4));
        tracker.apply(&merged, &mut new_edits).unwrap();
        assert_eq!((new_edits.len(), tracker.arrived_count), (4, 4));
    }

    #[test]
    fn lost_deletion_is_noticed_although_state_vector_is_complete() {
        let plan = plan();
        let mut tracker = Tracker::new(Arc::clone(&plan));
        let mut new_edits = Vec::new();
        for edit in [0, 2, 3, 4] {
            tracker.apply(&plan.edits[edit].update, &mut new_edits).unwrap();
        }
        assert_eq!((new_edits, tracker.prefix()), (vec![0, 2, 3, 4], 1));
        assert_ne!(text_of(tracker.log.updates(&plan)).unwrap(), plan.end);
    }
}
