//! Tests of backups of a real store: incremental, cancelled, damaged and restored ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::ids::{DocumentName, Epoch, Seq};

use super::*;
use crate::store::{Record, Snapshot, Store, Stored, TOMBSTONE, Write};
use crate::{SledStore, StoreError};

fn name(name: &str) -> DocumentName {
    DocumentName::parse(name).unwrap()
}

fn record(seq: u64, update: impl Into<Bytes>) -> Record {
    Record { seq: Seq(seq), time_ms: 1_000 + seq, update: update.into() }
}

fn append(store: &dyn Store, document: &str, records: Vec<Record>) {
    let epoch = Epoch(document.len() as u128);
    store.commit(&[Write::Append { document: name(document), epoch, records }]).unwrap();
}

fn take_now(store: &dyn Store, dir: &Path) -> Result<CompletedBackup, BackupError> {
    take(store, dir, Pace::Full, &Cancel::default(), &mut |_| ())
}

fn content(stored: &Stored) -> Vec<Bytes> {
    let snapshot = stored.snapshot.iter().map(|snapshot| snapshot.update.clone());
    snapshot.chain(stored.records.iter().map(|record| record.update.clone())).collect()
}

fn all(store: &dyn Store) -> BTreeMap<DocumentName, Stored> {
    let names = store.list().unwrap();
    names.into_iter().map(|name| (name.clone(), store.load(&name).unwrap().unwrap())).collect()
}

fn files(dir: &Path) -> Vec<String> {
    let mut files: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    files
}

/// A store with a plain, a compacted and a deleted document.
fn some_store(dir: &Path) -> SledStore {
    let store = SledStore::open(dir).unwrap();
    append(&store, "typed", vec![record(1, "a"), record(2, "b")]);
    append(&store, "compacted", vec![record(1, "a"), record(2, "b"), record(3, "c")]);
    let snapshot = Snapshot { upto: Seq(2), update: Bytes::from(vec![7; 100_000]) };
    store.commit(&[Write::Compact { document: name("compacted"), snapshot }]).unwrap();
    append(&store, "deleted", vec![record(1, TOMBSTONE)]);
    store
}

#[test]
fn restored_store_has_the_same_content_with_new_epochs() {
    let dir = tempfile::tempdir().unwrap();
    let (backup_dir, new) = (dir.path().join("backup"), dir.path().join("deep/new"));
    let store = some_store(&dir.path().join("data"));
    let before = all(&store);
    let taken = take_now(&store, &backup_dir).unwrap();
    assert_eq!((taken.documents, taken.written), (3, 3));
    let backup = Backup::open(&backup_dir).unwrap();
    assert!(backup.verify().is_empty());
    let restored = restore_all(&backup, &new).unwrap();
    assert_eq!(restored, Restored { documents: 3, deleted: 1, ..Restored::default() });

    let restored = all(&SledStore::open(&new).unwrap());
    assert_eq!(restored.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    for (name, stored) in &restored {
        assert_eq!(content(stored), content(&before[name]), "{name}");
        assert_ne!(stored.epoch, before[name].epoch, "{name}");
        assert_eq!(stored.is_tombstone(), name.as_str() == "deleted");
    }
    let error = restore_all(&backup, &new).unwrap_err().to_string();
    assert!(error.contains("is not empty"), "{error}");
}

#[test]
fn second_backup_writes_only_changed_documents_and_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let backup_dir = dir.path().join("backup");
    let store = some_store(&dir.path().join("data"));
    take_now(&store, &backup_dir).unwrap();
    assert_eq!(take_now(&store, &backup_dir).unwrap().written, 0, "nothing has changed");
    append(&store, "typed", vec![record(3, "c")]);
    append(&store, "new", vec![record(1, "n")]);
    store.commit(&[Write::Delete { document: name("deleted") }]).unwrap();
    let taken = take_now(&store, &backup_dir).unwrap();
    assert_eq!((taken.documents, taken.written), (3, 2));
    let backup = Backup::open(&backup_dir).unwrap();
    for (name, stored) in all(&store) {
        assert_eq!(backup.read(&name).unwrap(), Some(stored));
    }
    assert!(matches!(backup.read(&name("deleted")), Err(BackupError::NoDocument { .. })));
}

#[test]
fn document_with_other_content_at_the_same_seq_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let (data, backup_dir) = (dir.path().join("data"), dir.path().join("backup"));
    let store = SledStore::open(&data).unwrap();
    append(&store, "doc", vec![record(1, "lost in a power cut")]);
    take_now(&store, &backup_dir).unwrap();
    store.commit(&[Write::Delete { document: name("doc") }]).unwrap();
    append(&store, "doc", vec![record(1, "a different edit")]);
    assert_eq!(take_now(&store, &backup_dir).unwrap().written, 1);
}

