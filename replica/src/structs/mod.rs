//! PURE: the struct store of a document, like that of Yjs but without integration: the encoded structs of each client in
//! the order of their clocks, and the deleted clocks.
//!
//! A hub stores, relays and answers; the position of an item in a text or list matters only to readers. So nothing here
//! depends on content: every operation is linear in its input (and logarithmic in the document), in time and memory,
//! whatever the bytes are.
//!
//! An item that continues the previous one (same client, its origin is the last element of that item, same right origin,
//! same kind of content) is joined to it when it is added, as Yjs joins adjacent items after integration. That makes no
//! difference to readers: YATA places an item whose origin is X directly after X before it considers anything else. An item
//! that was concurrently inserted between the two splits the joined item there, and is compared with the rest as it would
//! have been with the second item. `tests/tests/it/replica/structs.rs` compares the results with Yjs and yrs.
//!
//! ```text
//! base      the output of the last compaction, and the earlier ones that are still held
//! client    the structs of one client
//! ranges    the deleted clocks of one client
//! compact   compaction: drops deleted content and joins adjacent structs
//! garbage   finds structs within deleted types
//! pieces    encoded bytes that share the document's memory
//! ```
//!
//! Sources: npm yjs 13.6.33 `src/utils/StructStore.js`, `src/utils/encoding.js`, `src/utils/DeleteSet.js`,
//! `src/structs/Item.js` (`mergeWith`, `gc`).

mod base;
mod client;
mod compact;
mod garbage;
mod pieces;
mod ranges;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;

use bytes::Bytes;
use syncline_protocol::update::raw::{RawStruct, RawUpdate, read_delete_set};
use syncline_protocol::update::{StateClock, state_vector_entries};
use syncline_protocol::varint::write_var_uint;

use base::Base;
pub use base::Superseded;
pub(crate) use client::StructWriter;
use client::{ClientStructs, FRESH_BYTES, MARK_EVERY, Mark};
use pieces::PieceWriter;
pub use pieces::Pieces;
use ranges::{RANGE_BYTES, Ranges};

/// A difference may copy up to this many bytes plus 1/[`COPIED_SHARE`] of the base.
const MIN_COPIED_BYTES: usize = 64 * 1024;
const COPIED_SHARE: usize = 64;

/// The structs and deletions of one document. Updates must have passed the scanner, and must have no missing
/// dependencies (`syncline_protocol::update::verdict`).
#[derive(Debug, Default)]
pub struct StructStore {
    /// Sorted, because encodings are: the largest client id comes first there.
    clients: BTreeMap<u64, ClientStructs>,
    /// The output of the last compaction; every client has a section of it.
    base: Base,
    /// Counts replaced bases that are still held; `None`: they are not counted.
    superseded: Option<Superseded>,
    /// Something changed since the last compaction.
    is_changed: bool,
    /// Size of the structs that were added since the last compaction.
    fresh_bytes: usize,
    /// Number of deleted ranges of all clients.
    deleted_ranges: usize,
    /// Number of deleted ranges at the last compaction.
    base_ranges: usize,
    /// The encoded delete set, if it was needed since the last deletion. In a compacted document a slice of the base.
    delete_set: OnceLock<Bytes>,
}

