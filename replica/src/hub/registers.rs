//! PURE: which writes belong to registers, and what each register holds.
//!
//! A register is a key of the root map [`REGISTERS`]. A write of a key names its parent and its key only if it is the first
//! one; each later one names the write before it as its origin. So a write belongs to a register if its origin does.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::update::delete_set;
use syncline_protocol::update::raw::{Id, Parent, RawStruct, RawUpdate, read_delete_set, write_entry};
use yrs::Any;
use yrs::updates::decoder::DecoderV1;

use super::order::{Budget, Entry, Order};
use crate::register::{REGISTERS, RegisterState};
use crate::structs::StructStore;

/// The registers of one document.
#[derive(Debug, Default)]
pub(super) struct Registers {
    orders: BTreeMap<Arc<str>, Order>,
    /// The writes of all of them: client and first clock, the clock after the last, whose.
    members: BTreeMap<(u64, u64), (u64, Arc<str>)>,
    touched: BTreeSet<Arc<str>>,
}

impl Registers {
    /// True when there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.orders.is_empty()
    }

    /// True for the first write of a register.
    pub(super) fn is_first(found: &RawStruct<'_>) -> bool {
        found.parent == Some(Parent::Root(REGISTERS.as_bytes())) && found.key.is_some()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.orders.keys()
    }

    /// Takes note of what an update has brought: of its structs those from the clocks that `before` tells.
    pub(super) fn note(&mut self, update: &[u8], before: impl Fn(u64) -> u64) {
        let mut raw = RawUpdate::new(update);
        let mut writes = Vec::new();
        while let Some(mut section) = raw.section() {
            let known = before(section.client);
            writes.extend(section.by_ref().filter(|found| found.is_entry() && found.end > known));
            raw.after(&section);
        }
        self.add(&writes);
    }

    /// Adds those of `writes` that belong to registers, each after its origin.
    fn add(&mut self, writes: &[RawStruct<'_>]) {
        let mut followers: BTreeMap<Id, Vec<&RawStruct<'_>>> = BTreeMap::new();
        let mut ready = Vec::new();
        for write in writes {
            match write.origin.or(write.right_origin) {
                Some(origin) if self.owner(origin).is_none() => followers.entry(origin).or_default().push(write),
                _ => ready.push(write),
            }
        }
        // In the order of arrival, each before those that follow it.
        ready.reverse();
        let mut budget = Budget::new();
        while let Some(write) = ready.pop() {
            let Some(name) = self.name_of(write) else { continue };
            self.enter(write, name, &mut budget);
            let within = Id { client: write.client, clock: write.start }..Id { client: write.client, clock: write.end };
            let followed: Vec<Id> = followers.range(within).map(|(id, _)| *id).collect();
            ready.extend(followed.iter().rev().filter_map(|id| followers.remove(id)).flatten());
        }
    }

    /// The register of a write.
    fn name_of(&self, write: &RawStruct<'_>) -> Option<Arc<str>> {
        match write.origin.or(write.right_origin) {
            Some(origin) => self.owner(origin).cloned(),
            None if Self::is_first(write) => {
                let name = std::str::from_utf8(write.key?).ok()?;
                Some(self.orders.get_key_value(name).map_or_else(|| Arc::from(name), |(name, _)| Arc::clone(name)))
            }
            None => None,
        }
    }

    fn owner(&self, id: Id) -> Option<&Arc<str>> {
        let (_, (end, name)) =
            self.members.range(..=(id.client, id.clock)).next_back().filter(|((client, _), _)| *client == id.client)?;
        (id.clock < *end).then_some(name)
    }

    fn enter(&mut self, write: &RawStruct<'_>, name: Arc<str>, budget: &mut Budget) {
        let RawStruct { client, start, end, origin, right_origin, .. } = *write;
        let value = write.value().map(Bytes::copy_from_slice);
        let entry = Entry { client, start, end, origin, right_origin, value };
        self.orders.entry(Arc::clone(&name)).or_default().add(entry, budget);
        self.touched.insert(Arc::clone(&name));
        let before = self.members.range_mut(..(client, start)).next_back();
        match before {
            Some(((of, _), (until, owner))) if *of == client && *until == start && *owner == name => *until = end,
            _ => _ = self.members.insert((client, start), (end, name)),
        }
    }

    /// Takes note of what an update deletes.
    pub(super) fn note_deletions(&mut self, update: &[u8]) {
        let (members, touched) = (&self.members, &mut self.touched);
        let read = read_delete_set(delete_set(update), |client, Range { start, end }| {
            let before = members.range(..(client, start)).next_back();
            let overlapping = before.filter(|((of, _), (until, _))| *of == client && *until > start);
            let names = overlapping.into_iter().chain(members.range((client, start)..(client, end)));
            touched.extend(names.map(|(_, (_, name))| Arc::clone(name)));
        });
        debug_assert!(read.is_ok(), "not scanned");
    }

    /// The registers that were changed since this was asked last, in the order of their names.
    pub(super) fn take_touched(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.touched).into_iter().collect()
    }

    /// A register as it is; `None`: no accepted write has made it.
    pub(super) fn read(&self, name: &str, structs: &StructStore) -> Option<RegisterState> {
        let last = self.orders.get(name)?.last()?;
        if structs.is_deleted(last.client, last.end - 1..last.end) {
            return None;
        }
        let value = Any::decode(&mut DecoderV1::from(&last.value.as_ref()?[..])).ok()?;
        RegisterState::from_any(&value)
    }

    /// The update that writes a register as the successor of what it holds. `own`: who writes, and its next clock.
    pub(super) fn write(&self, name: &str, state: &RegisterState, own: Id, structs: &StructStore) -> Vec<u8> {
        let before =
            self.orders.get(name).and_then(Order::last).map(|last| Id { client: last.client, clock: last.end - 1 });
        // What it replaces is deleted, as every reader does when it integrates the new one.
        let replaced = before.filter(|id| !structs.is_deleted(id.client, id.clock..id.clock + 1));
        write_entry(own, before, (REGISTERS, name), &state.encode(), replaced)
    }

    /// Bytes that it takes in memory, about.
    pub(super) fn memory_bytes(&self) -> usize {
        /// An entry of a tree with its share of the node.
        const MEMBER_BYTES: usize = 64;
        let orders: usize = self.orders.iter().map(|(name, order)| name.len() + order.memory_bytes()).sum();
        orders + self.members.len() * MEMBER_BYTES
    }
}
