//! `syncline repair` of stores that lost the name of a document: an error, whatever is kept of its content.

use std::path::Path;

use bytes::Bytes;
use syncline_log::store::Write;
use syncline_log::{Record, SledStore, Store};
use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use syncline_server::cli::repair::repair;
use syncline_tests::live::typed;

fn append(document: &str, update: &str) -> Write {
    let update = Bytes::from(typed(1, update));
    let records = vec![Record { seq: Seq(1), time_ms: 5, update }];
    Write::Append { document: DocumentName::parse(document).unwrap(), epoch: Epoch(77), records }
}

/// A store of two documents without the keys that `is_lost`.
fn damaged_store(dir: &Path, is_lost: impl Fn(&[u8], &[u8]) -> bool) {
    let store = SledStore::open(dir).unwrap();
    // The second document has the number 2.
    store.commit(&[append("recovered-2", "of the first")]).unwrap();
    store.commit(&[append("second", "of the other")]).unwrap();
    store.close().unwrap();
    // The same options as in the log.
    let db = sled::Config::new().path(dir.join("sled")).segment_size(4 << 20).open().unwrap();
    for (key, value) in db.iter().map(Result::unwrap) {
        if is_lost(&key, &value) {
            db.remove(key).unwrap();
        }
    }
    db.flush().unwrap();
}

fn contains(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
}

/// True for the head of the second document and for its name.
fn is_name(key: &[u8], value: &[u8]) -> bool {
    contains(key, "second") || contains(value, "second")
}

/// The outcome of a repair, and its output.
fn repaired(dir: &Path) -> (Result<(), String>, String) {
    let mut out = Vec::new();
    let outcome = repair(dir, &mut out).map_err(|error| error.to_string());
    (outcome, String::from_utf8(out).unwrap())
}

/// The updates of a document.
fn content(dir: &Path, document: &str) -> Vec<u8> {
    let stored = SledStore::open_existing(dir).unwrap().load(&DocumentName::parse(document).unwrap()).unwrap();
    stored.unwrap().records.iter().flat_map(|record| record.update.to_vec()).collect()
}

#[test]
fn repair_without_the_name_of_a_document_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data");
    damaged_store(&dir, is_name);
    let (outcome, output) = repaired(&dir);
    let expected = "the repaired store is in place, without the name of 1 document: see LOST above";
    assert_eq!(outcome, Err(expected.to_owned()), "{output}");
    assert!(output.contains(r#"LOST: the name of a document, which is kept as "recovered-2-2""#), "{output}");
    assert!(output.contains("2 documents kept"), "{output}");
    assert!(contains(&content(&dir, "recovered-2"), "of the first"));
    assert!(contains(&content(&dir, "recovered-2-2"), "of the other"));
}

#[test]
fn repair_without_a_document_and_its_name_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data");
    damaged_store(&dir, |key, value| is_name(key, value) || contains(value, "of the other"));
    let (outcome, output) = repaired(&dir);
    let expected = "the repaired store is in place, without 1 document: see LOST above";
    assert_eq!(outcome, Err(expected.to_owned()), "{output}");
    assert!(output.contains("LOST: 1 document with its name\n"), "{output}");
    assert!(output.contains("1 document kept"), "{output}");
}

#[test]
fn repair_reports_that_documents_may_be_missing_if_their_number_is_lost() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data");
    damaged_store(&dir, |key, value| key == b"m" || is_name(key, value) || contains(value, "of the other"));
    let (outcome, output) = repaired(&dir);
    assert_eq!(outcome, Ok(()), "{output}");
    assert!(output.contains("1 document kept"), "{output}");
    assert!(output.contains("others may be lost with their names"), "{output}");
}
