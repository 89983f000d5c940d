//! Tests of the store on sled: round trips, compaction, deletion, sync order, and detection of damage.

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write as _};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use syncline_protocol::ids::{Epoch, Seq};
use tempfile::TempDir;

use super::super::layout::{MAX_VALUE_BYTES, Part, PartKind, head_key, name_key, part_key, parts_prefix, sweep_key};
use super::super::store::{Record, Snapshot};
use super::*;

const EPOCH: Epoch = Epoch(0xE90C);

fn name(text: &str) -> DocumentName {
    DocumentName::parse(text).unwrap()
}

fn bytes(seed: u64, len: usize) -> Bytes {
    (0..len as u64).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ seed.wrapping_mul(131)) as u8).collect()
}

fn record(seq: u64, len: usize) -> Record {
    Record { seq: Seq(seq), time_ms: 1_700_000_000_000 + seq, update: bytes(seq, len) }
}

fn append(document: &DocumentName, records: Vec<Record>) -> Write {
    Write::Append { document: document.clone(), epoch: EPOCH, records }
}

fn compact(document: &DocumentName, upto: u64, len: usize) -> Write {
    Write::Compact { document: document.clone(), snapshot: snapshot(upto, len) }
}

fn snapshot(upto: u64, len: usize) -> Snapshot {
    Snapshot { upto: Seq(upto), update: bytes(upto + 7, len) }
}

fn stored(snapshot: Option<Snapshot>, records: Vec<Record>) -> Stored {
    Stored { epoch: EPOCH, snapshot, records }
}

/// A document of three records, each of several chunks and in its own commit.
fn three_records(dir: &TempDir) -> DocumentName {
    let (store, document) = (SledStore::open(dir.path()).unwrap(), name("three"));
    for seq in 1..=3 {
        store.commit(&[append(&document, vec![record(seq, 10_000)])]).unwrap();
    }
    store.close().unwrap();
    document
}

/// Changes the engine's content of a closed store.
fn tamper(dir: &TempDir, change: impl FnOnce(&Db)) {
    let db = open_engine(dir.path(), &dir.path().join(ENGINE_DIR), None, true).unwrap();
    change(&db);
    db.flush().unwrap();
}

fn part(seq: u64, chunk: u32) -> Vec<u8> {
    part_key(1, Part { kind: PartKind::Entry, seq: Seq(seq), chunk })
}

fn load_error(dir: &TempDir, document: &DocumentName) -> String {
    SledStore::open(dir.path()).unwrap().load(document).unwrap_err().to_string()
}

/// An unfinished snapshot is left by a full disk, or by a crash while sled writes the snapshot at open.
#[test]
fn unfinished_engine_snapshot_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let document = three_records(&dir);
    // sled writes the snapshot at open.
    SledStore::open(dir.path()).unwrap().close().unwrap();
    let engine_dir = dir.path().join(ENGINE_DIR);
    let files = fs::read_dir(&engine_dir).unwrap().map(|entry| entry.unwrap().path());
    let snapshot = files.filter(|path| path.to_string_lossy().contains("/snap.")).max().unwrap();
    let bytes = fs::read(&snapshot).unwrap();
    for torn in [0, 11, bytes.len() / 2, bytes.len() - 1] {
        fs::write(engine_dir.join(format!("snap.{:016X}.generating", i64::MAX)), &bytes[..torn]).unwrap();
        let store = SledStore::open(dir.path()).unwrap();
        assert_eq!(store.load(&document).unwrap().unwrap().last(), Seq(3), "a snapshot of {torn} bytes");
        store.close().unwrap();
    }
}

