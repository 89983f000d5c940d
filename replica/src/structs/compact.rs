//! PURE: compaction: rewrites the whole document without deleted content, and joins adjacent structs.

use bytes::Bytes;
use syncline_protocol::update::Id;
use syncline_protocol::update::raw::{Parent, RawSection, RawStruct, write_gc, write_section_header};
use syncline_protocol::varint::write_var_uint;

use super::StructStore;
use super::client::{ClientStructs, MAX_JOINED_BYTES, SectionIndex, StructWriter};
use super::garbage::{Garbage, find_garbage};

/// Largest header of a section: two numbers of at most 64 bits, and a zero.
const MAX_HEAD_BYTES: usize = 21;

/// The structs of one client in the new base.
struct CompactedSection {
    client: u64,
    at: usize,
    len: usize,
    structs: SectionIndex,
}

/// State of a running compaction.
struct Compaction<'a> {
    store: &'a StructStore,
    garbage: Garbage,
    out: Vec<u8>,
    sections: Vec<CompactedSection>,
    /// A deleted type was dropped, or a new struct is within a type that was dropped before.
    needs_garbage_search: bool,
}

impl StructStore {
    /// Drops deleted content and joins adjacent structs. Returns the whole state, whose memory the store shares.
    pub fn compact(&mut self) -> Bytes {
        if !self.is_changed {
            return self.base();
        }
        let mut compaction = Compaction::run(self, Garbage::default());
        if compaction.needs_garbage_search {
            drop(compaction);
            compaction = Compaction::run(self, find_garbage(&self.clients, &self.base));
        }
        let Compaction { mut out, sections, garbage, .. } = compaction;
        for CompactedSection { client, at, len, structs } in sections {
            if let Some(client) = self.clients.get_mut(&client) {
                client.replace_base(at, len, structs);
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
        self.deleted_ranges = self.clients.values().map(ClientStructs::deleted_ranges).sum();
        self.base_ranges = self.deleted_ranges;
        self.is_changed = false;
        self.base()
    }
}

impl<'a> Compaction<'a> {
    fn run(store: &'a StructStore, garbage: Garbage) -> Self {
        // Reserves room for the headers of new clients: a buffer that is one byte too small grows to twice its size.
        let out = Vec::with_capacity(store.bytes() + MAX_HEAD_BYTES * (store.clients.len() + 1));
        let mut compaction = Self { store, garbage, out, sections: Vec::new(), needs_garbage_search: false };
        write_var_uint(&mut compaction.out, store.clients.len() as u64);
        for (id, client) in store.clients.iter().rev() {
            compaction.write_section(*id, client);
        }
        compaction
    }

    /// Appends one client's section. Its header begins with the number of structs, which is known only after they are
    /// written. So room for the largest header is left first, and the structs are then moved up to the actual header.
    fn write_section(&mut self, id: u64, client: &ClientStructs) {
        let begin = self.out.len();
        let mut out = std::mem::take(&mut self.out);
        out.resize(begin + MAX_HEAD_BYTES, 0);
        let written = self.write(id, client, &mut out);
        let mut head = Vec::with_capacity(MAX_HEAD_BYTES);
        write_section_header(written.structs(), id, 0, &mut head);
        let at = begin + head.len();
        out[begin..at].copy_from_slice(&head);
        out.copy_within(begin + MAX_HEAD_BYTES.., at);
        out.truncate(out.len() + head.len() - MAX_HEAD_BYTES);
        self.sections.push(CompactedSection { client: id, at, len: out.len() - at, structs: written.into() });
        self.out = out;
    }

    fn write(&mut self, id: u64, client: &ClientStructs, out: &mut Vec<u8>) -> StructWriter {
        let mut written = StructWriter::at(out.len(), MAX_JOINED_BYTES);
        let (mut was_deleted, mut part) = (false, Vec::new());
        for found in client.structs(&self.store.base, id) {
            if self.garbage.contains(id, found.start) {
                part.clear();
                write_gc(found.end - found.start, &mut part);
                push_part(&mut written, &part, &found, found.start, || true, out);
                was_deleted = true;
                continue;
            }
            self.needs_garbage_search =
                self.needs_garbage_search || (client.is_fresh(&found) && self.is_within_garbage(&found));
            let mut cutter = found.cut();
            while cutter.clock() < found.end {
                let at = cutter.clock();
                let (end, is_deleted) = match client.next_deleted(at) {
                    Some(deleted) if deleted.start <= at => (deleted.end.min(found.end), true),
                    Some(deleted) => (deleted.start.min(found.end), false),
                    None => (found.end, false),
                };
                let same_deletion_state = was_deleted == is_deleted;
                was_deleted = is_deleted;
                self.needs_garbage_search |= is_deleted && found.is_type();
                if !is_deleted && (at, end) == (found.start, found.end) {
                    written.push(&found, || same_deletion_state, out);
                    break;
                }
                part.clear();
                if is_deleted {
                    cutter.write_deleted_to(end, &mut part);
                } else {
                    cutter.write_to(end, &mut part);
                }
                push_part(&mut written, &part, &found, at, || same_deletion_state, out);
            }
        }
        written
    }

    /// True for an item whose parent type is deleted, or whose origin is garbage.
    fn is_within_garbage(&self, found: &RawStruct<'_>) -> bool {
        let client = |id: Id| self.store.clients.get(&id.client);
        match (found.origin.or(found.right_origin), found.parent) {
            (Some(sibling), _) => {
                client(sibling).is_some_and(|of| of.is_gc(&self.store.base, sibling.client, sibling.clock))
            }
            (None, Some(Parent::Item(id))) => client(id).is_some_and(|of| of.is_deleted(id.clock..id.clock + 1)),
            (None, _) => false,
        }
    }
}

/// Appends an encoded part of a struct; the part begins at the clock `at`.
fn push_part(
    written: &mut StructWriter,
    part: &[u8],
    of: &RawStruct<'_>,
    at: u64,
    same_deletion_state: impl FnOnce() -> bool,
    out: &mut Vec<u8>,
) {
    if let Some(part) = RawSection::new(of.client, at, 1, part).next() {
        written.push(&part, same_deletion_state, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An update with one struct of a client, and a delete set with these ranges of client 1.
    fn update(client: u8, clock: u8, content: &[u8], deleted: &[u8]) -> Vec<u8> {
        let mut update = vec![1, 1, client, clock];
        update.extend_from_slice(content);
        update.extend_from_slice(if deleted.is_empty() { &[0] } else { &[1, 1] });
        update.extend_from_slice(deleted);
        update
    }

    #[test]
    fn adopted_state_is_compacted_if_its_delete_set_differs_from_its_structs() {
        // Two deleted elements of which the delete set lists one, and a deleted element that still has its content.
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
        // A deleted type under the key "k" of the map `m`, and an "x" in it. Then, from other clients, a text in that type
        // and a text after the "x".
        let map = update(1, 0, &[0x27, 1, 1, b'm', 1, b'k', 1], &[1, 0, 1]);
        let first = update(1, 1, &[0x04, 0, 1, 0, 1, b'x'], &[]);
        let child = update(2, 0, &[0x04, 0, 1, 0, 3, b'a', b'b', b'c'], &[]);
        let sibling = update(3, 0, &[0x84, 1, 1, 3, b'a', b'b', b'c'], &[]);
        for late in [child, sibling] {
            let mut store = StructStore::default();
            for early in [&map, &first] {
                assert!(store.add(early));
            }
            store.compact();
            assert!(store.add(&late));
            // Only the clocks are left.
            let state = store.compact();
            assert!(
                state.windows(2).any(|bytes| bytes == [0, 3]) && !state.windows(3).any(|bytes| bytes == b"abc"),
                "{state:?}"
            );
        }
    }
}
