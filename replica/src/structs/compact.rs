//! PURE: the whole document written again: deleted content is dropped, neighbours are joined.

use bytes::Bytes;
use syncline_protocol::update::raw::{RawSection, RawStruct, write_gc};
use syncline_protocol::varint::write_var_uint;

use super::StructStore;
use super::client::{Client, Written};
use super::garbage::{Garbage, find_garbage};

/// The structs of one client in the new base.
struct Section {
    client: u64,
    at: usize,
    len: usize,
    written: Written,
}

/// The structs of all clients as they are written.
struct Compaction<'a> {
    store: &'a StructStore,
    garbage: Garbage,
    out: Vec<u8>,
    sections: Vec<Section>,
    /// A type was dropped: what lies in it is garbage.
    drops_types: bool,
}

impl StructStore {
    /// Drops what is deleted and joins what are neighbours. Returns the whole state, which the store keeps.
    pub fn compact(&mut self) -> Bytes {
        if !self.is_changed {
            return self.base();
        }
        let mut compaction = Compaction::run(self, Garbage::default());
        if compaction.drops_types {
            compaction =
                Compaction::run(self, find_garbage(self.clients.iter().map(|(id, client)| (*id, client)), &self.base));
        }
        let Compaction { mut out, sections, garbage, .. } = compaction;
        for Section { client, at, len, written } in sections {
            if let Some(client) = self.clients.get_mut(&client) {
                client.settle(at, len, written);
            }
        }
        for (client, clocks) in garbage.ranges() {
            if let Some(client) = self.clients.get_mut(&client) {
                client.delete(clocks);
            }
        }
        self.write_delete_set(&mut out);
        out.shrink_to_fit();
        self.base = out.into();
        self.fresh_bytes = 0;
        self.deleted_ranges = self.clients.values().map(Client::deleted_ranges).sum();
        self.is_changed = false;
        self.base()
    }
}

impl<'a> Compaction<'a> {
    fn run(store: &'a StructStore, garbage: Garbage) -> Self {
        let out = Vec::with_capacity(store.bytes());
        let mut compaction = Self { store, garbage, out, sections: Vec::new(), drops_types: false };
        write_var_uint(&mut compaction.out, store.clients.len() as u64);
        let mut body = Vec::new();
        for (id, client) in store.clients.iter().rev() {
            body.clear();
            let written = compaction.write(*id, client, &mut body);
            write_var_uint(&mut compaction.out, written.structs());
            write_var_uint(&mut compaction.out, *id);
            write_var_uint(&mut compaction.out, 0);
            let (at, len) = (compaction.out.len(), body.len());
            compaction.out.extend_from_slice(&body);
            compaction.sections.push(Section { client: *id, at, len, written });
        }
        compaction
    }

    fn write(&mut self, id: u64, client: &Client, body: &mut Vec<u8>) -> Written {
        let mut written = Written::default();
        let (mut was_deleted, mut part) = (false, Vec::new());
        for found in client.structs(&self.store.base, id) {
            if self.garbage.holds(id, found.start) {
                part.clear();
                write_gc(found.end - found.start, &mut part);
                push(&mut written, &part, &found, found.start, || true, body);
                was_deleted = true;
                continue;
            }
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
                self.drops_types |= is_deleted && found.is_type();
                if !is_deleted && (at, end) == (found.start, found.end) {
                    written.push(&found, || are_alike, 0, body);
                    break;
                }
                part.clear();
                if is_deleted {
                    cutter.write_deleted_to(end, &mut part);
                } else {
                    cutter.write_to(end, &mut part);
                }
                push(&mut written, &part, &found, at, || are_alike, body);
            }
        }
        written
    }
}

/// Appends the part of a struct that begins at a clock.
fn push(
    written: &mut Written,
    part: &[u8],
    of: &RawStruct<'_>,
    at: u64,
    are_alike: impl FnOnce() -> bool,
    body: &mut Vec<u8>,
) {
    if let Some(part) = RawSection::new(of.client, at, 1, part).next() {
        written.push(&part, are_alike, 0, body);
    }
}
