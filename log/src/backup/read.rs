//! Opens, verifies and restores a backup.
//!
//! A restored document begins a new history: a new epoch, and records numbered from 1 (the snapshot becomes the first). A
//! device with the old history is notified of the change and does not merge; stock clients see the restored content.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use syncline_protocol::ids::{DocumentName, Epoch, NameError, Seq};

use super::manifest::{Entry, MANIFEST_FILE, Manifest};
use super::pack;
use super::write::read_location;
use super::{BackupError, at};
use crate::sled::SledStore;
use crate::store::{Record, Store, StoreError, Stored, Write};
use crate::store_lock::{RESTORING_DIR, create_dir_durably, sync_dir};

/// The limit of bytes restored by one commit.
const COMMIT_BYTES: usize = 8 << 20;
/// The limit of documents restored by one commit.
const COMMIT_DOCUMENTS: usize = 1_000;

/// A backup whose manifest was read and verified.
#[derive(Debug)]
pub struct Backup {
    dir: PathBuf,
    manifest: Manifest,
}

/// The result of a restore.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// The number of restored documents, including deleted ones.
    pub documents: u64,
    /// The number of restored documents that are tombstones.
    pub deleted: u64,
    /// Documents that were damaged when the backup was taken, and why. Restored from an earlier copy, or not at all.
    pub damaged: Vec<(DocumentName, String)>,
    /// Documents that are damaged in the backup, and the error. They were not restored.
    pub unreadable: Vec<(DocumentName, String)>,
}

impl Backup {
    /// Opens the backup in `dir`.
    ///
    /// Errors: there is no manifest, or it is damaged.
    pub fn open(dir: &Path) -> Result<Self, BackupError> {
        let manifest = Manifest::read(dir)?.ok_or_else(|| BackupError::Unusable {
            dir: dir.to_owned(),
            what: if dir.exists() {
                format!("it contains no complete backup: {MANIFEST_FILE} is missing")
            } else {
                "the directory does not exist; name the directory of a backup".to_owned()
            },
        })?;
        Ok(Self { dir: dir.to_owned(), manifest })
    }

    /// The documents of the backup.
    pub fn documents(&self) -> &BTreeMap<DocumentName, Entry> {
        &self.manifest.documents
    }

    /// Finds the stored name for `name`: the document with exactly this name, else the one with the parsed name, else one
    /// whose stored name is another spelling of it.
    pub fn find(&self, name: &str) -> Result<DocumentName, NameError> {
        let exact = DocumentName::exact(name).ok();
        if let Some(exact) = exact.filter(|exact| self.documents().contains_key(exact)) {
            return Ok(exact);
        }
        let name = DocumentName::parse(name)?;
        if self.documents().contains_key(&name) {
            return Ok(name);
        }
        let spelled = self.documents().keys().find(|stored| stored.renamed().as_ref() == Some(&name));
        Ok(spelled.cloned().unwrap_or(name))
    }

    /// When the backup began, in milliseconds since the Unix epoch.
    pub fn taken_ms(&self) -> u64 {
        self.manifest.taken_ms
    }

    /// Reads and verifies one document. `None`: it was damaged, and no earlier backup has a copy.
    pub fn read(&self, document: &DocumentName) -> Result<Option<Stored>, BackupError> {
        let entry = self.documents().get(document);
        let entry =
            entry.ok_or_else(|| BackupError::NoDocument { dir: self.dir.clone(), document: document.clone() })?;
        let Some(location) = &entry.place else { return Ok(None) };
        let file = self.dir.join(&location.pack);
        let damaged = |what: &str| BackupError::Damaged {
            file: file.clone(),
            what: format!("document {document:?} at byte {}: {what}", location.at),
        };
        let encoded = match read_location(&self.dir, location) {
            Ok(encoded) => Bytes::from(encoded),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(damaged("it is truncated")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged("the file is missing")),
            Err(error) => return Err(at(&file)(error)),
        };
        let (name, stored) = pack::decode(&encoded).map_err(damaged)?;
        if pack::sum_of(&encoded) != location.sum || name != *document {
            return Err(damaged("another document is stored there"));
        }
        Ok(Some(stored))
    }

    /// Reads and verifies every document. Returns the errors; if there are none, all documents can be restored.
    pub fn verify(&self) -> Vec<BackupError> {
        self.documents().keys().filter_map(|document| self.read(document).err()).collect()
    }
}