#[test]
fn records_and_snapshots_of_any_size_are_read_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let (small, large, long) = (name("a"), name("b%2F/ü"), name(&"n".repeat(512)));
    let store = SledStore::open(dir.path()).unwrap();
    let sizes = [0, 1, 4_071, 4_072, 4_088, 4_097, 300_000];
    let records: Vec<_> = (1..).zip(sizes).map(|(seq, len)| record(seq, len)).collect();
    store.commit(&[append(&small, records.clone()), append(&large, vec![record(1, 3_000_000)])]).unwrap();
    store.commit(&[compact(&large, 1, 20 << 20), append(&large, vec![record(2, 5)])]).unwrap();
    store.commit(&[append(&long, vec![record(1, 9)])]).unwrap();
    for reopened in [false, true] {
        let store = if reopened {
            store.close().unwrap();
            assert!(matches!(store.load(&small), Err(StoreError::Closed)));
            &SledStore::open(dir.path()).unwrap()
        } else {
            &store
        };
        assert_eq!(store.load(&small).unwrap().unwrap(), stored(None, records.clone()));
        let after = stored(Some(snapshot(1, 20 << 20)), vec![record(2, 5)]);
        assert!(store.load(&large).unwrap().unwrap() == after);
        assert_eq!(store.load(&long).unwrap().unwrap().last(), Seq(1));
        assert_eq!(store.load(&name("absent")).unwrap(), None);
        assert_eq!(store.list().unwrap().len(), 3);
    }
    let values_are_small = |db: &Db| db.iter().values().all(|value| value.unwrap().len() <= MAX_VALUE_BYTES);
    tamper(&dir, |db| assert!(values_are_small(db)));
    assert_eq!(
        fs::read_dir(dir.path().join("sled/blobs")).unwrap().count(),
        0,
        "no page may be stored outside the db file"
    );
}

#[test]
fn compaction_keeps_later_records_and_removes_earlier_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (store, document) = (SledStore::open(dir.path()).unwrap(), name("doc"));
    let records: Vec<_> = (1..=9).map(|seq| record(seq, 3_000)).collect();
    // The entries contain records 1-2, 3-7, 8 and 9.
    for group in [&records[..2], &records[2..7], &records[7..8], &records[8..]] {
        store.commit(&[append(&document, group.to_vec())]).unwrap();
    }
    let load = || store.load(&document).unwrap().unwrap();
    for (upto, len) in [(5, 10_000), (7, 0), (8, 400_000), (9, 100)] {
        store.commit(&[compact(&document, upto, len)]).unwrap();
        assert!(load() == stored(Some(snapshot(upto, len)), records[upto as usize..].to_vec()), "up to {upto}");
        // A snapshot older than the stored one changes nothing.
        store.commit(&[compact(&document, upto - 1, 3)]).unwrap();
        assert_eq!(load().snapshot.unwrap().upto, Seq(upto));
    }
    store.close().unwrap();
    tamper(&dir, |db| {
        assert_eq!(db.scan_prefix(parts_prefix(1)).count(), 1, "only one chunk of the snapshot remains");
        assert!(!db.contains_key(sweep_key(1)).unwrap());
    });
}

#[test]
fn deleted_document_leaves_nothing_and_can_be_created_again() {
    let dir = tempfile::tempdir().unwrap();
    let document = three_records(&dir);
    let store = SledStore::open(dir.path()).unwrap();
    let delete = Write::Delete { document: document.clone() };
    store.commit(&[append(&document, vec![record(4, 3_000_000)]), delete.clone(), delete]).unwrap();
    assert_eq!(store.load(&document).unwrap(), None);
    store.commit(&[append(&document, vec![record(1, 5)])]).unwrap();
    store.close().unwrap();
    assert_eq!(SledStore::open(dir.path()).unwrap().load(&document).unwrap().unwrap().records, [record(1, 5)]);
    tamper(&dir, |db| assert_eq!(db.scan_prefix(b"d").count(), 1));
}

#[test]
fn record_out_of_order_fails_and_ends_the_commits() {
    let dir = tempfile::tempdir().unwrap();
    let document = three_records(&dir);
    let store = SledStore::open(dir.path()).unwrap();
    let error = store.commit(&[append(&document, vec![record(5, 1)])]).unwrap_err();
    assert!(matches!(error, StoreError::OutOfOrder { expected: Seq(4), found: Seq(5), .. }), "{error}");
    assert!(store.commit(&[append(&document, vec![record(4, 1)])]).is_err());
    assert_eq!(store.load(&document).unwrap().unwrap().last(), Seq(3));
}

