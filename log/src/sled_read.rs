//! Reading documents from sled and checking that they are whole, and counting them when a store is opened.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use sled::IVec;
use syncline_protocol::ids::{DocumentName, Seq};
use tracing::warn;

use super::layout::{
    CHUNK_BYTES, HEADS, Head, Kind, Meta, NAMES, Part, chain, decode_entry, entry_chunks, head_key, id_of, part_of,
    parts_prefix, sum_of, sweep_key, unseal,
};
use super::sled::{Engine, failed, words};
use super::store::{Mark, Record, Snapshot, StoreError, Stored};
use super::store_lock::{WAY_OUT, open_error};

/// A document that changes under the reader is read again, at most so often.
const READ_TRIES: u32 = 64;
/// Room made for a snapshot before it is read; a larger one grows into more.
const MAX_RESERVED_BYTES: u64 = 64 << 20;
/// How sled's own word for damage begins; it has no other that tells it from a disk's error.
const CORRUPTION: &str = "Read corrupted data";

/// What an open finds in a store as a whole.
pub(super) struct Census {
    /// Documents whose heads are gone.
    pub lost: HashSet<DocumentName>,
    /// The sum of all heads' checksums.
    pub heads: u64,
    /// Keys of heads whose names have percent signs: they may be an older spelling of a name.
    pub spelled: Vec<IVec>,
}

impl Engine {
    /// Counts the documents and sums up their heads. Finds those whose head is gone.
    pub fn census(&self, dir: &Path, meta: &Meta) -> Result<Census, StoreError> {
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
                warn!(id = id_of(&key), "the name of a document is damaged; it is found by its head");
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
            return Err(open_error(dir, format!("{missing} of {} documents are missing. {WAY_OUT}", meta.documents)));
        }
        Ok(Census { lost, heads: sum, spelled })
    }

    /// [`Engine::load`]; where the engine itself stumbles over damage, the document is named.
    pub fn load_guarded(&self, document: &DocumentName) -> Result<Option<Stored>, StoreError> {
        let unreadable = |what: &str| damaged(document, Seq(1), &format!("the engine cannot read it: {what}"));
        catch_unwind(AssertUnwindSafe(|| self.load(document)))
            .unwrap_or_else(|panic| Err(unreadable(words(panic.as_ref()))))
            .map_err(|error| match error {
                StoreError::Io(what) if what.starts_with(CORRUPTION) => unreadable(&what),
                other => other,
            })
    }

    /// Reads and checks a document.
    pub fn load(&self, document: &DocumentName) -> Result<Option<Stored>, StoreError> {
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
            let swept = self.is_swept(&head)?;
            let outcome = self.load_parts(document, &head, swept);
            // A commit may have passed by: only what did not change while it was read is what it seems.
            if self.db.get(&key).map_err(failed)?.as_ref() == Some(&head_value) && self.is_swept(&head)? == swept {
                return outcome.map(Some);
            }
        }
        Err(StoreError::Io(format!("document {document:?} changed faster than it could be read")))
    }

    /// The head of a document, checked.
    pub fn head(&self, document: &DocumentName) -> Result<Option<Head>, StoreError> {
        let key = head_key(document);
        let value = self.db.get(&key).map_err(failed)?;
        value.map(|value| open_head(document, &key, &value)).transpose()
    }

    /// The document's state in its head's words.
    pub fn mark(&self, document: &DocumentName) -> Result<Option<Mark>, StoreError> {
        if self.is_lost(document) {
            return Err(damaged(document, Seq(1), "its head is missing"));
        }
        let head = self.head(document)?;
        Ok(head.map(|Head { epoch, last, digest, .. }| Mark { epoch, last, digest }))
    }

    /// Every document's name, those of lost documents included.
    pub fn list(&self) -> Result<Vec<DocumentName>, StoreError> {
        let mut names: Vec<_> = self.lost().iter().cloned().collect();
        for key in self.db.scan_prefix(HEADS).keys() {
            let key = key.map_err(failed)?;
            let name = std::str::from_utf8(&key[HEADS.len()..]).ok().and_then(|name| DocumentName::exact(name).ok());
            names.extend(name);
        }
        Ok(names)
    }

    /// Documents whose heads are gone.
    pub fn lost(&self) -> MutexGuard<'_, HashSet<DocumentName>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the document's head is gone.
    pub fn is_lost(&self, document: &DocumentName) -> bool {
        self.lost().contains(document)
    }

    /// Whether the document may have leftovers.
    fn is_swept(&self, head: &Head) -> Result<bool, StoreError> {
        self.db.contains_key(sweep_key(head.id)).map_err(failed)
    }

    fn load_parts(&self, document: &DocumentName, head: &Head, swept: bool) -> Result<Stored, StoreError> {
        let mut reader = Reader::new(document, head);
        for item in self.db.scan_prefix(parts_prefix(head.id)) {
            let (key, value) = item.map_err(failed)?;
            let Some(part) = part_of(&key) else {
                return Err(damaged(document, reader.expected(), "there is a key that is none"));
            };
            if !head.names(part) {
                if swept {
                    continue;
                }
                return Err(damaged(document, part.seq, "it lies there, and the document's head does not know it"));
            }
            reader.take(part, &key, &value)?;
        }
        reader.finish()
    }
}

