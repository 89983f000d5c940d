//! PURE: finds the writes that belong to registers, and keeps the value of each register.
//!
//! A register is a key of the root map [`REGISTERS`]. Only the first write of a key names its parent and key; each later
//! write names the previous write as its origin and looks like an element of a list. So a write belongs to a register if
//! its origin does.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use syncline_protocol::limits::MAX_REGISTERS;
use syncline_protocol::update::Id;
use syncline_protocol::update::raw::{Parent, RawSection, RawStruct, RawUpdate, read_delete_set};
use syncline_protocol::update::{delete_set, edit};

use super::key_order::{CompareBudget, WriteOrder, WriteRun};
use crate::register::{REGISTERS, RegisterState};
use crate::structs::StructStore;

/// A struct that may be a write, but whose origin comes later in the update.
struct UnresolvedWrite {
    origin: Id,
    client: u64,
    start: u64,
    end: u64,
    /// Offset in the update.
    at: usize,
}

/// True when one of these structs contains `clock`. They must be of one client, sorted by clock.
fn contains_clock(section: &[UnresolvedWrite], clock: u64) -> bool {
    let after = section.partition_point(|unresolved| unresolved.start <= clock);
    section[..after].last().is_some_and(|unresolved| clock < unresolved.end)
}

/// The registers of one document.
#[derive(Debug, Default)]
pub(super) struct Registers {
    orders: BTreeMap<Arc<str>, WriteOrder>,
    /// The writes of all registers: from client and first clock to the clock after the last one and the register's name.
    owners: BTreeMap<(u64, u64), (u64, Arc<str>)>,
    /// For each register, the write that is its value.
    deciding: BTreeMap<Id, Arc<str>>,
    touched: BTreeSet<Arc<str>>,
    /// Total size of names and values.
    bytes: usize,
    /// The document has more registers than are tracked.
    has_untracked: bool,
}

impl Registers {
    /// True when this register is tracked, or can be.
    pub(super) fn has_room_for(&self, name: &str) -> bool {
        self.orders.contains_key(name) || (!self.has_untracked && self.orders.len() < MAX_REGISTERS)
    }

    /// True for the first write of a register.
    pub(super) fn is_first(found: &RawStruct<'_>) -> bool {
        found.parent == Some(Parent::Root(REGISTERS.as_bytes())) && found.key.is_some()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.orders.keys()
    }

    /// Adds the register writes of an update, from the clocks that `known` returns on.
    pub(super) fn add_writes(&mut self, update: &[u8], known: impl Fn(u64) -> u64) {
        let mut raw = RawUpdate::new(update);
        let (mut added, mut unresolved, mut budget) = (Vec::new(), Vec::new(), CompareBudget::new());
        while let Some(mut section) = raw.section() {
            let (before, mut at) = (known(section.client), update.len() - section.rest().len());
            let earlier = unresolved.len();
            for found in section.by_ref() {
                let offset = at;
                at += found.bytes.len();
                let Some(write) = WriteRun::of(&found, before) else { continue };
                if let Some(name) = self.name_of(&found) {
                    added.push(self.add_write(write, name, &mut budget));
                    continue;
                }
                self.has_untracked |= Self::is_first(&found);
                // An origin that is known, or that came earlier in this section, and belongs to no register will never
                // belong to one.
                let may_be_added_later = |id: &Id| {
                    id.clock >= known(id.client)
                        && (id.client != found.client || contains_clock(&unresolved[earlier..], id.clock))
                };
                if let Some(origin) = found.origin.or(found.right_origin).filter(may_be_added_later) {
                    unresolved.push(UnresolvedWrite {
                        origin,
                        client: found.client,
                        start: found.start,
                        end: found.end,
                        at: offset,
                    });
                }
            }
            raw.resume_after(&section);
        }
        unresolved.sort_unstable_by_key(|write| write.origin);
        while let Some((from, to)) = added.pop() {
            let first = unresolved.partition_point(|write| write.origin < from);
            for UnresolvedWrite { client, start, at, .. } in
                unresolved[first..].iter().take_while(|write| write.origin < to)
            {
                let found = RawSection::new(*client, *start, 1, &update[*at..]).next();
                if let Some(found) = found
                    && let Some(write) = WriteRun::of(&found, known(*client))
                    && let Some(name) = self.name_of(&found)
                {
                    added.push(self.add_write(write, name, &mut budget));
                }
            }
        }
    }

