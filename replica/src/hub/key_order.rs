//! PURE: the writes of one map key, in the order that every reader computes: the last write is the value of the key.
//!
//! Yjs keeps the writes of a key as a list and integrates each by YATA (yjs 13.6.33, `Item.integrate`). Writes are almost
//! always sequential; only concurrent writes are compared. The comparisons are bounded ([`CompareBudget`]): if there are
//! more concurrent writes than people and programs make, those that belong in the middle of the list are dropped, and the
//! order may then differ from that of the readers.

use bytes::Bytes;
use syncline_protocol::limits::MAX_REGISTER_VALUE_BYTES;
use syncline_protocol::update::Id;
use syncline_protocol::update::raw::RawStruct;

/// Consecutive writes of one client, each the successor of the one before it.
#[derive(Debug, Clone)]
pub(super) struct WriteRun {
    pub(super) client: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) origin: Option<Id>,
    pub(super) right_origin: Option<Id>,
    /// The value of the last write, as lib0 `Any`. Kept only for the last entry of a [`WriteOrder`].
    pub(super) value: Option<Bytes>,
}

/// Largest map entry that an accepted write can create: value, author, ids and keys.
const MAX_VALUE_BYTES: usize = MAX_REGISTER_VALUE_BYTES + 4 * 1024;
/// If a key has more entries, writes that belong in the middle are dropped.
const MAX_ENTRIES: usize = 4_096;

/// How many more entries may be compared for one update.
#[derive(Debug)]
pub(super) struct CompareBudget(usize);

impl CompareBudget {
    /// The budget for one update: milliseconds of work.
    pub(super) fn new() -> Self {
        Self(1_000_000)
    }

    fn spend(&mut self, entries: usize) -> bool {
        let is_enough = entries <= self.0;
        self.0 = self.0.saturating_sub(entries);
        is_enough
    }
}

/// All writes of one key, in order.
#[derive(Debug, Default)]
pub(super) struct WriteOrder(Vec<WriteRun>);

impl WriteOrder {
    /// The entry whose last write is the value of the key.
    pub(super) fn last(&self) -> Option<&WriteRun> {
        self.0.last()
    }

    /// Size of the kept value.
    pub(super) fn value_bytes(&self) -> usize {
        self.0.last().and_then(|entry| entry.value.as_ref()).map_or(0, Bytes::len)
    }

    /// Adds writes. Their origin must be in this list, or `None`.
    pub(super) fn add(&mut self, entry: WriteRun, budget: &mut CompareBudget) {
        let continues_last = match (entry.origin, self.0.last()) {
            (Some(origin), Some(last)) => last.last_id() == origin,
            (origin, last) => origin.is_none() && last.is_none(),
        };
        if continues_last {
            return self.append(entry);
        }
        if self.0.len() > MAX_ENTRIES || !budget.spend(2 * self.0.len()) {
            return;
        }
        let left = entry.origin.and_then(|origin| self.split_after(origin));
        let right = entry.right_origin.and_then(|origin| self.split_before(origin));
        let mut at = left.map_or(0, |left| left + 1);
        if at < right.unwrap_or(self.0.len()) {
            let Some(position) = self.find_position(&entry, at, right, budget) else { return };
            at = position;
        }
        if at == self.0.len() {
            self.append(entry);
        } else {
            self.0.insert(at, WriteRun { value: None, ..entry });
        }
    }

    /// The position of an entry among concurrent writes between its origins. `None` if the budget does not suffice.
    fn find_position(
        &self,
        entry: &WriteRun,
        from: usize,
        right: Option<usize>,
        budget: &mut CompareBudget,
    ) -> Option<usize> {
        let (mut at, mut conflicts_from) = (from, from);
        for (index, other) in self.0.iter().enumerate().take(right.unwrap_or(self.0.len())).skip(from) {
            if other.origin == entry.origin {
                if other.client < entry.client {
                    (at, conflicts_from) = (index + 1, index + 1);
                } else if other.right_origin == entry.right_origin {
                    break;
                }
                continue;
            }
            if !budget.spend(index - from) {
                return None;
            }
            let origin =
                other.origin.and_then(|origin| (from..index).rev().find(|&index| self.0[index].contains(origin)));
            match origin {
                Some(origin) if origin < conflicts_from => (at, conflicts_from) = (index + 1, index + 1),
                Some(_) => {}
                None => break,
            }
        }
        Some(at)
    }

    /// Adds an entry at the end. If it continues the last entry, it is merged into that entry.
    fn append(&mut self, entry: WriteRun) {
        match self.0.last_mut() {
            Some(last) if last.is_continued_by(&entry) => (last.end, last.value) = (entry.end, entry.value),
            last => {
                if let Some(last) = last {
                    last.value = None;
                }
                // Most registers have one writer, so one entry suffices.
                self.0.reserve_exact(usize::from(self.0.is_empty()));
                self.0.push(entry);
            }
        }
    }

