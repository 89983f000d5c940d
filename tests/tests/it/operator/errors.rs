//! Texts of errors that an operator meets: what failed, on which file or setting, and what to do.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use syncline_log::backup::Backup;
use syncline_log::store::Write;
use syncline_log::{Record, SledStore, Store};
use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use syncline_server::cli::arguments;
use syncline_server::cli::repair::repair;
use syncline_tests::live::typed;

fn argument_error(arguments: &[&str]) -> String {
    let arguments = ["syncline"].iter().chain(arguments).map(Into::into);
    arguments::parse(arguments).unwrap_err().to_string()
}

#[test]
fn count_that_is_not_a_number_is_explained() {
    for value in ["lots", "1.5", "12k"] {
        let text = argument_error(&["serve", &format!("--max-connections={value}")]);
        assert!(text.contains("--max-connections"), "{text}");
        assert!(text.contains("must be a whole number, 0 or greater"), "{text}");
        assert!(!text.contains("digit found"), "{text}");
    }
    let text = argument_error(&["--idle-unload-seconds", "99999999999999999999999"]);
    assert!(text.contains("must be a whole number, at most"), "{text}");
}

#[test]
fn backup_in_a_missing_directory_is_an_error_about_the_directory() {
    let home = tempfile::tempdir().unwrap();
    let missing = home.path().join("nope");
    let text = Backup::open(&missing).unwrap_err().to_string();
    assert!(text.contains("nope: the directory does not exist"), "{text}");
    let text = Backup::open(home.path()).unwrap_err().to_string();
    assert!(text.contains("manifest.jsonl is missing"), "{text}");
}

#[test]
fn damaged_info_file_is_an_error_that_names_repair_which_works() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data");
    fill(&dir);
    fs::write(dir.join("syncline.store"), "syncline store\nidentity").unwrap();
    let text = SledStore::open_existing(&dir).err().unwrap().to_string();
    assert!(text.contains("syncline.store is damaged") && text.contains("`syncline repair`"), "{text}");
    let mut out = Vec::new();
    repair(&dir, &mut out).unwrap();
    let stored = SledStore::open_existing(&dir).unwrap().load(&DocumentName::parse("notes").unwrap()).unwrap();
    assert_eq!(stored.unwrap().records.len(), 1);
}

fn fill(dir: &Path) {
    let store = SledStore::open(dir).unwrap();
    let record = Record { seq: Seq(1), time_ms: 5, update: Bytes::from(typed(1, "hello")) };
    let document = DocumentName::parse("notes").unwrap();
    store.commit(&[Write::Append { document, epoch: Epoch(77), records: vec![record] }]).unwrap();
    store.close().unwrap();
}
