//! PURE: the pending updates of a hub document: updates with missing dependencies, kept until the dependencies arrive.
//!
//! Each update is indexed by one of its dependencies: a client and the clock that the document must reach. When it has
//! reached that clock, the update is indexed by its next dependency, until there is none. So releasing many updates costs
//! about as much as applying them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::Bytes;
use syncline_protocol::update::{ScanLimits, StateClock, needs, update_ranges, verdict};

use super::{Entered, HubLimits, waits};
use crate::structs::StructStore;

/// Approximate memory that the tables take for one update, besides the update and its needs.
const PENDING_BYTES: usize = 256;

/// Counts pending updates in order of arrival.
type Number = u64;

/// One pending update.
#[derive(Debug)]
pub(super) struct Waiting {
    update: Bytes,
    /// Clients and the clocks that the document must reach. Reached ones are removed from the end.
    needs: Vec<(u64, u64)>,
    /// Approximate memory use.
    memory_bytes: usize,
}

impl Waiting {
    pub(super) fn update(&self) -> &Bytes {
        &self.update
    }
}

/// The pending updates of one document.
#[derive(Debug, Default)]
pub(super) struct Pending {
    waiting: BTreeMap<Number, Waiting>,
    /// The same updates, to recognise duplicates.
    updates: HashSet<Bytes>,
    /// Client, clock, and the update that needs them.
    filed: BTreeSet<(u64, u64, Number)>,
    /// Updates whose dependencies have arrived.
    ready: BTreeSet<Number>,
    /// Total size of the updates.
    update_bytes: usize,
    /// Approximate memory use of all pending updates.
    memory_bytes: usize,
    next: Number,
    /// Applied updates that the readers have not received yet.
    freed: Vec<Bytes>,
}

impl Pending {
    /// Keeps an update with missing dependencies.
    pub(super) fn add(&mut self, update: &Bytes, structs: &StructStore, limits: &HubLimits) -> Entered {
        if self.updates.contains(update) {
            return Entered::Known;
        }
        if self.waiting.len() >= limits.pending_updates || self.update_bytes + update.len() > limits.pending_bytes {
            return Entered::NoRoom;
        }
        // A copy, because a slice would keep the whole received frame in memory.
        let update = Bytes::copy_from_slice(update);
        let needs = needs(&update, structs).unwrap_or_default();
        self.update_bytes += update.len();
        let memory_bytes = update.len() + size_of_val(&needs[..]) + PENDING_BYTES;
        self.memory_bytes += memory_bytes;
        self.updates.insert(update.clone());
        self.waiting.insert(self.next, Waiting { update, needs, memory_bytes });
        self.file(self.next, structs);
        self.next += 1;
        Entered::Waits
    }

    /// Indexes an update by the next of its needs that is not met.
    fn file(&mut self, number: Number, structs: &StructStore) {
        let Some(waiting) = self.waiting.get_mut(&number) else { return };
        while waiting.needs.pop_if(|(client, clock)| structs.clock(*client) >= *clock).is_some() {}
        match waiting.needs.last() {
            Some(&(client, clock)) => _ = self.filed.insert((client, clock, number)),
            None => _ = self.ready.insert(number),
        }
    }

    /// Re-indexes the updates whose needs were met by `update`, which was applied to `structs`.
    pub(super) fn advance(&mut self, update: &[u8], structs: &StructStore) {
        if self.filed.is_empty() {
            return;
        }
        for client in update_ranges(update).map(|range| range.client) {
            let reached = (client, 0, 0)..=(client, structs.clock(client), Number::MAX);
            while let Some(&filed) = self.filed.range(reached.clone()).next() {
                self.filed.remove(&filed);
                self.file(filed.2, structs);
            }
        }
    }

    /// Removes and returns the oldest update whose dependencies have all arrived.
    pub(super) fn next_ready(&mut self, structs: &StructStore) -> Option<Bytes> {
        while let Some(number) = self.ready.pop_first() {
            let still_waits =
                |update: &[u8]| verdict(update, structs, &ScanLimits::STORED).is_ok_and(|verdict| waits(&verdict));
            if self.waiting.get(&number).is_none_or(|waiting| still_waits(&waiting.update)) {
                continue;
            }
            let Waiting { update, memory_bytes, .. } = self.waiting.remove(&number)?;
            self.updates.remove(&update);
            self.update_bytes -= update.len();
            self.memory_bytes -= memory_bytes;
            return Some(update);
        }
        None
    }

    /// Records that a released update was applied.
    pub(super) fn note_freed(&mut self, update: Bytes) {
        self.freed.push(update);
    }

    pub(super) fn take_freed(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.freed)
    }

    /// The pending updates, in order of arrival.
    pub(super) fn waiting(&self) -> &BTreeMap<Number, Waiting> {
        &self.waiting
    }

    /// Approximate memory use, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }
}
