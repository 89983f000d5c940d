//! Looks through a store without opening it: what is whole, what is damaged, what can still be read. Nothing is written, and
//! damage that ends the engine's own open does not end this.
//!
//! For `syncline verify` and `syncline repair`. Takes the store's lock: a running server writes under the reader.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use syncline_protocol::ids::{DocumentName, Seq};

use super::batch_counter::{doubt, look};
use super::layout::{
    CHUNK_BYTES, FORMAT, HEADS, Head, Kind, META_KEY, Meta, NAMES, decode_entry, head_key, id_of, name_key, part_of,
    parts_prefix, sum_of, sweep_key, unseal,
};
use super::saved_segments::kept;
use super::sled::{ENGINE_DIR, SledStore};
use super::sled_read::{Reader, damaged};
use super::sled_scan::Scan;
use super::store::{Record, Snapshot, StoreError, Stored};
use super::store_lock::{Card, Lock, open_error};

/// Damaged ranges told one by one.
const MAX_TOLD_RANGES: usize = 8;

/// A store as it lies on disk.
pub struct Survey {
    scan: Scan,
    dir: PathBuf,
    /// What is wrong with the store as a whole, in words.
    complaints: Vec<String>,
    /// Something was set back: documents whose newest head is older than this log position may be among it.
    set_back_before: i64,
    /// Names whose heads are there, or were.
    documents: BTreeSet<DocumentName>,
    /// Documents without a readable name, by id.
    nameless: Vec<u64>,
    _lock: Option<Lock>,
}

/// What became of a document.
#[derive(Debug)]
pub enum Condition {
    /// Everything that was acknowledged is there.
    Whole(Stored),
    /// It is not.
    Damaged {
        /// What is wrong, and at which record.
        error: StoreError,
        /// What can still be read, oldest first: a snapshot, then the records behind it, perhaps with gaps.
        kept: Vec<Bytes>,
        /// What cannot, in words.
        lost: Vec<String>,
    },
}

impl Survey {
    /// Reads the store in `dir`.
    ///
    /// Errors: [`StoreError::InUse`]; [`StoreError::Open`] when there is no store, or one of a newer format.
    pub fn of(dir: &Path) -> Result<Self, StoreError> {
        let db = dir.join(ENGINE_DIR).join("db");
        if !db.exists() && Card::read(dir).is_ok_and(|card| card.is_none()) {
            return Err(StoreError::NoStore { dir: dir.to_owned() });
        }
        let lock = Lock::take(dir)?;
        Self::read(dir, Some(lock), i64::MAX)
    }

    /// [`Survey::of`] a store whose engine has failed, by the process that holds its lock, without what was written at the log
    /// position `failed_at` or later.
    pub(super) fn of_failed(dir: &Path, failed_at: i64) -> Result<Self, StoreError> {
        Self::read(dir, None, failed_at)
    }

    /// A document as [`super::store::Store::load`] gives it.
    pub(super) fn load(&self, document: &DocumentName) -> Result<Option<Stored>, StoreError> {
        if !self.documents.contains(document) {
            return Ok(None);
        }
        match self.document(document) {
            Condition::Whole(stored) => Ok(Some(stored)),
            Condition::Damaged { error, .. } => Err(error),
        }
    }

    fn read(dir: &Path, lock: Option<Lock>, until: i64) -> Result<Self, StoreError> {
        let db = dir.join(ENGINE_DIR).join("db");
        // A running engine's file is newer than what was kept when it opened.
        let kept = if lock.is_some() { kept(dir) } else { Vec::new() };
        let scan =
            Scan::read(&db, kept, until).map_err(|error| open_error(dir, format!("{}: {error}", db.display())))?;
        let mut survey = Self {
            scan,
            dir: dir.to_owned(),
            complaints: Vec::new(),
            set_back_before: 0,
            documents: BTreeSet::new(),
            nameless: Vec::new(),
            _lock: lock,
        };
        survey.find_documents();
        survey.look_at_the_store()?;
        Ok(survey)
    }

    /// What is wrong with the store as a whole, in words. Empty: nothing.
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    /// Every document that is there or was, by name.
    pub fn documents(&self) -> impl Iterator<Item = &DocumentName> {
        self.documents.iter()
    }

