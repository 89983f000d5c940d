//! Commits to sled. The steps of a commit are applied in slices (batches of limited size), between which sled is synced
//! when due.
//!
//! A step is atomic because the document's head changes in one batch. Parts that do not fit into a slice are written
//! before that batch, under keys that the old head does not reference, or removed after it, under keys that the new head
//! does not reference. A sweep mark, written first and removed last, records that such leftovers may exist; the next open
//! removes them.

mod removal;
mod rename;

use std::collections::HashSet;

use bytes::BytesMut;
use sled::{Batch, IVec};
use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use tracing::info;

use super::engine_error::failed;
use super::failpoint::Point;
use super::layout::{
    CHUNK_BYTES, Head, META_KEY, Meta, Part, PartKind, SWEEPS, chain, encode_entry, head_key, id_of, name_key,
    part_key, part_of, parts_prefix, seal, sum_of, sweep_key, unseal,
};
use super::sled::{Engine, Writer};
use super::sled_read::{chunks_for, damaged, entry_records};
use super::store::{Record, Snapshot, StoreError, Write};

/// The approximate limit of keys and values in one batch. sled writes ten to forty times as much.
const SLICE_BYTES: usize = 64 << 10;
/// The approximate limit of changes in one batch.
const SLICE_CHANGES: usize = 1024;
/// What a removal counts as, because sled rewrites the rest of the page.
const REMOVAL_BYTES: usize = 512;

impl Engine {
    /// Applies all steps and makes them durable.
    pub(crate) fn commit(&self, writer: &mut Writer, writes: &[Write]) -> Result<(), StoreError> {
        Point::BeforeAppend.pass();
        let mut slice = Slice::new(self, &mut writer.meta);
        for write in writes {
            match write {
                Write::Append { document, epoch, records } => slice.append(document, *epoch, records)?,
                Write::Compact { document, snapshot } => slice.compact(document, snapshot)?,
                Write::Delete { document } => slice.delete(document)?,
                Write::Bury { document, epoch, time_ms } => slice.bury(document, *epoch, *time_ms)?,
            }
            slice.apply_if_full()?;
        }
        slice.apply()?;
        Point::AfterAppend.pass();
        self.sync()?;
        Point::AfterSync.pass();
        Ok(())
    }

    /// Removes the parts that a crash left partly written or partly removed.
    pub(crate) fn sweep_leftovers(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let marks: Result<Vec<IVec>, _> = self.db.scan_prefix(SWEEPS).keys().collect();
        let marks = marks.map_err(failed)?;
        if marks.is_empty() {
            return Ok(());
        }
        info!(documents = marks.len(), "removing leftovers of interrupted writes");
        let mut slice = Slice::new(self, &mut writer.meta);
        for id in marks.iter().filter_map(|mark| id_of(mark)) {
            slice.sweep(id)?;
        }
        slice.apply()?;
        self.sync()
    }
}

/// The batch being filled.
struct Slice<'a> {
    engine: &'a Engine,
    meta: &'a mut Meta,
    batch: Batch,
    bytes: usize,
    changes: usize,
    /// Documents with changes in `batch`, which must be applied before they are read.
    touched: HashSet<DocumentName>,
}

impl<'a> Slice<'a> {
    fn new(engine: &'a Engine, meta: &'a mut Meta) -> Self {
        Self { engine, meta, batch: Batch::default(), bytes: 0, changes: 0, touched: HashSet::new() }
    }