#[test]
fn commit_syncs_after_the_write_and_returns_the_sync_error() {
    let dir = tempfile::tempdir().unwrap();
    let (seen, fails) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let needle = b"an update that is easy to find on the disk";
    let db_path = dir.path().join("sled/db");
    let hook = {
        let (seen, fails) = (Arc::clone(&seen), Arc::clone(&fails));
        move |_: &File| {
            let written = fs::read(&db_path).unwrap().windows(needle.len()).any(|window| window == needle);
            seen.lock().unwrap().push(written);
            if fails.load(Ordering::SeqCst) { Err(io::Error::other("a failure for the test")) } else { Ok(()) }
        }
    };
    let store = SledStore::open_with(dir.path(), Box::new(hook), Some(CLEAN_EVERY_MS)).unwrap();
    let document = name("doc");
    seen.lock().unwrap().clear();
    let update = Bytes::from_static(needle);
    store.commit(&[append(&document, vec![Record { seq: Seq(1), time_ms: 0, update }])]).unwrap();
    assert_eq!(*seen.lock().unwrap(), [true], "one sync, after the bytes were written");
    fails.store(true, Ordering::SeqCst);
    let error = store.commit(&[append(&document, vec![record(2, 5)])]).unwrap_err();
    assert!(error.to_string().contains("a failure for the test"), "{error}");
    fails.store(false, Ordering::SeqCst);
    assert!(
        store.commit(&[append(&document, vec![record(2, 5)])]).is_err(),
        "no commit is attempted after a failed sync"
    );
}

#[test]
fn large_commit_is_synced_before_the_engine_can_reuse_space() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Mutex::new(None::<Arc<SledStore>>));
    let steps = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let (store, steps) = (Arc::clone(&store), Arc::clone(&steps));
        move |_: &File| {
            if let Some(store) = &*store.lock().unwrap() {
                let engine = store.engine.read().unwrap();
                let engine = engine.as_ref().unwrap();
                steps.lock().unwrap().push(engine.log_position() - engine.synced.load(Ordering::Relaxed));
            }
            Ok(())
        }
    };
    // Without sled's cleaner, which writes and syncs on its own.
    let opened = Arc::new(SledStore::open_with(dir.path(), Box::new(hook), None).unwrap());
    let document = name("doc");
    opened.commit(&[append(&document, vec![record(1, 10)])]).unwrap();
    *store.lock().unwrap() = Some(Arc::clone(&opened));
    let one_each = (0..5_000).map(|at| append(&name(&format!("{at}")), vec![record(1, 300)]));
    opened.commit(&one_each.collect::<Vec<_>>()).unwrap();
    for seq in 2..5 {
        opened.commit(&[append(&document, vec![record(seq, 2 << 20)]), compact(&document, seq, 12 << 20)]).unwrap();
    }
    store.lock().unwrap().take();
    let steps = steps.lock().unwrap();
    let most = *steps.iter().max().unwrap();
    println!("{} syncs, up to {most} bytes between two", steps.len());
    assert!(steps.len() > 10 && most < SEGMENT_BYTES as i64, "{} syncs, up to {most} bytes between two", steps.len());
}