    /// Checks a document of [`Survey::documents`].
    pub fn document(&self, document: &DocumentName) -> Condition {
        match self.whole(document) {
            Ok((_, stored)) => self.whole_or_set_back(document, stored),
            Err(error) => {
                let (kept, lost) = self.salvage(document);
                Condition::Damaged { error, kept, lost }
            }
        }
    }

    /// A document that is consistent may be so as it was earlier.
    fn whole_or_set_back(&self, document: &DocumentName, stored: Stored) -> Condition {
        if self.scan.lsn(&head_key(document)).is_some_and(|lsn| lsn >= self.set_back_before) {
            return Condition::Whole(stored);
        }
        let last = stored.last();
        let kept = stored.snapshot.into_iter().map(|snapshot| snapshot.update);
        let kept = kept.chain(stored.records.into_iter().map(|record| record.update)).collect();
        let error = damaged(document, last.next(), "it and what follows may be missing");
        Condition::Damaged { error, kept, lost: vec![format!("perhaps what came after record {last}")] }
    }

    /// Copies a whole document into another store, with its numbers and its epoch.
    pub fn copy(&self, document: &DocumentName, into: &SledStore) -> Result<(), StoreError> {
        let (head, _) = self.whole(document)?;
        let prefix = parts_prefix(head.id);
        let parts = self.scan.live_keys(&prefix).filter(|key| part_of(key).is_some_and(|part| head.names(part)));
        into.adopt(document, &head, parts.filter_map(|key| Some((key.to_vec(), self.scan.value(key)?.0))))
    }

    fn find_documents(&mut self) {
        let mut ids = BTreeSet::new();
        for key in self.scan.live_keys(HEADS) {
            let name = std::str::from_utf8(&key[HEADS.len()..]).ok().and_then(|name| DocumentName::exact(name).ok());
            self.documents.extend(name);
        }
        for key in self.scan.live_keys(NAMES) {
            let Some((value, _)) = self.scan.value(key) else { continue };
            let name = unseal(key, &value).and_then(|name| std::str::from_utf8(name).ok());
            self.documents.extend(name.and_then(|name| DocumentName::exact(name).ok()));
        }
        for key in self.scan.live_keys(b"d") {
            ids.extend(key.get(1..9).and_then(|id| id.try_into().ok()).map(u64::from_be_bytes));
        }
        for name in &self.documents {
            ids.remove(&self.id(name).unwrap_or(0));
        }
        // What was begun and never finished was never acknowledged.
        ids.retain(|id| self.scan.live_keys(&sweep_key(*id)).next().is_none());
        for id in ids {
            self.documents.extend(DocumentName::exact(&nameless(id)).ok());
            self.nameless.push(id);
        }
    }