impl StructStore {
    /// Adopts a complete state as the base, without copying it, and passes each struct to `visit`. Returns false, and
    /// changes nothing, if this store is not empty or `state` is not a complete state.
    pub(crate) fn adopt(&mut self, state: &Bytes, mut visit: impl FnMut(&RawStruct<'_>)) -> bool {
        if !self.clients.is_empty() {
            return false;
        }
        let mut raw = RawUpdate::new(state);
        let (mut clients, mut is_compactable) = (BTreeMap::new(), false);
        while let Some(mut section) = raw.section() {
            let id = section.client;
            let Some((client, joins)) = ClientStructs::adopt(&mut section, state.len(), &mut visit) else {
                return false;
            };
            is_compactable |= joins;
            clients.insert(id, client);
            raw.resume_after(&section);
        }
        let mut listed: BTreeMap<u64, Ranges> = BTreeMap::new();
        let read = read_delete_set(raw.rest(), |id, deleted| _ = listed.entry(id).or_default().insert(deleted));
        debug_assert!(read.is_ok(), "not scanned");
        for (id, client) in &mut clients {
            // The delete set of a compacted state lists exactly the structs without content.
            is_compactable |= client.delete_listed(&listed.remove(id).unwrap_or_default());
        }
        self.deleted_ranges = clients.values().map(ClientStructs::deleted_ranges).sum();
        self.base_ranges = self.deleted_ranges;
        let delete_set_at = state.len() - raw.rest().len();
        (self.clients, self.base) = (clients, state.clone().into());
        let delete_set = (!is_compactable).then(|| self.base.slice(delete_set_at..));
        self.delete_set = delete_set.map_or_else(OnceLock::new, OnceLock::from);
        // A state that was not compacted yet counts as changed, so that the next compaction processes it.
        self.is_changed = is_compactable;
        true
    }

    /// Counts in `count` the bases that are replaced while answers still hold them.
    pub(crate) fn count_superseded(&mut self, count: Superseded) {
        self.superseded = Some(count);
    }

    /// Adds the new parts of an update. True when a struct or deletion was new.
    pub fn add(&mut self, update: &[u8]) -> bool {
        self.add_with(update, |_| ())
    }

    /// [`StructStore::add`], passing each struct that is at least partly new to `visit`.
    pub(crate) fn add_with(&mut self, update: &[u8], mut visit: impl FnMut(&RawStruct<'_>)) -> bool {
        let mut raw = RawUpdate::new(update);
        let (mut is_new, mut deletes) = (false, false);
        while let Some(mut section) = raw.section() {
            let known = self.clock(section.client);
            let mut new = section.by_ref().filter(|found| !found.is_skip()).skip_while(|found| found.end <= known);
            if let Some(first) = new.next() {
                is_new = true;
                let client = self.clients.entry(first.client).or_default();
                let (bytes, ranges) = (client.fresh_bytes(), client.deleted_ranges());
                for found in std::iter::once(first).chain(new) {
                    visit(&found);
                    deletes |= found.is_deleted();
                    client.push(&found);
                }
                self.fresh_bytes += client.fresh_bytes() - bytes;
                self.deleted_ranges = self.deleted_ranges + client.deleted_ranges() - ranges;
            }
            raw.resume_after(&section);
        }
        let (clients, count) = (&mut self.clients, &mut self.deleted_ranges);
        let read = read_delete_set(raw.rest(), |client, deleted| {
            // Never unknown: the update would have a missing dependency.
            let Some(client) = clients.get_mut(&client) else { return };
            let before = client.deleted_ranges();
            deletes |= client.delete(deleted);
            *count = *count + client.deleted_ranges() - before;
        });
        debug_assert!(read.is_ok(), "not scanned");
        is_new |= deletes;
        if deletes {
            self.delete_set = OnceLock::new();
        }
        self.is_changed |= is_new;
        is_new
    }

    /// True when everything that an encoded delete set lists is deleted.
    pub fn knows_deletions_of(&self, delete_set: &[u8]) -> bool {
        let mut knows = true;
        let read = read_delete_set(delete_set, |client, deleted| {
            knows = knows && self.clients.get(&client).is_some_and(|client| client.is_deleted(deleted));
        });
        knows && read.is_ok()
    }

    /// True when all of these clocks of a client are deleted.
    pub fn is_deleted(&self, client: u64, clocks: Range<u64>) -> bool {
        self.clients.get(&client).is_some_and(|client| client.is_deleted(clocks))
    }

    /// The whole state as one v1 update, with the deleted content that no compaction has dropped yet.
    pub fn encode(&self) -> Bytes {
        if self.is_changed { self.diff(&|_| 0).to_bytes() } else { self.base() }
    }

    /// What a peer with these clocks lacks, as a v1 update with the complete delete set. It shares the memory of the last
    /// compaction.
    pub fn diff(&self, theirs: &impl StateClock) -> Pieces {
        let lacks = |(id, client): (&u64, &ClientStructs)| {
            Some((*id, client.end(), theirs.clock(*id))).filter(|(_, ours, theirs)| ours > theirs)
        };
        let wanted = self.clients.iter().rev().filter_map(lacks).map(|(id, _, theirs)| (id, theirs));
        let mut out = PieceWriter::new(&self.base);
        out.write(|out| write_var_uint(out, wanted.clone().count() as u64));
        for (id, theirs) in wanted {
            self.clients[&id].write_since(&self.base, id, theirs, &mut out);
        }
        let delete_set = || {
            let mut out = Vec::new();
            self.write_delete_set(&mut out);
            out.into()
        };
        out.append(self.delete_set.get_or_init(delete_set));
        out.finish()
    }

    /// [`StructStore::diff`] for an encoded state vector.
    pub fn diff_for(&self, state_vector: &[u8]) -> Pieces {
        let theirs: BTreeMap<u64, u64> = state_vector_entries(state_vector).collect();
        self.diff(&|client| theirs.get(&client).copied().unwrap_or(0))
    }

    /// The encoded state vector.
    pub fn state_vector(&self) -> Bytes {
        let mut out = Vec::new();
        write_var_uint(&mut out, self.clients.len() as u64);
        for (id, client) in self.clients.iter().rev() {
            write_var_uint(&mut out, *id);
            write_var_uint(&mut out, client.end());
        }
        out.into()
    }

    /// Every client and its next clock.
    pub fn clocks(&self) -> impl Iterator<Item = (u64, u64)> {
        self.clients.iter().map(|(id, client)| (*id, client.end()))
    }

    /// Approximate upper bound for the size of the encoded state.
    pub fn bytes(&self) -> usize {
        /// Largest encoding of a range of the delete set.
        const ENCODED_RANGE_BYTES: usize = 10;
        let fresh_ranges = self.deleted_ranges.saturating_sub(self.base_ranges);
        self.base.len() + self.fresh_bytes + fresh_ranges * ENCODED_RANGE_BYTES
    }

    /// Number of clients.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Approximate memory use, in bytes. Called often, so it takes constant time.
    pub fn memory_bytes(&self) -> usize {
        // A growing buffer has up to twice the capacity that it needs; there is one mark for each kilobyte of structs.
        let fresh = self.fresh_bytes * 2;
        let marks = (self.base.len() + fresh) / MARK_EVERY * size_of::<Mark>();
        let clients =
            self.clients.len() * (size_of::<(u64, ClientStructs)>() + if fresh > 0 { FRESH_BYTES } else { 0 });
        let delete_set = if self.is_changed { self.delete_set.get().map_or(0, Bytes::len) } else { 0 };
        self.base.len() + fresh + marks + clients + self.deleted_ranges * RANGE_BYTES + delete_set
    }

    /// True when a difference may copy more than the limit, because much was added since the last compaction.
    pub(crate) fn diff_copies_much(&self) -> bool {
        self.fresh_bytes > MIN_COPIED_BYTES + self.base.len() / COPIED_SHARE
    }

    /// True when nothing changed since the last compaction. The store then takes little more memory than its encoding.
    pub fn is_compact(&self) -> bool {
        !self.is_changed
    }

    fn base(&self) -> Bytes {
        if self.base.is_empty() {
            Bytes::from_static(&syncline_protocol::update::EMPTY_UPDATE)
        } else {
            self.base.clone()
        }
    }

    fn write_delete_set(&self, out: &mut Vec<u8>) {
        let with_deletions = self.clients.iter().rev().filter(|(_, client)| client.deleted_ranges() > 0);
        write_var_uint(out, with_deletions.clone().count() as u64);
        for (id, client) in with_deletions {
            write_var_uint(out, *id);
            write_var_uint(out, client.deleted_ranges() as u64);
            for Range { start, end } in client.deleted() {
                write_var_uint(out, start);
                write_var_uint(out, end - start);
            }
        }
    }
}

impl StateClock for StructStore {
    fn clock(&self, client: u64) -> u64 {
        self.clients.get(&client).map_or(0, ClientStructs::end)
    }
}