    /// The index of the entry that ends with this write, after splitting if necessary.
    fn split_after(&mut self, id: Id) -> Option<usize> {
        let at = self.0.iter().rposition(|entry| entry.contains(id))?;
        self.split(at, id.clock + 1);
        Some(at)
    }

    /// The index of the entry that begins with this write, after splitting if necessary.
    fn split_before(&mut self, id: Id) -> Option<usize> {
        let at = self.0.iter().rposition(|entry| entry.contains(id))?;
        Some(if self.split(at, id.clock) { at + 1 } else { at })
    }

    /// Splits an entry in two at `clock`. Returns false, and changes nothing, if one part would be empty.
    fn split(&mut self, at: usize, clock: u64) -> bool {
        let entry = &mut self.0[at];
        let is_within = entry.start < clock && clock < entry.end;
        if is_within {
            let origin = Some(Id { client: entry.client, clock: clock - 1 });
            let rest = WriteRun { start: clock, origin, value: entry.value.take(), ..*entry };
            entry.end = clock;
            self.0.insert(at + 1, rest);
        }
        is_within
    }
}

impl WriteRun {
    /// The part of a struct after the clock `known`, if the struct may be a write of a map key. `None` if it cannot be one,
    /// or if all of it was known.
    pub(super) fn of(found: &RawStruct<'_>, known: u64) -> Option<Self> {
        let RawStruct { client, start, end, mut origin, right_origin, .. } = *found;
        if !found.may_be_entry() || end <= known {
            return None;
        }
        if start < known {
            origin = Some(Id { client, clock: known - 1 });
        }
        let value = found.value().filter(|value| value.len() <= MAX_VALUE_BYTES).map(Bytes::copy_from_slice);
        Some(Self { client, start: start.max(known), end, origin, right_origin, value })
    }

    fn contains(&self, id: Id) -> bool {
        self.client == id.client && (self.start..self.end).contains(&id.clock)
    }

    pub(super) fn last_id(&self) -> Id {
        Id { client: self.client, clock: self.end - 1 }
    }

    fn is_continued_by(&self, next: &Self) -> bool {
        next.client == self.client
            && next.start == self.end
            && next.origin == Some(self.last_id())
            && next.right_origin == self.right_origin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(client: u64, clock: u64, origin: Option<(u64, u64)>) -> WriteRun {
        let origin = origin.map(|(client, clock)| Id { client, clock });
        let value = Some(Bytes::copy_from_slice(&[client as u8, clock as u8]));
        WriteRun { client, start: clock, end: clock + 1, origin, right_origin: None, value }
    }

    fn ids(order: &WriteOrder) -> Vec<(u64, u64)> {
        order.0.iter().flat_map(|entry| (entry.start..entry.end).map(|clock| (entry.client, clock))).collect()
    }

    #[test]
    fn concurrent_writes_are_ordered_by_client_in_any_arrival_order() {
        // Clients 7 and 9 write concurrently, twice each; client 8 writes after it has received both.
        let writes = [
            write(7, 0, None),
            write(7, 1, Some((7, 0))),
            write(9, 0, None),
            write(9, 1, Some((9, 0))),
            write(8, 0, Some((9, 1))),
        ];
        let wanted = [(7, 0), (7, 1), (9, 0), (9, 1), (8, 0)];
        for first in [[0, 1, 2, 3, 4], [2, 3, 4, 0, 1], [2, 0, 3, 1, 4], [0, 2, 1, 3, 4]] {
            let mut order = WriteOrder::default();
            first.iter().for_each(|at| order.add(writes[*at].clone(), &mut CompareBudget::new()));
            assert_eq!(ids(&order), wanted, "{first:?}");
            assert_eq!(order.last().and_then(|last| last.value.as_deref()), Some(&[8, 0][..]));
        }
    }

    #[test]
    fn writes_of_a_single_client_share_one_entry_until_another_client_writes() {
        let mut order = WriteOrder::default();
        let mut budget = CompareBudget::new();
        order.add(write(5, 0, None), &mut budget);
        (1..100).for_each(|clock| order.add(write(5, clock, Some((5, clock - 1))), &mut budget));
        assert_eq!(order.0.len(), 1);
        order.add(write(3, 0, Some((5, 49))), &mut budget);
        assert_eq!(order.0.len(), 3);
        assert_eq!(ids(&order)[50], (3, 0));
    }

    #[test]
    fn concurrent_writes_beyond_the_budget_are_dropped() {
        let mut order = WriteOrder::default();
        let mut budget = CompareBudget::new();
        (0..100_000).for_each(|client| order.add(write(client, 0, None), &mut budget));
        assert!(order.0.len() <= MAX_ENTRIES + 1 && budget.0 == 0, "{} entries", order.0.len());
    }
}