#[test]
fn every_kind_of_damage_is_detected_and_names_the_record() {
    type Change = fn(&Db, &DocumentName);
    let cases: [(&str, Change, &str); 12] = [
        ("a first chunk is missing", |db, _| drop(db.remove(part(2, 0)).unwrap()), "record 2"),
        ("a later chunk is missing", |db, _| drop(db.remove(part(2, 1)).unwrap()), "record 2"),
        ("the last chunk is missing", |db, _| drop(db.remove(part(3, 2)).unwrap()), "record 3"),
        ("a record is missing", |db, _| (0..3).for_each(|at| drop(db.remove(part(2, at)).unwrap())), "record 2"),
        ("the last record is missing", |db, _| (0..3).for_each(|at| drop(db.remove(part(3, at)).unwrap())), "record 3"),
        ("a byte is wrong", |db, _| flip(db, &part(2, 1)), "record 2"),
        ("two chunks are swapped", |db, _| swap(db, &part(1, 1), &part(2, 1)), "record 1"),
        ("a head is wrong", |db, document| flip(db, &head_key(document)), "record 1"),
        ("a head is missing", |db, document| drop(db.remove(head_key(document)).unwrap()), "record 1"),
        ("two heads are swapped", |db, document| swap(db, &head_key(document), &head_key(&name("other"))), "record 1"),
        ("a head is old", |db, document| drop(db.insert(head_key(document), old_head(db)).unwrap()), "record 3"),
        (
            "a record is replaced by one with the same number",
            |db, _| drop(db.insert(part(3, 2), seal(&part(3, 2), &[0; 1848])).unwrap()),
            "record 1",
        ),
    ];
    for (what, change, named) in cases {
        let dir = tempfile::tempdir().unwrap();
        let document = three_records_and_another(&dir);
        tamper(&dir, |db| change(db, &document));
        let error = load_error(&dir, &document);
        assert!(error.starts_with(&format!("document {document:?} is damaged at {named}: ")), "{what}: {error}");
        let other = SledStore::open(dir.path()).unwrap().load(&name("other"));
        assert!(other.is_ok() || what == "two heads are swapped", "{what}: damage to one document affects another");
    }
}

/// A document of three records, a copy of its head after two of them, and another document.
fn three_records_and_another(dir: &TempDir) -> DocumentName {
    let document = name("three");
    let store = SledStore::open(dir.path()).unwrap();
    for seq in 1..=2 {
        store.commit(&[append(&document, vec![record(seq, 10_000)])]).unwrap();
    }
    let head = store.with_engine(|engine| engine.db.get(head_key(&document)).map_err(failed)).unwrap().unwrap();
    store.commit(&[append(&document, vec![record(3, 10_000)]), append(&name("other"), vec![record(1, 9)])]).unwrap();
    store.close().unwrap();
    tamper(dir, |db| drop(db.insert("old head", head).unwrap()));
    document
}

fn old_head(db: &Db) -> sled::IVec {
    db.get("old head").unwrap().unwrap()
}

fn flip(db: &Db, key: &[u8]) {
    let mut value = db.get(key).unwrap().unwrap().to_vec();
    value[20] ^= 1;
    db.insert(key, value).unwrap();
}

fn swap(db: &Db, one: &[u8], other: &[u8]) {
    let (a, b) = (db.get(one).unwrap().unwrap(), db.get(other).unwrap().unwrap());
    db.insert(one, b).unwrap();
    db.insert(other, a).unwrap();
}

#[test]
fn damaged_document_can_be_deleted() {
    for is_lost in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let document = three_records(&dir);
        let key = head_key(&document);
        tamper(&dir, |db| if is_lost { drop(db.remove(&key).unwrap()) } else { flip(db, &key) });
        let store = SledStore::open(dir.path()).unwrap();
        assert_eq!(store.list().unwrap(), std::slice::from_ref(&document));
        store.commit(&[Write::Delete { document: document.clone() }]).unwrap();
        assert_eq!(store.load(&document).unwrap(), None);
        store.commit(&[append(&document, vec![record(1, 1)])]).unwrap();
        assert_eq!(store.load(&document).unwrap().unwrap().last(), Seq(1));
    }
}