    fn look_at_the_store(&mut self) -> Result<(), StoreError> {
        for range in self.scan.unreadable.iter().take(MAX_TOLD_RANGES) {
            let path = self.dir.join(ENGINE_DIR).join("db");
            self.complaints.push(format!("{}: bytes {} to {} cannot be read", path.display(), range.start, range.end));
        }
        if let Some(more) = self.scan.unreadable.len().checked_sub(MAX_TOLD_RANGES + 1) {
            self.complaints.push(format!("and {} more such places", more + 1));
        }
        for id in &self.nameless {
            self.complaints.push(format!("a document whose name cannot be read is called {:?} here", nameless(*id)));
        }
        let card = match Card::read(&self.dir) {
            Ok(card) => card,
            Err(error) => {
                self.complaints.push(error.to_string());
                None
            }
        };
        let meta = self
            .scan
            .value(META_KEY)
            .and_then(|(value, is_newest)| Some((unseal(META_KEY, &value).and_then(Meta::decode)?, is_newest)));
        let newest_format = card.map(|card| card.format).max(meta.map(|(meta, _)| meta.format));
        if newest_format.is_some_and(|format| format > FORMAT) {
            return Err(open_error(&self.dir, "it was written by a newer version: use that one"));
        }
        let heads = self.scan.live_keys(HEADS).count() as u64;
        match (card, meta) {
            (_, None) => self.set_back("the store's description cannot be read".into()),
            (_, Some((_, false))) => self.set_back("the store's newest description cannot be read".into()),
            (Some(card), Some((meta, _))) if card.identity != meta.identity => {
                self.complaints.push("syncline.store and the sled directory belong to different stores".into());
            }
            (Some(card), Some((meta, _))) if card.committed > meta.committed => self.set_back(format!(
                "it is older than it was: {} records were saved, {} are there",
                card.committed, meta.committed
            )),
            (_, Some((meta, _))) if heads != meta.documents => {
                self.set_back(format!("{} documents were saved, {heads} are there", meta.documents));
            }
            (_, Some((meta, _))) => {
                let sum =
                    self.scan.live_keys(HEADS).filter_map(|key| self.scan.value(key)).map(|(value, _)| sum_of(&value));
                let sum = sum.fold(0, u64::wrapping_add);
                let heads = if meta.format < FORMAT { meta.heads } else { sum };
                let counted = look(&self.dir, meta.identity);
                if let Some(doubt) = doubt(&meta, heads, counted) {
                    // Of a lost end nothing tells what was in it.
                    let end_is_lost = counted.is_some_and(|counted| counted > meta.batches);
                    self.set_back_before = if end_is_lost { i64::MAX } else { self.scan.set_back_before() };
                    self.complaints.push(doubt);
                }
            }
        }
        self.look_at_snapshots();
        Ok(())
    }

    /// A complaint after which any document may be older than it was.
    fn set_back(&mut self, complaint: String) {
        self.complaints.push(complaint);
        self.set_back_before = i64::MAX;
    }

    /// sled's list of its pages ends with a checksum; without it sled does not open.
    fn look_at_snapshots(&mut self) {
        let files = fs::read_dir(self.dir.join(ENGINE_DIR)).into_iter().flatten().flatten();
        for path in files.map(|entry| entry.path()).filter(|path| is_snapshot(path)) {
            let whole = fs::read(&path).is_ok_and(|bytes| {
                let Some((body, crc)) = bytes.split_last_chunk::<4>() else { return false };
                let body = body.len().checked_sub(8).map(|len| &body[..len]);
                body.is_some_and(|body| crc32fast::hash(body) == u32::from_le_bytes(*crc))
            });
            if !whole {
                self.complaints.push(format!("{} is damaged", path.display()));
            }
        }
    }

    fn head(&self, document: &DocumentName) -> Result<Head, StoreError> {
        let key = head_key(document);
        let Some((value, is_newest)) = self.scan.value(&key) else {
            return Err(damaged(document, Seq(1), "its head is missing"));
        };
        let head = unseal(&key, &value).and_then(Head::decode);
        let head = head.ok_or_else(|| damaged(document, Seq(1), "its head is damaged"))?;
        if is_newest { Ok(head) } else { Err(damaged(document, head.last.next(), "its newest head cannot be read")) }
    }

    fn whole(&self, document: &DocumentName) -> Result<(Head, Stored), StoreError> {
        let head = self.head(document)?;
        let swept = self.scan.live_keys(&sweep_key(head.id)).next().is_some();
        let mut reader = Reader::new(document, &head);
        let prefix = parts_prefix(head.id);
        for key in self.scan.live_keys(&prefix) {
            let Some(part) = part_of(key) else { continue };
            if !head.names(part) {
                if swept {
                    continue;
                }
                return Err(damaged(document, part.seq, "it lies there, and the document's head does not know it"));
            }
            let Some((value, _)) = self.scan.value(key) else { return reader.fail(part.seq, "it cannot be read") };
            reader.take(part, key, &value)?;
        }
        Ok((head, reader.finish()?))
    }

    fn id(&self, document: &DocumentName) -> Option<u64> {
        let key = head_key(document);
        if let Some(head) = self.scan.value(&key).and_then(|(value, _)| unseal(&key, &value).and_then(Head::decode)) {
            return Some(head.id);
        }
        let mut names = self.scan.live_keys(NAMES).filter_map(id_of);
        names
            .find(|id| {
                let key = name_key(*id);
                let value = self.scan.value(&key);
                value.is_some_and(|(value, _)| unseal(&key, &value) == Some(document.as_str().as_bytes()))
            })
            .or_else(|| self.nameless.iter().copied().find(|id| nameless(*id) == document.as_str()))
    }

