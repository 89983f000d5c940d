//! PURE: the writes of one map key in the order in which every reader puts them: the last one is the value.
//!
//! Yjs keeps them as a list and integrates each by YATA (yjs 13.6.33, `Item.integrate`). Writes come one after the other
//! almost always; only those made at the same time are compared.

use bytes::Bytes;
use syncline_protocol::update::raw::Id;

/// Writes of one client in a row, each the successor of the one before it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) client: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) origin: Option<Id>,
    pub(super) right_origin: Option<Id>,
    /// Of the last one: what it wrote, as lib0 `Any`. Only the last entry's is kept.
    pub(super) value: Option<Bytes>,
}

/// All writes of one key.
#[derive(Debug, Default)]
pub(super) struct Order(Vec<Entry>);

impl Order {
    /// The entry that decides on the value.
    pub(super) fn last(&self) -> Option<&Entry> {
        self.0.last()
    }

    /// Bytes that it takes in memory, about.
    pub(super) fn memory_bytes(&self) -> usize {
        let value = self.0.last().and_then(|entry| entry.value.as_ref());
        self.0.capacity() * size_of::<Entry>() + value.map_or(0, Bytes::len)
    }

    /// Adds writes whose origin is here.
    pub(super) fn add(&mut self, entry: Entry) {
        let left = entry.origin.and_then(|origin| self.split_after(origin));
        let right = entry.right_origin.and_then(|origin| self.split_before(origin));
        let mut at = left.map_or(0, |left| left + 1);
        if at < right.unwrap_or(self.0.len()) {
            at = self.place(&entry, at, right);
        }
        if at == self.0.len() {
            if let Some(last) = self.0.last_mut() {
                last.value = None;
            }
            self.append(entry);
        } else {
            self.0.insert(at, Entry { value: None, ..entry });
        }
    }

    /// Where between its neighbours it lies, of which others are there already.
    fn place(&self, entry: &Entry, from: usize, right: Option<usize>) -> usize {
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
            let origin = other.origin.and_then(|origin| (from..index).rev().find(|&index| self.0[index].holds(origin)));
            match origin {
                Some(origin) if origin < conflicts_from => (at, conflicts_from) = (index + 1, index + 1),
                Some(_) => {}
                None => break,
            }
        }
        at
    }

    /// Adds an entry at the end: a client that goes on alone needs one entry.
    fn append(&mut self, entry: Entry) {
        match self.0.last_mut() {
            Some(last) if last.goes_on_with(&entry) => (last.end, last.value) = (entry.end, entry.value),
            _ => self.0.push(entry),
        }
    }

    /// The entry that ends with this write.
    fn split_after(&mut self, id: Id) -> Option<usize> {
        let at = self.0.iter().rposition(|entry| entry.holds(id))?;
        self.split(at, id.clock + 1);
        Some(at)
    }

    /// The entry that begins with this write.
    fn split_before(&mut self, id: Id) -> Option<usize> {
        let at = self.0.iter().rposition(|entry| entry.holds(id))?;
        Some(if self.split(at, id.clock) { at + 1 } else { at })
    }

    /// Cuts an entry in two, unless one part would be empty.
    fn split(&mut self, at: usize, clock: u64) -> bool {
        let entry = &mut self.0[at];
        let is_within = entry.start < clock && clock < entry.end;
        if is_within {
            let origin = Some(Id { client: entry.client, clock: clock - 1 });
            let rest = Entry { start: clock, origin, value: entry.value.take(), ..*entry };
            entry.end = clock;
            self.0.insert(at + 1, rest);
        }
        is_within
    }
}

impl Entry {
    fn holds(&self, id: Id) -> bool {
        self.client == id.client && (self.start..self.end).contains(&id.clock)
    }

    fn goes_on_with(&self, next: &Self) -> bool {
        let last = Id { client: self.client, clock: self.end - 1 };
        next.client == self.client
            && next.start == self.end
            && next.origin == Some(last)
            && next.right_origin == self.right_origin
    }
}