/// Restores every readable document of a backup into `data`, which must be empty or not exist. Blocks until everything is
/// durable. Until then `data` cannot be opened as a store.
///
/// Errors: no document of the backup can be read; `data` is not empty; the disk fails.
pub fn restore_all(backup: &Backup, data: &Path) -> Result<Restored, BackupError> {
    // Do not create an empty store from a backup without readable documents.
    let mut errors = backup.verify();
    let stored_documents = backup.documents().values().filter(|entry| entry.place.is_some()).count();
    if !errors.is_empty() && errors.len() == stored_documents {
        return Err(errors.swap_remove(0));
    }
    make_empty(data)?;
    let unfinished = data.join(RESTORING_DIR);
    let store = SledStore::open(&unfinished)?;
    let mut restored = Restored::default();
    let mut batch = RestoreBatch { store: &store, writes: Vec::new(), bytes: 0 };
    for (document, entry) in backup.documents() {
        if let Some(why) = &entry.damaged {
            restored.damaged.push((document.clone(), why.clone()));
        }
        let stored = match backup.read(document) {
            Ok(Some(stored)) => stored,
            Ok(None) => continue,
            Err(error) => {
                restored.unreadable.push((document.clone(), error.to_string()));
                continue;
            }
        };
        restored.documents += 1;
        restored.deleted += u64::from(stored.is_tombstone());
        batch.add(new_history(document, stored, backup.taken_ms(), Epoch(rand::random())))?;
    }
    batch.commit()?;
    store.close()?;
    let move_up = || {
        for entry in fs::read_dir(&unfinished)? {
            let entry = entry?;
            fs::rename(entry.path(), data.join(entry.file_name()))?;
        }
        sync_dir(data)?;
        fs::remove_dir(&unfinished)?;
        sync_dir(data)
    };
    move_up().map_err(at(&unfinished))?;
    Ok(restored)
}

/// Creates `dir`, or checks that it is empty.
///
/// Errors: `dir` is not empty, or the disk fails.
pub fn make_empty(dir: &Path) -> Result<(), BackupError> {
    create_dir_durably(dir).map_err(at(dir))?;
    match fs::read_dir(dir).map_err(at(dir))?.next() {
        Some(_) => Err(BackupError::NotEmpty(dir.to_owned())),
        None => Ok(()),
    }
}

/// Restores one document into a store under the name `target`. Replaces an existing document only if `replace` is set.
///
/// Errors: the document is not in the backup or is damaged there; `target` exists; the store fails.
pub fn restore_document(
    backup: &Backup,
    document: &DocumentName,
    store: &dyn Store,
    target: &DocumentName,
    replace: bool,
) -> Result<(), BackupError> {
    let stored = backup.read(document)?.ok_or_else(|| BackupError::Unusable {
        dir: backup.dir.clone(),
        what: format!("document {document:?} was damaged when the backup was taken, and no earlier backup has a copy"),
    })?;
    let exists = match store.load(target) {
        Ok(stored) => stored.is_some(),
        Err(StoreError::Damaged { .. }) => true,
        Err(error) => return Err(error.into()),
    };
    if exists && !replace {
        return Err(BackupError::Exists(target.clone()));
    }
    let delete = Write::Delete { document: target.clone() };
    let append = new_history(target, stored, backup.taken_ms(), Epoch(rand::random()));
    let writes = if exists { vec![delete, append] } else { vec![append] };
    Ok(store.commit(&writes)?)
}

/// The step that writes a document's content as the beginning of a new history, under the unused name `document`. `epoch`
/// must be random. `taken_ms` is the snapshot's record time if there is no record to take it from.
pub fn new_history(document: &DocumentName, stored: Stored, taken_ms: u64, epoch: Epoch) -> Write {
    let snapshot = stored.snapshot.map(|snapshot| {
        let time_ms = stored.records.first().map_or(taken_ms, |record| record.time_ms);
        Record { seq: Seq::ZERO, time_ms, update: snapshot.update }
    });
    let mut records: Vec<Record> = snapshot.into_iter().chain(stored.records).collect();
    let mut seq = Seq::ZERO;
    for record in &mut records {
        seq = seq.next();
        record.seq = seq;
    }
    Write::Append { document: document.clone(), epoch, records }
}

/// The steps of the next commit into the new store.
struct RestoreBatch<'a> {
    store: &'a SledStore,
    writes: Vec<Write>,
    bytes: usize,
}

impl RestoreBatch<'_> {
    fn add(&mut self, write: Write) -> Result<(), StoreError> {
        if let Write::Append { records, .. } = &write {
            self.bytes += records.iter().map(|record| record.update.len()).sum::<usize>();
        }
        self.writes.push(write);
        if self.bytes >= COMMIT_BYTES || self.writes.len() >= COMMIT_DOCUMENTS {
            return self.commit();
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.bytes = 0;
        self.store.commit(&std::mem::take(&mut self.writes))
    }
}