    /// Everything of a damaged document that can be read, superseded parts included: they may be what is left.
    fn salvage(&self, document: &DocumentName) -> (Vec<Bytes>, Vec<String>) {
        let mut lost = Vec::new();
        let Some(id) = self.id(document) else {
            lost.push("nothing of it can be found".to_owned());
            return (Vec::new(), lost);
        };
        let mut parts: BTreeMap<(bool, Seq), BTreeMap<u32, Bytes>> = BTreeMap::new();
        for key in self.scan.all_keys(&parts_prefix(id)) {
            let Some(part) = part_of(key) else { continue };
            let value = self.scan.value(key);
            let payload = value.as_ref().and_then(|(value, _)| unseal(key, value)).map(Bytes::copy_from_slice);
            let chunks = parts.entry((part.kind == Kind::Entry, part.seq)).or_default();
            chunks.extend(payload.map(|payload| (part.chunk, payload)));
        }
        let head = self.head(document).ok();
        let snapshots = parts.iter().rev().filter(|((is_entry, _), _)| !is_entry);
        let snapshot = snapshots.filter_map(|(&(_, upto), chunks)| whole_snapshot(head, upto, chunks)).next();
        let covered = snapshot.as_ref().map_or(Seq::ZERO, |snapshot| snapshot.upto);
        if let Some(wanted) = head.map(|head| head.upto).filter(|wanted| *wanted > covered) {
            lost.push(format!("the snapshot up to record {wanted}"));
        }
        let entries = parts.iter().filter(|((is_entry, _), _)| *is_entry);
        let records = entries.filter_map(|(&(_, first), chunks)| decode_entry(first, joined(chunks)?)).flatten();
        let records: BTreeMap<Seq, Record> =
            records.filter(|record| record.seq > covered).map(|record| (record.seq, record)).collect();
        let last = head.map(|head| head.last).max(records.keys().next_back().copied()).unwrap_or(covered);
        lost.extend(gaps(covered, last, records.keys().copied()));
        let snapshot = snapshot.map(|snapshot| snapshot.update);
        (snapshot.into_iter().chain(records.into_values().map(|record| record.update)).collect(), lost)
    }
}

/// How a document is called whose name cannot be read.
fn nameless(id: u64) -> String {
    format!("recovered-{id}")
}

fn is_snapshot(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy());
    name.is_some_and(|name| name.starts_with("snap.") && !name.ends_with(".generating"))
}

fn whole_snapshot(head: Option<Head>, upto: Seq, chunks: &BTreeMap<u32, Bytes>) -> Option<Snapshot> {
    let update = joined(chunks)?;
    // Of one that the head does not name, only a last chunk that is not full proves that it is the last.
    let is_whole = match head.filter(|head| head.upto == upto) {
        Some(head) => update.len() as u64 == head.snapshot_bytes,
        None => !update.len().is_multiple_of(CHUNK_BYTES),
    };
    is_whole.then_some(Snapshot { upto, update })
}

fn joined(chunks: &BTreeMap<u32, Bytes>) -> Option<Bytes> {
    let mut bytes = BytesMut::new();
    for (expected, (chunk, payload)) in (0..).zip(chunks) {
        if *chunk != expected {
            return None;
        }
        bytes.extend_from_slice(payload);
    }
    (!bytes.is_empty()).then(|| bytes.freeze())
}

/// The records between `covered` and `last` that are not there, in words.
fn gaps(covered: Seq, last: Seq, there: impl Iterator<Item = Seq>) -> Vec<String> {
    let mut gaps = Vec::new();
    let mut expected = covered.next();
    for seq in there.chain(std::iter::once(last.next())) {
        if seq > expected {
            let end = Seq(seq.0 - 1);
            gaps.push(if end == expected { format!("record {end}") } else { format!("records {expected} to {end}") });
        }
        expected = seq.next().max(expected);
    }
    gaps
}
