//! PURE: the whole document written again: deleted content is dropped, neighbours are joined.

use bytes::Bytes;
use syncline_protocol::update::raw::{Id, Parent, RawSection, RawStruct, write_gc, write_section_head};
use syncline_protocol::varint::write_var_uint;

use super::StructStore;
use super::client::{Client, MAX_JOINED_BYTES, Settled, Written};
use super::garbage::{Garbage, find_garbage};

/// The head of a section has at most so many bytes: two numbers of at most 64 bits, and a zero.
const MAX_HEAD_BYTES: usize = 21;

/// The structs of one client in the new base.
struct Section {
    client: u64,
    at: usize,
    len: usize,
    structs: Settled,
}

/// The structs of all clients as they are written.
struct Compaction<'a> {
    store: &'a StructStore,
    garbage: Garbage,
    out: Vec<u8>,
    sections: Vec<Section>,
    /// A type was dropped, or something came that lies in one that was dropped before.
    has_garbage: bool,
}

impl StructStore {
    /// Drops what is deleted and joins what are neighbours. Returns the whole state, which the store keeps.
    pub fn compact(&mut self) -> Bytes {
        if !self.is_changed {
            return self.base();
        }
        let mut compaction = Compaction::run(self, Garbage::default());
        if compaction.has_garbage {
            drop(compaction);
            compaction = Compaction::run(self, find_garbage(&self.clients, &self.base));
        }
        let Compaction { mut out, sections, garbage, .. } = compaction;
        for Section { client, at, len, structs } in sections {
            if let Some(client) = self.clients.get_mut(&client) {
                client.settle(at, len, structs);
            }
        }
        for (client, clocks) in garbage.ranges() {
            if let Some(client) = self.clients.get_mut(&client) {
                client.delete(clocks);
            }
        }
        let delete_set_at = out.len();
        self.write_delete_set(&mut out);
        out.shrink_to_fit();
        let before = std::mem::replace(&mut self.base, Bytes::from(out).into());
        if let Some(count) = &self.superseded {
            before.supersede(count);
        }
        self.delete_set = self.base.slice(delete_set_at..).into();
        self.fresh_bytes = 0;
        self.deleted_ranges = self.clients.values().map(Client::deleted_ranges).sum();
        self.base_ranges = self.deleted_ranges;
        self.is_changed = false;
        self.base()
    }
}

impl<'a> Compaction<'a> {
    fn run(store: &'a StructStore, garbage: Garbage) -> Self {
        // With room for the heads of clients that are new: a buffer that is a byte too small grows to twice its size.
        let out = Vec::with_capacity(store.bytes() + MAX_HEAD_BYTES * (store.clients.len() + 1));
        let mut compaction = Self { store, garbage, out, sections: Vec::new(), has_garbage: false };
        write_var_uint(&mut compaction.out, store.clients.len() as u64);
        for (id, client) in store.clients.iter().rev() {
            compaction.write_section(*id, client);
        }
        compaction
    }

    /// Appends one client's section. Its head says how many structs follow, which is known when they are written: it gets as
    /// much room as it may need, and the structs move up to it.
    fn write_section(&mut self, id: u64, client: &Client) {
        let begin = self.out.len();
        let mut out = std::mem::take(&mut self.out);
        out.resize(begin + MAX_HEAD_BYTES, 0);
        let written = self.write(id, client, &mut out);
        let mut head = Vec::with_capacity(MAX_HEAD_BYTES);
        write_section_head(written.structs(), id, 0, &mut head);
        let at = begin + head.len();
        out[begin..at].copy_from_slice(&head);
        out.copy_within(begin + MAX_HEAD_BYTES.., at);
        out.truncate(out.len() + head.len() - MAX_HEAD_BYTES);
        self.sections.push(Section { client: id, at, len: out.len() - at, structs: written.into() });
        self.out = out;
    }

