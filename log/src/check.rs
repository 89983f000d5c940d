//! Examines a store without opening it in the engine: which documents are intact, which are damaged, and what can still be
//! read. Nothing is written, and damage that makes the engine's open fail does not stop the survey.
//!
//! For `syncline verify` and `syncline repair`. Takes the store's lock, because a running server would change the file
//! during the read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use syncline_protocol::ids::{DocumentName, Seq};

use super::batch_counter::{find_contradiction, read_tally};
use super::layout::{
    CHUNK_BYTES, FORMAT, HEADS, Head, META_KEY, Meta, NAMES, PartKind, decode_entry, head_key, id_of, name_key,
    part_of, parts_prefix, sum_of, sweep_key, unseal,
};
use super::saved_segments::saved_segments;
use super::sled::{ENGINE_DIR, SledStore};
use super::sled_read::{DocumentReader, damaged};
use super::sled_scan::Scan;
use super::store::{Record, Snapshot, StoreError, Stored};
use super::store_lock::{Lock, StoreInfo, open_error};

/// Damaged ranges that are listed one by one.
const MAX_LISTED_RANGES: usize = 8;

/// A store as it is on disk.
pub struct Survey {
    scan: Scan,
    dir: PathBuf,
    /// Store-wide problems.
    complaints: Vec<String>,
    /// Documents whose newest head was written before this log position may be outdated.
    maybe_outdated_before: i64,
    /// The names of all documents that exist or are lost.
    documents: BTreeSet<DocumentName>,
    /// The ids of documents whose names cannot be read, by the names they are given.
    nameless: BTreeMap<DocumentName, u64>,
    missing: Option<u64>,
    _lock: Option<Lock>,
}

/// The state of a document on disk.
#[derive(Debug)]
pub enum Condition {
    /// Everything that was acknowledged is intact.
    Intact(Stored),
    /// Something is missing, damaged or outdated.
    Damaged {
        /// The damage, and the first affected record.
        error: StoreError,
        /// The readable updates, oldest first: a snapshot, then the records after it, possibly with gaps.
        kept: Vec<Bytes>,
        /// Descriptions of the missing parts.
        lost: Vec<String>,
    },
}

impl Survey {
    /// Reads the store in `dir`.
    ///
    /// Errors: [`StoreError::NoStore`]; [`StoreError::InUse`]; [`StoreError::Open`] for a store of a newer format.
    pub fn of(dir: &Path) -> Result<Self, StoreError> {
        let db = dir.join(ENGINE_DIR).join("db");
        if !db.exists() && StoreInfo::read(dir).is_ok_and(|info| info.is_none()) {
            return Err(StoreError::NoStore { dir: dir.to_owned() });
        }
        let lock = Lock::take(dir)?;
        Self::read(dir, Some(lock), i64::MAX)
    }

    /// A survey of a store whose engine has failed, by the process that holds its lock. Ignores what was written at the log
    /// position `failed_at` or later.
    pub(super) fn of_failed(dir: &Path, failed_at: i64) -> Result<Self, StoreError> {
        Self::read(dir, None, failed_at)
    }

    /// Reads a document like [`super::store::Store::load`].
    pub(super) fn load(&self, document: &DocumentName) -> Result<Option<Stored>, StoreError> {
        if !self.documents.contains(document) {
            return Ok(None);
        }
        match self.document(document) {
            Condition::Intact(stored) => Ok(Some(stored)),
            Condition::Damaged { error, .. } => Err(error),
        }
    }

    fn read(dir: &Path, lock: Option<Lock>, until: i64) -> Result<Self, StoreError> {
        let db = dir.join(ENGINE_DIR).join("db");
        // The file of a running engine is newer than the segments saved when it opened.
        let saved = if lock.is_some() { saved_segments(dir) } else { Vec::new() };
        let scan =
            Scan::read(&db, saved, until).map_err(|error| open_error(dir, format!("{}: {error}", db.display())))?;
        let mut survey = Self {
            scan,
            dir: dir.to_owned(),
            complaints: Vec::new(),
            maybe_outdated_before: 0,
            documents: BTreeSet::new(),
            nameless: BTreeMap::new(),
            missing: None,
            _lock: lock,
        };
        survey.find_documents();
        survey.check_store()?;
        Ok(survey)
    }

    /// Store-wide problems. Empty: none.
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    /// The names of all documents that exist or are lost.
    pub fn documents(&self) -> impl Iterator<Item = &DocumentName> {
        self.documents.iter()
    }

    /// True if the name of a document cannot be read. [`Survey::documents`] has it under another.
    pub fn is_nameless(&self, document: &DocumentName) -> bool {
        self.nameless.contains_key(document)
    }

