//! `syncline delete` that is killed: the document is there, or it is deleted; its name is never free.

use std::process::Command;

use bytes::Bytes;
use syncline_log::failpoint::{Point, VARIABLE};
use syncline_log::store::Write;
use syncline_log::{Record, SledStore, Snapshot, Store};
use syncline_protocol::ids::{DocumentName, Epoch, Seq};

const EPOCH: Epoch = Epoch(77);

fn name() -> DocumentName {
    DocumentName::parse("doc").unwrap()
}

fn append(seq: u64, update: Bytes) -> Write {
    Write::Append { document: name(), epoch: EPOCH, records: vec![Record { seq: Seq(seq), time_ms: 5, update }] }
}

/// A document of many parts, of which a removal takes several batches.
fn store_document(dir: &std::path::Path) {
    let store = SledStore::open(dir).unwrap();
    let snapshot = Snapshot { upto: Seq(1), update: vec![7; 12_000_000].into() };
    let compact = Write::Compact { document: name(), snapshot };
    store.commit(&[append(1, vec![0, 0].into()), compact, append(2, vec![1; 500_000].into())]).unwrap();
    store.close().unwrap();
}

/// Runs `syncline delete`, killed the `passage`th time it passes the point. False: it passed the point less often.
fn delete_killed_at(dir: &std::path::Path, point: Point, passage: u32) -> bool {
    let mut delete = Command::new(env!("CARGO_BIN_EXE_syncline"));
    delete.args(["delete", "doc", "--data"]).arg(dir).env(VARIABLE, format!("{point}:{passage}"));
    !delete.output().unwrap().status.success()
}

#[test]
fn killed_delete_leaves_the_document_or_a_tombstone() {
    let mut deleted = 0;
    // Of the parts, about a hundred are removed in a batch.
    for (point, passage) in [
        (Point::BeforeAppend, 1),
        (Point::HeadReplaced, 1),
        (Point::PartsRemoved, 1),
        (Point::PartsRemoved, 200),
        (Point::PartsRemoved, 2_000),
        (Point::AfterAppend, 1),
        (Point::AfterSync, 1),
    ] {
        let dir = tempfile::tempdir().unwrap();
        store_document(dir.path());
        assert!(delete_killed_at(dir.path(), point, passage), "{point} was passed less than {passage} times");
        let store = SledStore::open_checked(dir.path()).unwrap();
        let stored = store.load(&name()).unwrap().unwrap_or_else(|| panic!("the name is free after {point} {passage}"));
        let is_kept = stored.epoch == EPOCH && stored.last() == Seq(2);
        let is_deleted = stored.is_tombstone() && stored.epoch != EPOCH;
        assert!(is_kept || is_deleted, "{point} {passage}");
        assert!(is_deleted || point != Point::AfterSync, "the deletion was on disk");
        deleted += u32::from(is_deleted);
        store.close().unwrap();
    }
    assert!(deleted >= 3, "{deleted} of the deletions reached the disk");
}
