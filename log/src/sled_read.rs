//! Reads and verifies documents in sled, and takes a census of all documents when a store is opened.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use sled::IVec;
use syncline_protocol::ids::{DocumentName, Seq};
use tracing::warn;

use super::engine_error::{DAMAGED, explain_panic, failed};
use super::layout::{
    CHUNK_BYTES, HEADS, Head, Meta, NAMES, Part, PartKind, chain, decode_entry, entry_chunks, head_key, id_of, part_of,
    parts_prefix, sum_of, sweep_key, unseal,
};
use super::sled::Engine;
use super::store::{Mark, Record, Snapshot, StoreError, Stored};
use super::store_lock::{REPAIR_HINT, open_error};

/// How often a document is read again because it changed during the read.
const READ_TRIES: u32 = 64;
/// The most that is reserved for a snapshot before it is read. The buffer of a larger one grows.
const MAX_RESERVED_BYTES: u64 = 64 << 20;

/// The result of [`Engine::census`].
pub(super) struct Census {
    /// Documents whose heads are missing.
    pub lost: HashSet<DocumentName>,
    /// The sum of all heads' checksums.
    pub heads: u64,
    /// Keys of heads whose names contain percent signs, which may be older spellings of names.
    pub spelled: Vec<IVec>,
}

impl Engine {
    /// Counts the documents, sums their heads' checksums, and finds documents whose head is missing.
    pub(crate) fn census(&self, dir: &Path, meta: &Meta) -> Result<Census, StoreError> {
        let (mut heads, mut sum) = (0_u64, 0_u64);
        let mut spelled = Vec::new();
        for item in self.db.scan_prefix(HEADS) {
            let (key, value) = item.map_err(failed)?;
            sum = sum.wrapping_add(sum_of(&value));
            heads += 1;
            spelled.extend(key.contains(&b'%').then_some(key));
        }
        let mut named = HashSet::new();
        for item in self.db.scan_prefix(NAMES) {
            let (key, value) = item.map_err(failed)?;
            let name = unseal(&key, &value).and_then(|name| std::str::from_utf8(name).ok());
            let Some(name) = name.and_then(|name| DocumentName::exact(name).ok()) else {
                warn!(id = id_of(&key), "the stored name of a document is damaged; it is still found by its head");
                continue;
            };
            named.insert(name);
        }
        if heads == meta.documents && named.len() as u64 == heads {
            return Ok(Census { lost: HashSet::new(), heads: sum, spelled });
        }
        let mut lost = HashSet::new();
        for name in named {
            if !self.db.contains_key(head_key(&name)).map_err(failed)? {
                lost.insert(name);
            }
        }
        if heads + (lost.len() as u64) < meta.documents {
            let missing = meta.documents - heads - lost.len() as u64;
            return Err(open_error(
                dir,
                format!("{missing} of {} documents are missing. {REPAIR_HINT}", meta.documents),
            ));
        }
        Ok(Census { lost, heads: sum, spelled })
    }

    /// [`Engine::load`], with errors and panics of the engine on damaged data as [`StoreError::Damaged`].
    pub(crate) fn load_guarded(&self, document: &DocumentName) -> Result<Option<Stored>, StoreError> {
        let unreadable = |what: &str| damaged(document, Seq(1), &format!("the engine cannot read it: {what}"));
        catch_unwind(AssertUnwindSafe(|| self.load(document)))
            .unwrap_or_else(|panic| Err(unreadable(&explain_panic(panic.as_ref()))))
            .map_err(|error| match error {
                StoreError::Io(what) if what == DAMAGED => unreadable(&what),
                other => other,
            })
    }

    /// Reads and verifies a document.
    pub(crate) fn load(&self, document: &DocumentName) -> Result<Option<Stored>, StoreError> {
        let key = head_key(document);
        for _ in 0..READ_TRIES {
            let Some(head_value) = self.db.get(&key).map_err(failed)? else {
                return if self.is_lost(document) {
                    Err(damaged(document, Seq(1), "its head is missing"))
                } else {
                    Ok(None)
                };
            };
            let head = open_head(document, &key, &head_value)?;
            let swept = self.has_sweep_mark(&head)?;
            let outcome = self.load_parts(document, &head, swept);
            // A commit may have changed the document during the read: only trust the outcome if it did not.
            if self.db.get(&key).map_err(failed)?.as_ref() == Some(&head_value) && self.has_sweep_mark(&head)? == swept
            {
                return outcome.map(Some);
            }
        }
        Err(StoreError::Io(format!(
            "document {document:?} cannot be read: it changed during each of {READ_TRIES} reads"
        )))
    }