#[test]
fn mostly_unused_pack_is_rewritten_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let backup_dir = dir.path().join("backup");
    let store = SledStore::open(&dir.path().join("data")).unwrap();
    append(&store, "small", vec![record(1, vec![1; 1_000])]);
    append(&store, "large", vec![record(1, vec![1; 10_000])]);
    take_now(&store, &backup_dir).unwrap();
    append(&store, "large", vec![record(2, "x")]);
    take_now(&store, &backup_dir).unwrap();
    take_now(&store, &backup_dir).unwrap();
    let packs: Vec<_> = files(&backup_dir).into_iter().filter(|file| file.ends_with(".pack")).collect();
    assert_eq!(packs.len(), 2, "the first pack is mostly unused and must be removed: {packs:?}");
    assert!(!packs.contains(&"r000001-000.pack".to_owned()));
    assert!(Backup::open(&backup_dir).unwrap().verify().is_empty());
    assert_eq!(Backup::open(&backup_dir).unwrap().documents().len(), 2);
}

#[test]
fn cancelled_backup_leaves_the_earlier_one_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let backup_dir = dir.path().join("backup");
    let store = some_store(&dir.path().join("data"));
    take_now(&store, &backup_dir).unwrap();
    let before: Vec<_> = files(&backup_dir);
    append(&store, "typed", vec![record(3, "c")]);
    append(&store, "new", vec![record(1, "n")]);
    let cancel = Cancel::default();
    let stop = cancel.clone();
    let stopped = take(&store, &backup_dir, Pace::Full, &cancel, &mut |_| stop.cancel());
    assert!(matches!(stopped, Err(BackupError::Cancelled)));
    assert!(before.iter().all(|file| backup_dir.join(file).exists()));
    let backup = Backup::open(&backup_dir).unwrap();
    assert!(backup.verify().is_empty());
    assert_eq!(backup.read(&name("typed")).unwrap().unwrap().last(), Seq(2));
    // Its leftovers do not disturb the next backup, which removes them.
    fs::write(backup_dir.join("r000002-007.pack.new"), "half").unwrap();
    take_now(&store, &backup_dir).unwrap();
    assert!(!backup_dir.join("r000002-007.pack.new").exists());
    assert_eq!(Backup::open(&backup_dir).unwrap().read(&name("typed")).unwrap().unwrap().last(), Seq(3));
}

#[test]
fn packs_of_the_earlier_backup_stay_until_the_new_one_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let backup_dir = dir.path().join("backup");
    let store = SledStore::open(&dir.path().join("data")).unwrap();
    append(&store, "only", vec![record(1, "a")]);
    take_now(&store, &backup_dir).unwrap();
    // The second backup, which is cancelled after its last document, does not use the first pack.
    append(&store, "only", vec![record(2, "b")]);
    let cancel = Cancel::default();
    let stop = cancel.clone();
    let mut at_the_last = |now: Progress| {
        if now.done == now.documents {
            stop.cancel();
        }
    };
    let stopped = take(&store, &backup_dir, Pace::Full, &cancel, &mut at_the_last);
    assert!(matches!(stopped, Err(BackupError::Cancelled)));
    let backup = Backup::open(&backup_dir).unwrap();
    assert_eq!(backup.read(&name("only")).unwrap().unwrap().last(), Seq(1));
    take_now(&store, &backup_dir).unwrap();
    let packs: Vec<_> = files(&backup_dir).into_iter().filter(|file| file.ends_with(".pack")).collect();
    assert_eq!(packs.len(), 1, "the old pack must be removed now: {packs:?}");
}

#[test]
fn damaged_documents_are_reported_and_the_others_restored() {
    let dir = tempfile::tempdir().unwrap();
    let (backup_dir, new) = (dir.path().join("backup"), dir.path().join("new"));
    let store = some_store(&dir.path().join("data"));
    take_now(&store, &backup_dir).unwrap();
    let pack = backup_dir.join("r000001-000.pack");
    let intact = fs::read(&pack).unwrap();
    let mut flipped = intact.clone();
    let at = Backup::open(&backup_dir).unwrap().documents()[&name("typed")].place.as_ref().unwrap().at as usize;
    flipped[at + 40] ^= 1;
    fs::write(&pack, flipped).unwrap();
    let restored = restore_all(&Backup::open(&backup_dir).unwrap(), &new).unwrap();
    let [(damaged, error)] = &restored.unreadable[..] else { panic!("{restored:?}") };
    assert!(*damaged == name("typed") && error.contains("r000001-000.pack is damaged: document \"typed\""), "{error}");
    let mut names = SledStore::open_existing(&new).unwrap().list().unwrap();
    names.sort();
    let mut others = store.list().unwrap();
    others.retain(|other| *other != name("typed"));
    others.sort();
    assert_eq!((restored.documents, names), (2, others));

    fs::write(&pack, &intact[..20]).unwrap();
    let backup = Backup::open(&backup_dir).unwrap();
    assert_eq!(backup.verify().len(), 3);
    let nothing = dir.path().join("nothing");
    assert!(restore_all(&backup, &nothing).is_err() && !nothing.exists(), "no empty store may be created");
    fs::remove_file(&pack).unwrap();
    let error = Backup::open(&backup_dir).unwrap().verify().remove(0).to_string();
    assert!(error.contains("the file is missing"), "{error}");
    // The next backup detects the missing pack and writes everything.
    assert_eq!(take_now(&store, &backup_dir).unwrap().written, 3);
    assert!(Backup::open(&backup_dir).unwrap().verify().is_empty());

    fs::remove_file(backup_dir.join("manifest.jsonl")).unwrap();
    let error = Backup::open(&backup_dir).unwrap_err().to_string();
    assert!(error.contains("no complete backup"), "{error}");
}