fn open_head(document: &DocumentName, key: &[u8], value: &[u8]) -> Result<Head, StoreError> {
    unseal(key, value).and_then(Head::decode).ok_or_else(|| damaged(document, Seq(1), "its head is damaged"))
}

/// [`StoreError::Damaged`].
pub(super) fn damaged(document: &DocumentName, seq: Seq, what: &str) -> StoreError {
    StoreError::Damaged { document: document.clone(), seq, what: what.to_owned() }
}

/// Puts a document together from its parts in order.
pub(super) struct Reader<'a> {
    document: &'a DocumentName,
    head: &'a Head,
    digest: u64,
    snapshot: BytesMut,
    snapshot_chunks: u32,
    records: Vec<Record>,
    entries: u64,
    /// The entry being put together.
    entry: BytesMut,
    /// Its chunks so far, and in all.
    entry_chunks: (u32, u32),
}

impl<'a> Reader<'a> {
    /// Nothing read yet.
    pub fn new(document: &'a DocumentName, head: &'a Head) -> Self {
        Self {
            document,
            head,
            digest: 0,
            // The head's checksum was right: it is what will be read, and a buffer that grew would be twice as large.
            snapshot: BytesMut::with_capacity(head.snapshot_bytes.min(MAX_RESERVED_BYTES) as usize),
            snapshot_chunks: 0,
            records: Vec::new(),
            entries: 0,
            entry: BytesMut::new(),
            entry_chunks: (0, 0),
        }
    }

    /// The first record not yet read.
    fn expected(&self) -> Seq {
        self.records.last().map_or(self.head.upto, |record| record.seq).next()
    }

    /// [`StoreError::Damaged`] for this document.
    pub fn fail<T>(&self, seq: Seq, what: &str) -> Result<T, StoreError> {
        Err(damaged(self.document, seq, what))
    }

    /// Takes the next part in order of keys.
    pub fn take(&mut self, part: Part, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        match part.kind {
            Kind::Snapshot if part.chunk != self.snapshot_chunks => return self.fail(part.seq, SNAPSHOT_MISSING),
            Kind::Snapshot => {}
            Kind::Entry if self.snapshot_chunks != self.head.snapshot_chunks => {
                return self.fail(self.head.upto, SNAPSHOT_MISSING);
            }
            Kind::Entry if part.seq != self.expected() => return self.fail(self.expected(), "it is missing"),
            Kind::Entry if part.chunk != self.entry_chunks.0 => return self.fail(part.seq, "a part of it is missing"),
            Kind::Entry => {}
        }
        let Some(payload) = unseal(key, value) else {
            let what = match part.kind {
                Kind::Snapshot => "the snapshot up to it has a wrong checksum",
                Kind::Entry => "it has a wrong checksum",
            };
            return self.fail(part.seq, what);
        };
        self.digest = chain(self.digest, sum_of(value));
        match part.kind {
            Kind::Snapshot => {
                self.snapshot.extend_from_slice(payload);
                self.snapshot_chunks += 1;
                Ok(())
            }
            Kind::Entry => self.take_entry(part, payload),
        }
    }

    fn take_entry(&mut self, part: Part, payload: &[u8]) -> Result<(), StoreError> {
        if part.chunk == 0 {
            let Some(chunks) = entry_chunks(payload) else { return self.fail(part.seq, "it is no record") };
            self.entry_chunks = (0, chunks);
        }
        self.entry.extend_from_slice(payload);
        self.entry_chunks.0 += 1;
        if self.entry_chunks.0 < self.entry_chunks.1 {
            return Ok(());
        }
        let entry = self.entry.split().freeze();
        let Some(records) = decode_entry(part.seq, entry) else { return self.fail(part.seq, "it is no record") };
        self.records.extend(records);
        self.entry_chunks = (0, 0);
        self.entries += 1;
        Ok(())
    }

    /// The document, if it is whole.
    pub fn finish(self) -> Result<Stored, StoreError> {
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
            return self.fail(head.upto.next(), "the records are not the ones that were counted");
        }
        let snapshot = (head.upto > Seq::ZERO).then(|| Snapshot { upto: head.upto, update: self.snapshot.freeze() });
        Ok(Stored { epoch: head.epoch, snapshot, records: self.records })
    }
}

const SNAPSHOT_MISSING: &str = "a part of the snapshot up to it is missing";

/// How many chunks `bytes` take.
pub(super) fn chunks_for(bytes: usize) -> u32 {
    bytes.div_ceil(CHUNK_BYTES) as u32
}

/// The records of one entry that is read alone.
pub(super) fn entry_records(document: &DocumentName, seq: Seq, entry: Bytes) -> Result<Vec<Record>, StoreError> {
    decode_entry(seq, entry).ok_or_else(|| damaged(document, seq, "it is no record"))
}