#[test]
fn leftovers_of_an_interrupted_write_are_removed_by_the_next_open() {
    let dir = tempfile::tempdir().unwrap();
    let document = three_records(&dir);
    let store = SledStore::open(dir.path()).unwrap();
    store.commit(&[compact(&document, 1, 9_000)]).unwrap();
    let before = store.load(&document).unwrap();
    store.close().unwrap();
    tamper(&dir, |db| {
        // A new snapshot and a new record whose heads are not yet written; an old snapshot and an old record that were
        // not yet removed.
        db.insert(sweep_key(1), seal(&sweep_key(1), &[])).unwrap();
        db.insert(part_key(1, Part { kind: PartKind::Snapshot, seq: Seq(3), chunk: 0 }), b"new").unwrap();
        db.insert(part_key(1, Part { kind: PartKind::Snapshot, seq: Seq(0), chunk: 0 }), b"old").unwrap();
        db.insert(part(1, 0), b"old").unwrap();
        db.insert(part(4, 0), b"new").unwrap();
        // The first record of a document whose head and name are not yet written.
        db.insert(sweep_key(9), seal(&sweep_key(9), &[])).unwrap();
        db.insert(part_key(9, Part { kind: PartKind::Entry, seq: Seq(1), chunk: 0 }), b"new").unwrap();
    });
    let store = SledStore::open(dir.path()).unwrap();
    assert_eq!(store.load(&document).unwrap(), before);
    store.commit(&[append(&document, vec![record(4, 5)])]).unwrap();
    store.close().unwrap();
    tamper(&dir, |db| {
        assert_eq!(db.scan_prefix(b"g").count(), 0);
        assert_eq!(db.scan_prefix(b"d").count(), 3 + 3 + 3 + 1);
    });
}

#[test]
fn store_that_is_empty_older_or_of_a_newer_format_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let document = three_records(&dir);
    let engine = dir.path().join(ENGINE_DIR);
    let copy = dir.path().join("copy");
    fs::rename(&engine, &copy).unwrap();
    let refused = |what: &str| {
        let error = SledStore::open(dir.path()).err().expect(what).to_string();
        assert!(error.contains(what), "{error}");
    };
    refused("the store is empty: 3 records were saved, 0 were found");
    assert!(!engine.exists(), "a failed open changes nothing");
    drop(open_engine(dir.path(), &engine, None, true).unwrap());
    refused("the store is empty: 3 records were saved, 0 were found");
    fs::remove_dir_all(&engine).unwrap();
    fs::rename(&copy, &engine).unwrap();
    let info = StoreInfo::read(dir.path()).unwrap().unwrap();
    StoreInfo { committed: 4, ..info }.write(dir.path()).unwrap();
    refused("the store is older than it was: 4 records were saved, 3 were found");
    StoreInfo { format: FORMAT + 1, ..info }.write(dir.path()).unwrap();
    refused("use the newer version");
    StoreInfo { identity: 1, ..info }.write(dir.path()).unwrap();
    refused("belong to different stores");
    info.write(dir.path()).unwrap();
    tamper(&dir, |db| {
        db.remove(head_key(&document)).unwrap();
        db.remove(name_key(1)).unwrap();
    });
    refused("1 of 1 documents are missing");
}

#[test]
fn damage_in_the_engines_files_is_an_error_or_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let document = three_records(&dir);
    let intact = SledStore::open(dir.path()).unwrap().load(&document).unwrap();
    let db = dir.path().join("sled/db");
    let pristine = fs::read(&db).unwrap();
    let used = pristine.iter().rposition(|byte| *byte != 0).unwrap();
    let snapshots: Vec<_> = fs::read_dir(dir.path().join("sled")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let snapshots: Vec<_> =
        snapshots.iter().filter(|path| path.is_file()).map(|path| (path, fs::read(path).unwrap())).collect();
    let mut detected = 0;
    for at in (0..24).map(|step| used.min(120_000) * step / 24) {
        for entry in fs::read_dir(dir.path().join("sled")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::remove_file(path).unwrap();
            }
        }
        snapshots.iter().for_each(|(path, content)| fs::write(path, content).unwrap());
        let mut file = OpenOptions::new().write(true).open(&db).unwrap();
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.write_all(&[pristine[at] ^ 4]).unwrap();
        drop(file);
        match SledStore::open(dir.path()).and_then(|store| store.load(&document)) {
            Ok(found) => assert!(found == intact, "a flipped bit at byte {at} changed the document silently"),
            Err(error) => {
                assert!(error.to_string().len() > 20);
                detected += 1;
            }
        }
    }
    assert!(detected > 0, "no flip was detected");
}