#[test]
fn unfinished_restore_cannot_be_opened_as_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    drop(SledStore::open(&data.join("syncline.restoring")).unwrap());
    let error = SledStore::open(&data).err().unwrap().to_string();
    assert!(error.contains("restore into it did not finish"), "{error}");
}

#[test]
fn directory_with_other_content_is_rejected_and_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let store = some_store(&dir.path().join("data"));
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("letter.txt"), "dear").unwrap();
    let error = take_now(&store, &other).unwrap_err().to_string();
    assert!(error.contains("\"letter.txt\""), "{error}");
    assert_eq!(files(&other), ["letter.txt"]);
    assert!(take_now(&store, &dir.path().join("data")).is_err(), "the data directory is rejected");

    let backup_dir = dir.path().join("backup");
    take_now(&store, &backup_dir).unwrap();
    let second = SledStore::open(&dir.path().join("second")).unwrap();
    let error = take_now(&second, &backup_dir).unwrap_err().to_string();
    assert!(error.contains("another store"), "{error}");
}

/// A store with one document that cannot be read.
struct Damaged(Arc<SledStore>, DocumentName);

impl Store for Damaged {
    fn commit(&self, writes: &[Write]) -> Result<(), StoreError> {
        self.0.commit(writes)
    }

    fn load(&self, document: &DocumentName) -> Result<Option<Stored>, StoreError> {
        if *document == self.1 {
            return Err(StoreError::Damaged { document: document.clone(), seq: Seq(2), what: "it is missing".into() });
        }
        self.0.load(document)
    }

    fn list(&self) -> Result<Vec<DocumentName>, StoreError> {
        self.0.list()
    }
}

#[test]
fn damaged_document_keeps_its_copy_and_does_not_stop_the_backup() {
    let dir = tempfile::tempdir().unwrap();
    let (backup_dir, new) = (dir.path().join("backup"), dir.path().join("new"));
    let store = Arc::new(some_store(&dir.path().join("data")));
    take_now(&Damaged(Arc::clone(&store), name("none")), &backup_dir).unwrap();
    append(&*store, "typed", vec![record(3, "c")]);
    append(&*store, "new", vec![record(1, "n")]);
    for _ in 0..2 {
        let taken = take_now(&Damaged(Arc::clone(&store), name("typed")), &backup_dir).unwrap();
        assert_eq!(taken.damaged, [(name("typed"), "record 2: it is missing".to_owned())]);
    }
    let backup = Backup::open(&backup_dir).unwrap();
    assert_eq!(backup.read(&name("typed")).unwrap().unwrap().last(), Seq(2), "the copy of the first backup");
    assert_eq!(restore_all(&backup, &new).unwrap().documents, 4);

    let without_earlier_copy = dir.path().join("other");
    take_now(&Damaged(Arc::clone(&store), name("typed")), &without_earlier_copy).unwrap();
    let backup = Backup::open(&without_earlier_copy).unwrap();
    assert_eq!(backup.read(&name("typed")).unwrap(), None);
    let restored = restore_all(&backup, &dir.path().join("new-2")).unwrap();
    assert_eq!((restored.documents, restored.damaged.len()), (3, 1));
}

#[test]
fn single_restore_replaces_an_existing_document_only_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let backup_dir = dir.path().join("backup");
    let store = some_store(&dir.path().join("data"));
    take_now(&store, &backup_dir).unwrap();
    append(&store, "typed", vec![record(3, "a mistake")]);
    let backup = Backup::open(&backup_dir).unwrap();
    let typed = name("typed");
    let error = restore_document(&backup, &typed, &store, &typed, false).unwrap_err();
    assert!(matches!(error, BackupError::Exists(_)));
    restore_document(&backup, &typed, &store, &name("copy"), false).unwrap();
    restore_document(&backup, &typed, &store, &typed, true).unwrap();
    for document in ["typed", "copy"] {
        let stored = store.load(&name(document)).unwrap().unwrap();
        assert_eq!(content(&stored), ["a", "b"]);
        assert_ne!(stored.epoch, Epoch(5));
    }
    let missing = name("missing");
    assert!(restore_document(&backup, &missing, &store, &missing, false).is_err());
}
