//! PURE: a document as Yjs' struct store keeps it, without integration: each client's structs in the order of their clocks,
//! as bytes, and what is deleted.
//!
//! A hub stores, relays and answers; where in a text or a list an item lies is for the readers to find out. So nothing here
//! depends on content: every operation is linear in the bytes it is given (and logarithmic in the document), in time and in
//! memory, whatever the bytes are.
//!
//! An item that goes on where the one before it ended (same client, its origin is the other's last element, same right
//! origin, same kind of content) is joined to it as it comes, like Yjs joins neighbours after it has integrated them. That
//! changes nothing for readers: YATA puts an item whose origin is X directly behind X before it looks at anything else, and
//! what was inserted between the two concurrently cuts the joined item at that place and meets its rest as it would have met
//! the second item. `tests/tests/it/replica/structs.rs` compares with Yjs and with yrs.
//!
//! ```text
//! base      what the last compaction made, and what others hold of those before
//! client    one client's structs: those of the last compaction, and those since
//! ranges    what is deleted of a client
//! compact   the whole again: deleted content dropped, neighbours joined
//! garbage   what lies in deleted types
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
pub(crate) use client::Written;
use client::{Client, FRESH_BYTES, MARK_EVERY, Mark};
use pieces::PieceWriter;
pub use pieces::Pieces;
use ranges::{RANGE_BYTES, Ranges};

/// What a difference may copy: so many bytes, and one of so many bytes of the base.
const MIN_COPIED_BYTES: usize = 64 * 1024;
const COPIED_SHARE: usize = 64;

/// The structs and deletions of one document. Updates must have passed the scanner, and must not wait for anything
/// (`syncline_protocol::update::verdict`).
#[derive(Debug, Default)]
pub struct StructStore {
    /// Ordered, because encodings are: the greatest client comes first.
    clients: BTreeMap<u64, Client>,
    /// What the last compaction made: clients' bases are parts of it.
    base: Base,
    /// Where bases count that others still hold; `None`: nowhere.
    superseded: Option<Superseded>,
    /// Something came since.
    is_changed: bool,
    /// Bytes of structs beside the base.
    fresh_bytes: usize,
    /// Ranges deleted, in all clients; of them in the base.
    deleted_ranges: usize,
    base_ranges: usize,
    /// The encoded delete set, if somebody needed it since the last deletion. Of a compacted document a part of the base.
    delete_set: OnceLock<Bytes>,
}