    /// The head of a document, verified.
    pub(crate) fn head(&self, document: &DocumentName) -> Result<Option<Head>, StoreError> {
        let key = head_key(document);
        let value = self.db.get(&key).map_err(failed)?;
        value.map(|value| open_head(document, &key, &value)).transpose()
    }

    /// The fingerprint of the document's stored state, from its head.
    pub(crate) fn mark(&self, document: &DocumentName) -> Result<Option<Mark>, StoreError> {
        if self.is_lost(document) {
            return Err(damaged(document, Seq(1), "its head is missing"));
        }
        let head = self.head(document)?;
        Ok(head.map(|Head { epoch, last, digest, .. }| Mark { epoch, last, digest }))
    }

    /// The names of all documents, including lost ones.
    pub(crate) fn list(&self) -> Result<Vec<DocumentName>, StoreError> {
        let mut names: Vec<_> = self.lost().iter().cloned().collect();
        for key in self.db.scan_prefix(HEADS).keys() {
            let key = key.map_err(failed)?;
            let name = std::str::from_utf8(&key[HEADS.len()..]).ok().and_then(|name| DocumentName::exact(name).ok());
            names.extend(name);
        }
        Ok(names)
    }

    /// Documents whose heads are missing.
    pub(crate) fn lost(&self) -> MutexGuard<'_, HashSet<DocumentName>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the document's head is missing.
    pub(crate) fn is_lost(&self, document: &DocumentName) -> bool {
        self.lost().contains(document)
    }

    /// Whether the document has a sweep mark, so it may have parts that its head does not reference.
    fn has_sweep_mark(&self, head: &Head) -> Result<bool, StoreError> {
        self.db.contains_key(sweep_key(head.id)).map_err(failed)
    }

    fn load_parts(&self, document: &DocumentName, head: &Head, swept: bool) -> Result<Stored, StoreError> {
        let mut reader = DocumentReader::new(document, head);
        for item in self.db.scan_prefix(parts_prefix(head.id)) {
            let (key, value) = item.map_err(failed)?;
            let Some(part) = part_of(&key) else {
                return Err(damaged(document, reader.expected(), "one of its keys is invalid"));
            };
            if !head.references(part) {
                if swept {
                    continue;
                }
                return Err(damaged(document, part.seq, "it is stored, but the document's head does not reference it"));
            }
            reader.take(part, &key, &value)?;
        }
        reader.finish()
    }
}

fn open_head(document: &DocumentName, key: &[u8], value: &[u8]) -> Result<Head, StoreError> {
    unseal(key, value).and_then(Head::decode).ok_or_else(|| damaged(document, Seq(1), "its head is damaged"))
}

/// Makes a [`StoreError::Damaged`].
pub(super) fn damaged(document: &DocumentName, seq: Seq, what: &str) -> StoreError {
    StoreError::Damaged { document: document.clone(), seq, what: what.to_owned() }
}

/// Assembles a document from its parts, in key order, and verifies it against its head.
pub(super) struct DocumentReader<'a> {
    document: &'a DocumentName,
    head: &'a Head,
    digest: u64,
    snapshot: BytesMut,
    snapshot_chunks: u32,
    records: Vec<Record>,
    entries: u64,
    /// The entry being assembled.
    entry: BytesMut,
    /// The number of its chunks so far, and in total.
    entry_chunks: (u32, u32),
}

impl<'a> DocumentReader<'a> {
    /// A reader without parts.
    pub(crate) fn new(document: &'a DocumentName, head: &'a Head) -> Self {
        Self {
            document,
            head,
            digest: 0,
            // The head's checksum is valid, so the length can be trusted. A growing buffer could take twice the memory.
            snapshot: BytesMut::with_capacity(head.snapshot_bytes.min(MAX_RESERVED_BYTES) as usize),
            snapshot_chunks: 0,
            records: Vec::new(),
            entries: 0,
            entry: BytesMut::new(),
            entry_chunks: (0, 0),
        }
    }