    /// The number of documents that are lost with their names. `None` if it is lost as well.
    pub fn missing(&self) -> Option<u64> {
        self.missing
    }

    /// Checks a document of [`Survey::documents`].
    pub fn document(&self, document: &DocumentName) -> Condition {
        match self.read_intact(document) {
            Ok((_, stored)) => self.intact_or_outdated(document, stored),
            Err(error) => {
                let (kept, lost) = self.salvage(document);
                Condition::Damaged { error, kept, lost }
            }
        }
    }

    /// The condition of a consistent document, which may be in an older state than the one acknowledged.
    fn intact_or_outdated(&self, document: &DocumentName, stored: Stored) -> Condition {
        if self.scan.lsn(&head_key(document)).is_some_and(|lsn| lsn >= self.maybe_outdated_before) {
            return Condition::Intact(stored);
        }
        let last = stored.last();
        let kept = stored.snapshot.into_iter().map(|snapshot| snapshot.update);
        let kept = kept.chain(stored.records.into_iter().map(|record| record.update)).collect();
        let error = damaged(document, last.next(), "it and later records may be missing");
        Condition::Damaged { error, kept, lost: vec![format!("possibly records after record {last}")] }
    }

    /// Copies an intact document into another store, with its sequence numbers and its epoch.
    pub fn copy(&self, document: &DocumentName, into: &SledStore) -> Result<(), StoreError> {
        let (head, _) = self.read_intact(document)?;
        let prefix = parts_prefix(head.id);
        let parts = self.scan.live_keys(&prefix).filter(|key| part_of(key).is_some_and(|part| head.references(part)));
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
        // A write with a sweep mark was never finished, so it was never acknowledged.
        ids.retain(|id| self.scan.live_keys(&sweep_key(*id)).next().is_none());
        for id in ids {
            let mut names = (1..).map_while(|attempt| DocumentName::exact(&recovered_name(id, attempt)).ok());
            if let Some(name) = names.find(|name| !self.documents.contains(name)) {
                self.documents.insert(name.clone());
                self.nameless.insert(name, id);
            }
        }
    }

    fn check_store(&mut self) -> Result<(), StoreError> {
        for range in self.scan.unreadable.iter().take(MAX_LISTED_RANGES) {
            let path = self.dir.join(ENGINE_DIR).join("db");
            self.complaints.push(format!("{}: bytes {} to {} cannot be read", path.display(), range.start, range.end));
        }
        if let Some(more) = self.scan.unreadable.len().checked_sub(MAX_LISTED_RANGES + 1) {
            self.complaints.push(format!("and {} more unreadable ranges", more + 1));
        }
        for name in self.nameless.keys() {
            self.complaints.push(format!("the name of a document cannot be read; it is listed as {name:?}"));
        }
        let info = match StoreInfo::read(&self.dir) {
            Ok(info) => info,
            Err(error) => {
                self.complaints.push(error.to_string());
                None
            }
        };
        let meta = self
            .scan
            .value(META_KEY)
            .and_then(|(value, is_newest)| Some((unseal(META_KEY, &value).and_then(Meta::decode)?, is_newest)));
        let newest_format = info.map(|info| info.format).max(meta.map(|(meta, _)| meta.format));
        if newest_format.is_some_and(|format| format > FORMAT) {
            return Err(open_error(&self.dir, "it was written by a newer version of Syncline: use that version"));
        }
        let heads = self.scan.live_keys(HEADS).count() as u64;
        self.missing = meta.map(|(meta, _)| meta.documents.saturating_sub(self.documents.len() as u64));
        match (info, meta) {
            (_, None) => self.newest_metadata_is_lost("the store's metadata cannot be read".into()),
            (_, Some((_, false))) => {
                self.newest_metadata_is_lost("the newest metadata of the store cannot be read".into());
            }
            (Some(info), Some((meta, _))) if info.identity != meta.identity => {
                self.complaints.push("syncline.store and the sled directory belong to different stores".into());
            }
            (Some(info), Some((meta, _))) if info.committed > meta.committed => {
                self.newest_metadata_is_lost(format!(
                    "the store is older than it was: {} records were saved, {} were found",
                    info.committed, meta.committed
                ));
            }
            (_, Some((meta, _))) if heads != meta.documents => {
                self.all_maybe_outdated(format!("{} documents were saved, {heads} were found", meta.documents));
            }
            (_, Some((meta, _))) => {
                let sum =
                    self.scan.live_keys(HEADS).filter_map(|key| self.scan.value(key)).map(|(value, _)| sum_of(&value));
                let sum = sum.fold(0, u64::wrapping_add);
                let heads = if meta.format < FORMAT { meta.heads } else { sum };
                let counted = read_tally(&self.dir, meta.identity);
                if let Some(contradiction) = find_contradiction(&meta, heads, counted) {
                    if counted.is_some_and(|counted| counted > meta.batches) {
                        self.newest_metadata_is_lost(contradiction);
                    } else {
                        self.maybe_outdated_before = self.scan.maybe_outdated_before();
                        self.complaints.push(contradiction);
                    }
                }
            }
        }
        self.check_engine_snapshots();
        Ok(())
    }

