//! PURE: updates that wait for others, and their release.
//!
//! Each is filed under one client and the clock that this client must reach before the update can be entered; when it has,
//! under the next one, until there is none. So setting many free costs about as much as entering them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::Bytes;
use syncline_protocol::update::{ScanLimits, StateClock, needs, update_ranges, verdict};

use super::{Entered, HubLimits, waits};
use crate::structs::StructStore;

/// What an update takes in the tables besides itself and its needs.
const PENDING_BYTES: usize = 256;

/// Numbers in the order of arrival.
type Number = u64;

/// One update that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    update: Bytes,
    /// Clients and the clocks that they must reach; what they have reached is removed from the end.
    needs: Vec<(u64, u64)>,
    /// Bytes that it takes in memory, about.
    memory_bytes: usize,
}

impl Waiting {
    pub(super) fn update(&self) -> &Bytes {
        &self.update
    }
}

/// The updates that wait.
#[derive(Debug, Default)]
pub(super) struct Pending {
    waiting: BTreeMap<Number, Waiting>,
    /// The same updates, to know one that comes again.
    updates: HashSet<Bytes>,
    /// Client, clock, and what waits for it.
    filed: BTreeSet<(u64, u64, Number)>,
    /// Those that wait no more.
    ready: BTreeSet<Number>,
    /// Bytes of the updates, and what all of it takes in memory.
    update_bytes: usize,
    memory_bytes: usize,
    next: Number,
    /// Entered and not yet told to the readers.
    freed: Vec<Bytes>,
}

impl Pending {
    /// Keeps an update that waits.
    pub(super) fn add(&mut self, update: &Bytes, structs: &StructStore, limits: &HubLimits) -> Entered {
        if self.updates.contains(update) {
            return Entered::Known;
        }
        if self.waiting.len() >= limits.pending_updates || self.update_bytes + update.len() > limits.pending_bytes {
            return Entered::NoRoom;
        }
        // A copy: a slice would keep the whole frame it came in.
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

    /// Files an update under the next of its needs.
    fn file(&mut self, number: Number, structs: &StructStore) {
        let Some(waiting) = self.waiting.get_mut(&number) else { return };
        while waiting.needs.pop_if(|(client, clock)| structs.clock(*client) >= *clock).is_some() {}
        match waiting.needs.last() {
            Some(&(client, clock)) => _ = self.filed.insert((client, clock, number)),
            None => _ = self.ready.insert(number),
        }
    }

    /// The clients of an update have come further.
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

    /// The oldest update that waits no more, taken out.
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

    /// One was entered.
    pub(super) fn note_freed(&mut self, update: Bytes) {
        self.freed.push(update);
    }

    pub(super) fn take_freed(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.freed)
    }

    /// In order of arrival.
    pub(super) fn waiting(&self) -> &BTreeMap<Number, Waiting> {
        &self.waiting
    }

    /// Bytes that all of it takes in memory, about.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }
}