    /// The sequence number of the next record.
    fn expected(&self) -> Seq {
        self.records.last().map_or(self.head.upto, |record| record.seq).next()
    }

    /// Returns [`StoreError::Damaged`] for this document.
    pub(crate) fn fail<T>(&self, seq: Seq, what: &str) -> Result<T, StoreError> {
        Err(damaged(self.document, seq, what))
    }

    /// Adds the next part in key order.
    pub(crate) fn take(&mut self, part: Part, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        match part.kind {
            PartKind::Snapshot if part.chunk != self.snapshot_chunks => return self.fail(part.seq, SNAPSHOT_MISSING),
            PartKind::Snapshot => {}
            PartKind::Entry if self.snapshot_chunks != self.head.snapshot_chunks => {
                return self.fail(self.head.upto, SNAPSHOT_MISSING);
            }
            PartKind::Entry if part.seq != self.expected() => return self.fail(self.expected(), "it is missing"),
            PartKind::Entry if part.chunk != self.entry_chunks.0 => {
                return self.fail(part.seq, "a part of it is missing");
            }
            PartKind::Entry => {}
        }
        let Some(payload) = unseal(key, value) else {
            let what = match part.kind {
                PartKind::Snapshot => "the snapshot up to it has a wrong checksum",
                PartKind::Entry => "it has a wrong checksum",
            };
            return self.fail(part.seq, what);
        };
        self.digest = chain(self.digest, sum_of(value));
        match part.kind {
            PartKind::Snapshot => {
                self.snapshot.extend_from_slice(payload);
                self.snapshot_chunks += 1;
                Ok(())
            }
            PartKind::Entry => self.take_entry(part, payload),
        }
    }

    fn take_entry(&mut self, part: Part, payload: &[u8]) -> Result<(), StoreError> {
        if part.chunk == 0 {
            let Some(chunks) = entry_chunks(payload) else { return self.fail(part.seq, INVALID_RECORD) };
            self.entry_chunks = (0, chunks);
        }
        self.entry.extend_from_slice(payload);
        self.entry_chunks.0 += 1;
        if self.entry_chunks.0 < self.entry_chunks.1 {
            return Ok(());
        }
        let entry = self.entry.split().freeze();
        let Some(records) = decode_entry(part.seq, entry) else { return self.fail(part.seq, INVALID_RECORD) };
        self.records.extend(records);
        self.entry_chunks = (0, 0);
        self.entries += 1;
        Ok(())
    }

    /// The document, if it is complete and its digest matches the head.
    pub(crate) fn finish(self) -> Result<Stored, StoreError> {
        let head = self.head;
        if self.snapshot_chunks != head.snapshot_chunks {
            return self.fail(head.upto, SNAPSHOT_MISSING);
        }
        if self.entry_chunks.0 != 0 {
            return self.fail(self.expected(), "a part of it is missing");
        }
        if self.expected() != head.last.next() {
            return self.fail(self.expected(), "it is missing");
        }
        if self.digest != head.digest
            || self.entries != head.entries
            || self.snapshot.len() as u64 != head.snapshot_bytes
        {
            return self.fail(head.upto.next(), "the records do not match the document's head");
        }
        let snapshot = (head.upto > Seq::ZERO).then(|| Snapshot { upto: head.upto, update: self.snapshot.freeze() });
        Ok(Stored { epoch: head.epoch, snapshot, records: self.records })
    }
}

const SNAPSHOT_MISSING: &str = "a part of the snapshot up to it is missing";
const INVALID_RECORD: &str = "it is not a valid record";

/// The number of chunks for a value of `bytes`.
pub(super) fn chunks_for(bytes: usize) -> u32 {
    bytes.div_ceil(CHUNK_BYTES) as u32
}

/// The records of one entry.
pub(super) fn entry_records(document: &DocumentName, seq: Seq, entry: Bytes) -> Result<Vec<Record>, StoreError> {
    decode_entry(seq, entry).ok_or_else(|| damaged(document, seq, INVALID_RECORD))
}