impl StructStore {
    /// Takes a whole state as it is, without a copy of it. False when this store is not empty, or the update is no whole state:
    /// then nothing has changed.
    pub(crate) fn adopt(&mut self, state: &Bytes, mut tell: impl FnMut(&RawStruct<'_>)) -> bool {
        if !self.clients.is_empty() {
            return false;
        }
        let mut raw = RawUpdate::new(state);
        let (mut clients, mut is_compactable) = (BTreeMap::new(), false);
        while let Some(mut section) = raw.section() {
            let id = section.client;
            let Some((client, joins)) = Client::adopt(&mut section, state.len(), &mut tell) else { return false };
            is_compactable |= joins;
            clients.insert(id, client);
            raw.after(&section);
        }
        let mut listed: BTreeMap<u64, Ranges> = BTreeMap::new();
        let read = read_delete_set(raw.rest(), |id, deleted| _ = listed.entry(id).or_default().insert(deleted));
        debug_assert!(read.is_ok(), "not scanned");
        for (id, client) in &mut clients {
            // A compacted state lists exactly what has no content any more.
            is_compactable |= client.delete_listed(&listed.remove(id).unwrap_or_default());
        }
        self.deleted_ranges = clients.values().map(Client::deleted_ranges).sum();
        self.base_ranges = self.deleted_ranges;
        let delete_set_at = state.len() - raw.rest().len();
        (self.clients, self.base) = (clients, state.clone().into());
        let delete_set = (!is_compactable).then(|| self.base.slice(delete_set_at..));
        self.delete_set = delete_set.map_or_else(OnceLock::new, OnceLock::from);
        // What was compacted by none before is compacted like what comes.
        self.is_changed = is_compactable;
        true
    }

    /// From now on bases that others hold when they are replaced are counted here.
    pub(crate) fn count_superseded(&mut self, count: Superseded) {
        self.superseded = Some(count);
    }

    /// Adds what is new in an update. True when something was: a struct or a deletion.
    pub fn add(&mut self, update: &[u8]) -> bool {
        self.add_with(update, |_| ())
    }

    /// The same, and tells of each struct of which something is new.
    pub(crate) fn add_with(&mut self, update: &[u8], mut tell: impl FnMut(&RawStruct<'_>)) -> bool {
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
                    tell(&found);
                    deletes |= found.is_deleted();
                    client.push(&found);
                }
                self.fresh_bytes += client.fresh_bytes() - bytes;
                self.deleted_ranges = self.deleted_ranges + client.deleted_ranges() - ranges;
            }
            raw.after(&section);
        }
        let (clients, count) = (&mut self.clients, &mut self.deleted_ranges);
        let read = read_delete_set(raw.rest(), |client, deleted| {
            // One that is unknown would have waited.
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

    /// True when every deletion of an update is here.
    pub fn knows_deletions_of(&self, delete_set: &[u8]) -> bool {
        let mut knows = true;
        let read = read_delete_set(delete_set, |client, deleted| {
            knows = knows && self.clients.get(&client).is_some_and(|client| client.is_deleted(deleted));
        });
        knows && read.is_ok()
    }

    /// True when all these clocks of a client are deleted.
    pub fn is_deleted(&self, client: u64, clocks: Range<u64>) -> bool {
        self.clients.get(&client).is_some_and(|client| client.is_deleted(clocks))
    }

    /// The whole state as one v1 update, its deleted content as far as it was not compacted.
    pub fn encode(&self) -> Bytes {
        if self.is_changed { self.diff(&|_| 0).to_bytes() } else { self.base() }
    }

    /// What a peer with these clocks lacks, as a v1 update with the whole delete set. It shares what the last compaction made.
    pub fn diff(&self, theirs: &impl StateClock) -> Pieces {
        let lacks = |(id, client): (&u64, &Client)| {
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

    /// Bytes of the encoded state at most, about.
    pub fn bytes(&self) -> usize {
        /// A range of the delete set, at most.
        const ENCODED_RANGE_BYTES: usize = 10;
        let fresh_ranges = self.deleted_ranges.saturating_sub(self.base_ranges);
        self.base.len() + self.fresh_bytes + fresh_ranges * ENCODED_RANGE_BYTES
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Bytes that it takes in memory, about. Asked often: nothing is gone through.
    pub fn memory_bytes(&self) -> usize {
        // A run of bytes that grows has up to as much room again; one mark stands for a kilobyte of structs.
        let fresh = self.fresh_bytes * 2;
        let marks = (self.base.len() + fresh) / MARK_EVERY * size_of::<Mark>();
        let clients = self.clients.len() * (size_of::<(u64, Client)>() + if fresh > 0 { FRESH_BYTES } else { 0 });
        let delete_set = if self.is_changed { self.delete_set.get().map_or(0, Bytes::len) } else { 0 };
        self.base.len() + fresh + marks + clients + self.deleted_ranges * RANGE_BYTES + delete_set
    }

    /// A difference copies more than this share of the base and so many bytes: what came since the last compaction.
    pub(crate) fn copies_much(&self) -> bool {
        self.fresh_bytes > MIN_COPIED_BYTES + self.base.len() / COPIED_SHARE
    }

    /// Nothing came since the last compaction: it takes little more than its encoding.
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
        self.clients.get(&client).map_or(0, Client::end)
    }
}