    fn append(&mut self, document: &DocumentName, epoch: Epoch, records: &[Record]) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        let stored = self.head(document)?;
        let is_new = stored.is_none();
        let mut head = stored.unwrap_or_else(|| self.new_head(epoch));
        let first = head.last.next();
        for record in records {
            let expected = head.last.next();
            if record.seq != expected {
                return Err(StoreError::OutOfOrder { document: document.clone(), expected, found: record.seq });
            }
            head.last = expected;
        }
        let entry = encode_entry(records);
        let is_large = entry.len() > SLICE_BYTES;
        if is_large {
            self.put_sweep_mark(head.id)?;
        }
        head.digest = self.put_chunks(&head, PartKind::Entry, first, &entry, head.digest, is_large)?;
        head.entries += 1;
        if is_new {
            self.put(name_key(head.id), document.as_str().as_bytes());
            self.meta.documents += 1;
        }
        self.meta.committed += records.len() as u64;
        if is_large {
            self.remove(sweep_key(head.id));
        }
        self.put_head(document, &head, stored.as_ref());
        Ok(())
    }

    fn compact(&mut self, document: &DocumentName, snapshot: &Snapshot) -> Result<(), StoreError> {
        let refused = |expected| StoreError::OutOfOrder { document: document.clone(), expected, found: snapshot.upto };
        let before = self.head(document)?.ok_or_else(|| refused(Seq::ZERO))?;
        let mut head = before;
        if snapshot.upto > head.last {
            return Err(refused(head.last));
        }
        if snapshot.upto <= head.upto {
            return Ok(());
        }
        let Remains { superseded, tail_sums, tail_entries, cut } = self.remains(document, &head, snapshot.upto)?;
        let is_large = snapshot.update.len() > SLICE_BYTES || superseded.len() > SLICE_CHANGES;
        if is_large {
            self.put_sweep_mark(head.id)?;
        }
        let digest = self.put_chunks(&head, PartKind::Snapshot, snapshot.upto, &snapshot.update, 0, is_large)?;
        head.upto = snapshot.upto;
        head.snapshot_bytes = snapshot.update.len() as u64;
        head.snapshot_chunks = chunks_for(snapshot.update.len());
        head.entries = tail_entries;
        head.digest = digest;
        if !cut.is_empty() {
            // In the same batch as the head, whatever the size, because the old head references these keys too.
            let entry = encode_entry(&cut);
            head.digest = self.put_chunks(&head, PartKind::Entry, snapshot.upto.next(), &entry, head.digest, false)?;
            head.entries += 1;
        }
        head.digest = tail_sums.into_iter().fold(head.digest, chain);
        Point::CompactSnapshotWritten.pass();
        self.put_head(document, &head, Some(&before));
        if is_large {
            self.apply()?;
            Point::CompactHeadWritten.pass();
        }
        for key in superseded {
            self.remove(key);
            if is_large {
                self.apply_if_full()?;
                Point::CompactRemoving.pass();
            }
        }
        if is_large {
            self.remove(sweep_key(head.id));
        }
        Ok(())
    }

    /// The document's head after all steps so far.
    fn head(&mut self, document: &DocumentName) -> Result<Option<Head>, StoreError> {
        if self.touched.contains(document) {
            self.apply()?;
        }
        match self.engine.head(document)? {
            None if self.engine.is_lost(document) => Err(damaged(document, Seq(1), "its head is missing")),
            head => Ok(head),
        }
    }

    fn new_head(&mut self, epoch: Epoch) -> Head {
        let id = self.meta.next_id;
        self.meta.next_id += 1;
        Head {
            id,
            epoch,
            last: Seq::ZERO,
            upto: Seq::ZERO,
            snapshot_bytes: 0,
            snapshot_chunks: 0,
            entries: 0,
            digest: 0,
        }
    }

    /// What a compaction up to `upto` removes from a document and what it keeps.
    fn remains(&self, document: &DocumentName, head: &Head, upto: Seq) -> Result<Remains, StoreError> {
        let mut remains = Remains::default();
        // The chunks of the last entry that begins at or before `upto`; it may also contain later records.
        let mut last_superseded: Vec<(Part, IVec, IVec)> = Vec::new();
        let mut kept_from = head.last.next();
        for item in self.engine.db.scan_prefix(parts_prefix(head.id)) {
            let (key, value) = item.map_err(failed)?;
            let Some(part) = part_of(&key) else { continue };
            if part.kind == PartKind::Entry && part.seq > upto {
                if part.chunk == 0 {
                    kept_from = kept_from.min(part.seq);
                    remains.tail_entries += 1;
                }
                remains.tail_sums.push(sum_of(&value));
                continue;
            }
            if part.kind == PartKind::Entry {
                if part.chunk == 0 {
                    last_superseded.clear();
                }
                last_superseded.push((part, key.clone(), value));
            }
            remains.superseded.push(key);
        }
        if kept_from > upto.next() {
            let Some(&(part, ..)) = last_superseded.first() else {
                return Err(damaged(document, upto.next(), "it is missing"));
            };
            let mut entry = BytesMut::new();
            for (_, key, value) in &last_superseded {
                let payload = unseal(key, value);
                entry.extend_from_slice(payload.ok_or_else(|| damaged(document, part.seq, "it has a wrong checksum"))?);
            }
            remains.cut = entry_records(document, part.seq, entry.freeze())?;
            remains.cut.retain(|record| record.seq > upto);
        }
        Ok(remains)
    }

    /// Puts `payload` in chunks, and returns the digest extended by them.
    fn put_chunks(
        &mut self,
        head: &Head,
        kind: PartKind,
        seq: Seq,
        payload: &[u8],
        mut digest: u64,
        in_slices: bool,
    ) -> Result<u64, StoreError> {
        for (chunk, payload) in (0..).zip(payload.chunks(CHUNK_BYTES)) {
            let sum = self.put(part_key(head.id, Part { kind, seq, chunk }), payload);
            digest = chain(digest, sum);
            if in_slices {
                self.apply_if_full()?;
            }
        }
        Ok(digest)
    }

    /// Puts the head. `before`: the head it replaces.
    fn put_head(&mut self, document: &DocumentName, head: &Head, before: Option<&Head>) {
        let key = head_key(document);
        let before = before.map_or(0, |before| sum_of(&seal(&key, &before.encode())));
        let sum = self.put(key, &head.encode());
        self.meta.heads = self.meta.heads.wrapping_sub(before).wrapping_add(sum);
        self.touched.insert(document.clone());
    }

    /// Records that the document may have parts that no head references. Called before the first of them is written.
    fn put_sweep_mark(&mut self, id: u64) -> Result<(), StoreError> {
        self.apply()?;
        self.put(sweep_key(id), &[]);
        Ok(())
    }

    /// Puts a value and returns its checksum.
    fn put(&mut self, key: Vec<u8>, payload: &[u8]) -> u64 {
        let value = seal(&key, payload);
        let sum = sum_of(&value);
        self.bytes += key.len() + value.len();
        self.changes += 1;
        self.batch.insert(key, value);
        sum
    }

    fn remove(&mut self, key: impl Into<IVec>) {
        self.bytes += REMOVAL_BYTES;
        self.changes += 1;
        self.batch.remove(key);
    }

    fn apply_if_full(&mut self) -> Result<(), StoreError> {
        if self.bytes < SLICE_BYTES && self.changes < SLICE_CHANGES {
            return Ok(());
        }
        self.apply()?;
        self.engine.sync_when_due()
    }

    fn apply(&mut self) -> Result<(), StoreError> {
        if self.changes > 0 {
            self.meta.batches += 1;
        }
        self.apply_uncounted()
    }

    /// [`Slice::apply`] without counting a batch, for renames: an extra count could hide the loss of a counted batch.
    fn apply_uncounted(&mut self) -> Result<(), StoreError> {
        if self.changes == 0 {
            return Ok(());
        }
        self.put(META_KEY.to_vec(), &self.meta.encode());
        self.engine.db.apply_batch(std::mem::take(&mut self.batch)).map_err(failed)?;
        self.bytes = 0;
        self.changes = 0;
        self.touched.clear();
        Ok(())
    }
}

/// The result of [`Slice::remains`].
#[derive(Default)]
struct Remains {
    /// The keys to remove.
    superseded: Vec<IVec>,
    /// The checksums of the parts that stay, in order.
    tail_sums: Vec<u64>,
    /// The number of entries that stay.
    tail_entries: u64,
    /// The records after `upto` of the entry that spans it. They are written as a new entry.
    cut: Vec<Record>,
}

/// The document name in the value under a name key, if the value is intact.
pub(super) fn name_in(key: &[u8], value: &[u8]) -> Option<DocumentName> {
    DocumentName::exact(std::str::from_utf8(unseal(key, value)?).ok()?).ok()
}