    fn write(&mut self, id: u64, client: &Client, out: &mut Vec<u8>) -> Written {
        let mut written = Written::at(out.len(), MAX_JOINED_BYTES);
        let (mut was_deleted, mut part) = (false, Vec::new());
        for found in client.structs(&self.store.base, id) {
            if self.garbage.holds(id, found.start) {
                part.clear();
                write_gc(found.end - found.start, &mut part);
                push(&mut written, &part, &found, found.start, || true, out);
                was_deleted = true;
                continue;
            }
            self.has_garbage = self.has_garbage || (client.is_fresh(&found) && self.lies_in_garbage(&found));
            let mut cutter = found.cut();
            while cutter.clock() < found.end {
                let at = cutter.clock();
                let (end, is_deleted) = match client.next_deleted(at) {
                    Some(deleted) if deleted.start <= at => (deleted.end.min(found.end), true),
                    Some(deleted) => (deleted.start.min(found.end), false),
                    None => (found.end, false),
                };
                let are_alike = was_deleted == is_deleted;
                was_deleted = is_deleted;
                self.has_garbage |= is_deleted && found.is_type();
                if !is_deleted && (at, end) == (found.start, found.end) {
                    written.push(&found, || are_alike, out);
                    break;
                }
                part.clear();
                if is_deleted {
                    cutter.write_deleted_to(end, &mut part);
                } else {
                    cutter.write_to(end, &mut part);
                }
                push(&mut written, &part, &found, at, || are_alike, out);
            }
        }
        written
    }

    /// True for an item whose type was dropped, or whose neighbour is garbage.
    fn lies_in_garbage(&self, found: &RawStruct<'_>) -> bool {
        let client = |id: Id| self.store.clients.get(&id.client);
        match (found.origin.or(found.right_origin), found.parent) {
            (Some(beside), _) => {
                client(beside).is_some_and(|of| of.is_gc(&self.store.base, beside.client, beside.clock))
            }
            (None, Some(Parent::Item(id))) => client(id).is_some_and(|of| of.is_deleted(id.clock..id.clock + 1)),
            (None, _) => false,
        }
    }
}

/// Appends the part of a struct that begins at a clock.
fn push(
    written: &mut Written,
    part: &[u8],
    of: &RawStruct<'_>,
    at: u64,
    are_alike: impl FnOnce() -> bool,
    out: &mut Vec<u8>,
) {
    if let Some(part) = RawSection::new(of.client, at, 1, part).next() {
        written.push(&part, are_alike, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One struct of a client at a clock, and what is deleted of client 1.
    fn update(client: u8, clock: u8, content: &[u8], deleted: &[u8]) -> Vec<u8> {
        let mut update = vec![1, 1, client, clock];
        update.extend_from_slice(content);
        update.extend_from_slice(if deleted.is_empty() { &[0] } else { &[1, 1] });
        update.extend_from_slice(deleted);
        update
    }

    #[test]
    fn a_state_that_lists_not_all_that_it_deletes_is_compacted() {
        // Two deleted elements, of which the delete set names one; and one that has its content still.
        for (state, compacted) in [
            (update(1, 0, &[1, 1, 1, b't', 2], &[1, 0, 1]), update(1, 0, &[1, 1, 1, b't', 2], &[1, 0, 2])),
            (update(1, 0, &[4, 1, 1, b't', 1, b'x'], &[1, 0, 1]), update(1, 0, &[1, 1, 1, b't', 1], &[1, 0, 1])),
        ] {
            let mut store = StructStore::default();
            assert!(store.adopt(&state.into(), |_| ()));
            assert_eq!(store.compact(), compacted);
        }
    }

    #[test]
    fn late_child_of_a_dropped_type_becomes_garbage() {
        // A map under `m`, deleted, and an "x" in it; then, of others, a text in it and a text behind the "x".
        let map = update(1, 0, &[0x27, 1, 1, b'm', 1, b'k', 1], &[1, 0, 1]);
        let first = update(1, 1, &[0x04, 0, 1, 0, 1, b'x'], &[]);
        let child = update(2, 0, &[0x04, 0, 1, 0, 3, b'a', b'b', b'c'], &[]);
        let beside = update(3, 0, &[0x84, 1, 1, 3, b'a', b'b', b'c'], &[]);
        for late in [child, beside] {
            let mut store = StructStore::default();
            for early in [&map, &first] {
                assert!(store.add(early));
            }
            store.compact();
            assert!(store.add(&late));
            // The clocks are all that is left.
            let state = store.compact();
            assert!(
                state.windows(2).any(|bytes| bytes == [0, 3]) && !state.windows(3).any(|bytes| bytes == b"abc"),
                "{state:?}"
            );
        }
    }
}