    /// The register that a write belongs to.
    fn name_of(&self, write: &RawStruct<'_>) -> Option<Arc<str>> {
        match write.origin.or(write.right_origin) {
            Some(origin) => self.owner_of(origin).cloned(),
            None if Self::is_first(write) => {
                let name = std::str::from_utf8(write.key?).ok().filter(|name| self.has_room_for(name))?;
                Some(self.orders.get_key_value(name).map_or_else(|| Arc::from(name), |(name, _)| Arc::clone(name)))
            }
            None => None,
        }
    }

    fn owner_of(&self, id: Id) -> Option<&Arc<str>> {
        let (_, (end, name)) =
            self.owners.range(..=(id.client, id.clock)).next_back().filter(|((client, _), _)| *client == id.client)?;
        (id.clock < *end).then_some(name)
    }

    /// Adds a write to its register. Returns the range of its ids: later writes may have one of them as their origin.
    fn add_write(&mut self, write: WriteRun, name: Arc<str>, budget: &mut CompareBudget) -> (Id, Id) {
        let WriteRun { client, start, end, .. } = write;
        if !self.orders.contains_key(&name) {
            self.bytes += name.len();
        }
        let order = self.orders.entry(Arc::clone(&name)).or_default();
        self.bytes -= order.value_bytes();
        let before = order.last().map(WriteRun::last_id);
        order.add(write, budget);
        self.bytes += order.value_bytes();
        let now = order.last().map(WriteRun::last_id);
        if now != before {
            before.and_then(|before| self.deciding.remove(&before));
            self.deciding.extend(now.map(|now| (now, Arc::clone(&name))));
        }
        self.touched.insert(Arc::clone(&name));
        let before = self.owners.range_mut(..(client, start)).next_back();
        match before {
            Some(((of, _), (until, owner))) if *of == client && *until == start && *owner == name => *until = end,
            _ => _ = self.owners.insert((client, start), (end, name)),
        }
        (Id { client, clock: start }, Id { client, clock: end })
    }

    /// Marks the registers whose value an update deletes as changed.
    pub(super) fn note_deleted_values(&mut self, update: &[u8]) {
        let (deciding, touched) = (&self.deciding, &mut self.touched);
        let read = read_delete_set(delete_set(update), |client, Range { start, end }| {
            let deleted = deciding.range(Id { client, clock: start }..Id { client, clock: end });
            touched.extend(deleted.map(|(_, name)| Arc::clone(name)));
        });
        debug_assert!(read.is_ok(), "not scanned");
    }

    /// The registers that were changed since the last call, sorted by name.
    pub(super) fn take_touched(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.touched).into_iter().collect()
    }

    /// The state of a register; `None` if no accepted write has set it.
    pub(super) fn read(&self, name: &str, structs: &StructStore) -> Option<RegisterState> {
        let last = self.orders.get(name)?.last()?;
        if structs.is_deleted(last.client, last.end - 1..last.end) {
            return None;
        }
        RegisterState::decode(last.value.as_ref()?)
    }

    /// Encodes an update that writes a register as the successor of its last write. `own`: the id of the new entry.
    pub(super) fn write(&self, name: &str, state: &RegisterState, own: Id, structs: &StructStore) -> Vec<u8> {
        let before = self
            .orders
            .get(name)
            .and_then(WriteOrder::last)
            .map(|last| Id { client: last.client, clock: last.end - 1 });
        // The replaced entry is deleted, as every reader does when it integrates the new one.
        let replaced = before.filter(|id| !structs.is_deleted(id.client, id.clock..id.clock + 1));
        edit::set_key(own, before, (REGISTERS, name), &state.encode(), replaced)
    }

    /// Encodes an update that deletes the value of a register. `None` if it has no value.
    pub(super) fn clear(&self, name: &str, structs: &StructStore) -> Option<Vec<u8>> {
        let last = self.orders.get(name)?.last()?.last_id();
        (!structs.is_deleted(last.client, last.clock..last.clock + 1)).then(|| edit::delete(last))
    }

    /// Approximate memory use, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        /// An entry of `owners` with its share of the tree node, and its entry in an order.
        const OWNER_BYTES: usize = 64 + size_of::<WriteRun>();
        /// An order with its share of the tree node, its name, and its entry in `deciding`.
        const ORDER_BYTES: usize = 160;
        self.bytes + self.owners.len() * OWNER_BYTES + self.orders.len() * ORDER_BYTES
    }
}
