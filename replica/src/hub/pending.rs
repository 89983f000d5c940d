//! PURE: the pending updates of a hub document: updates with missing dependencies, kept until the dependencies arrive.
//!
//! Each update is indexed by one of its dependencies: a client and the clock that the document must reach. When it has
//! reached that clock, the update is indexed by its next dependency, until there is none. So releasing many updates costs
//! about as much as applying them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::Bytes;
use syncline_protocol::update::{ScanLimits, StateClock, needs, update_ranges, verdict};

use super::weighing::has_missing_dependencies;
use crate::structs::StructStore;

/// Approximate memory that the tables take for one update, besides the update and its needs.
const PENDING_BYTES: usize = 256;

/// Counts pending updates in order of arrival.
type ArrivalNumber = u64;

/// One pending update.
#[derive(Debug)]
pub(super) struct PendingUpdate {
    update: Bytes,
    /// Clients and the clocks that the document must reach. Reached ones are removed from the end.
    needs: Vec<(u64, u64)>,
    /// Approximate memory use.
    memory_bytes: usize,
}

impl PendingUpdate {
    pub(super) fn update(&self) -> &Bytes {
        &self.update
    }
}

/// The pending updates of one document.
#[derive(Debug, Default)]
pub(super) struct Pending {
    entries: BTreeMap<ArrivalNumber, PendingUpdate>,
    /// The same updates, to recognise duplicates.
    updates: HashSet<Bytes>,
    /// Client, clock, and the update that needs them.
    by_need: BTreeSet<(u64, u64, ArrivalNumber)>,
    /// Updates whose dependencies have arrived.
    ready: BTreeSet<ArrivalNumber>,
    /// Total size of the updates.
    update_bytes: usize,
    /// Approximate memory use of all pending updates.
    memory_bytes: usize,
    next: ArrivalNumber,
    /// Applied updates that the readers have not received yet.
    released: Vec<Bytes>,
}

impl Pending {
    /// True when this update is pending.
    pub(super) fn contains(&self, update: &Bytes) -> bool {
        self.updates.contains(update)
    }

    /// Total size of the pending updates.
    pub(super) fn update_bytes(&self) -> usize {
        self.update_bytes
    }

    /// Keeps an update with missing dependencies, which is not pending yet.
    pub(super) fn add(&mut self, update: &Bytes, structs: &StructStore) {
        debug_assert!(!self.contains(update), "it was weighed before an update that was entered since");
        // A copy, because a slice would keep the whole received frame in memory.
        let update = Bytes::copy_from_slice(update);
        let needs = needs(&update, structs).unwrap_or_default();
        self.update_bytes += update.len();
        let memory_bytes = update.len() + size_of_val(&needs[..]) + PENDING_BYTES;
        self.memory_bytes += memory_bytes;
        self.updates.insert(update.clone());
        self.entries.insert(self.next, PendingUpdate { update, needs, memory_bytes });
        self.index_by_next_need(self.next, structs);
        self.next += 1;
    }

    /// Indexes an update by the next of its needs that is not met.
    fn index_by_next_need(&mut self, number: ArrivalNumber, structs: &StructStore) {
        let Some(pending) = self.entries.get_mut(&number) else { return };
        while pending.needs.pop_if(|(client, clock)| structs.clock(*client) >= *clock).is_some() {}
        match pending.needs.last() {
            Some(&(client, clock)) => _ = self.by_need.insert((client, clock, number)),
            None => _ = self.ready.insert(number),
        }
    }

    /// Re-indexes the updates whose needs were met by `update`, which was applied to `structs`.
    pub(super) fn advance(&mut self, update: &[u8], structs: &StructStore) {
        if self.by_need.is_empty() {
            return;
        }
        for client in update_ranges(update).map(|range| range.client) {
            let reached = (client, 0, 0)..=(client, structs.clock(client), ArrivalNumber::MAX);
            while let Some(&need) = self.by_need.range(reached.clone()).next() {
                self.by_need.remove(&need);
                self.index_by_next_need(need.2, structs);
            }
        }
    }

    /// Removes and returns the oldest update whose dependencies have all arrived.
    pub(super) fn next_ready(&mut self, structs: &StructStore) -> Option<Bytes> {
        while let Some(number) = self.ready.pop_first() {
            let is_still_pending = |update: &[u8]| {
                verdict(update, structs, &ScanLimits::STORED).is_ok_and(|verdict| has_missing_dependencies(&verdict))
            };
            if self.entries.get(&number).is_none_or(|pending| is_still_pending(&pending.update)) {
                continue;
            }
            let PendingUpdate { update, memory_bytes, .. } = self.entries.remove(&number)?;
            self.updates.remove(&update);
            self.update_bytes -= update.len();
            self.memory_bytes -= memory_bytes;
            return Some(update);
        }
        None
    }

    /// Records that a released update was applied.
    pub(super) fn push_released(&mut self, update: Bytes) {
        self.released.push(update);
    }

    pub(super) fn take_released(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.released)
    }

    /// The pending updates, in order of arrival.
    pub(super) fn entries(&self) -> &BTreeMap<ArrivalNumber, PendingUpdate> {
        &self.entries
    }

    /// Approximate memory use, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }
}