    /// Adds a problem because of which any document may be outdated, and others may be missing.
    fn newest_metadata_is_lost(&mut self, complaint: String) {
        self.all_maybe_outdated(complaint);
        self.missing = None;
    }

    /// Adds a problem because of which any document may be outdated.
    fn all_maybe_outdated(&mut self, complaint: String) {
        self.complaints.push(complaint);
        self.maybe_outdated_before = i64::MAX;
    }

    /// Checks the checksum of sled's snapshot files (lists of its pages). sled does not open with a damaged one.
    fn check_engine_snapshots(&mut self) {
        let files = fs::read_dir(self.dir.join(ENGINE_DIR)).into_iter().flatten().flatten();
        for path in files.map(|entry| entry.path()).filter(|path| is_snapshot(path)) {
            let is_intact = fs::read(&path).is_ok_and(|bytes| {
                let Some((body, crc)) = bytes.split_last_chunk::<4>() else { return false };
                let body = body.len().checked_sub(8).map(|len| &body[..len]);
                body.is_some_and(|body| crc32fast::hash(body) == u32::from_le_bytes(*crc))
            });
            if !is_intact {
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

    /// Reads a document and verifies it against its newest head.
    fn read_intact(&self, document: &DocumentName) -> Result<(Head, Stored), StoreError> {
        let head = self.head(document)?;
        let swept = self.scan.live_keys(&sweep_key(head.id)).next().is_some();
        let mut reader = DocumentReader::new(document, &head);
        let prefix = parts_prefix(head.id);
        for key in self.scan.live_keys(&prefix) {
            let Some(part) = part_of(key) else { continue };
            if !head.references(part) {
                if swept {
                    continue;
                }
                return Err(damaged(document, part.seq, "it is stored, but the document's head does not reference it"));
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
            .or_else(|| self.nameless.get(document).copied())
    }

    /// The readable parts of a damaged document, including superseded ones, and descriptions of the missing parts.
    fn salvage(&self, document: &DocumentName) -> (Vec<Bytes>, Vec<String>) {
        let mut lost = Vec::new();
        let Some(id) = self.id(document) else {
            lost.push("the whole document".to_owned());
            return (Vec::new(), lost);
        };
        let mut parts: BTreeMap<(bool, Seq), BTreeMap<u32, Bytes>> = BTreeMap::new();
        for key in self.scan.all_keys(&parts_prefix(id)) {
            let Some(part) = part_of(key) else { continue };
            let value = self.scan.value(key);
            let payload = value.as_ref().and_then(|(value, _)| unseal(key, value)).map(Bytes::copy_from_slice);
            let chunks = parts.entry((part.kind == PartKind::Entry, part.seq)).or_default();
            chunks.extend(payload.map(|payload| (part.chunk, payload)));
        }
        let head = self.head(document).ok();
        let snapshots = parts.iter().rev().filter(|((is_entry, _), _)| !is_entry);
        let snapshot = snapshots.filter_map(|(&(_, upto), chunks)| complete_snapshot(head, upto, chunks)).next();
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

/// The name given to a document whose name cannot be read; another one for each attempt.
fn recovered_name(id: u64, attempt: u32) -> String {
    if attempt == 1 { format!("recovered-{id}") } else { format!("recovered-{id}-{attempt}") }
}

fn is_snapshot(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy());
    name.is_some_and(|name| name.starts_with("snap.") && !name.ends_with(".generating"))
}

fn complete_snapshot(head: Option<Head>, upto: Seq, chunks: &BTreeMap<u32, Bytes>) -> Option<Snapshot> {
    let update = joined(chunks)?;
    // For a snapshot that the head does not reference, only a partly filled last chunk proves that it is complete.
    let is_complete = match head.filter(|head| head.upto == upto) {
        Some(head) => update.len() as u64 == head.snapshot_bytes,
        None => !update.len().is_multiple_of(CHUNK_BYTES),
    };
    is_complete.then_some(Snapshot { upto, update })
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

/// Descriptions of the records between `covered` and `last` that are missing.
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
