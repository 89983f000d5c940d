//! `syncline verify` names damaged records, and `syncline repair` keeps everything else.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use syncline_log::store::Write;
use syncline_log::{Record, SledStore, Snapshot, Store, Stored, TOMBSTONE};
use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use syncline_replica::Replica;
use yrs::block::ClientID;
use yrs::{Doc, Options, Text, Transact};

const EPOCH: Epoch = Epoch(77);

fn name(text: &str) -> DocumentName {
    DocumentName::parse(text).unwrap()
}

/// The text that one client typed, as an update without dependencies.
fn typed(client: u64, text: &str) -> Bytes {
    let doc = Doc::with_options(Options::with_client_id(ClientID::new(client)));
    let root = doc.get_or_insert_text("text");
    let mut txn = doc.transact_mut();
    root.push(&mut txn, text);
    txn.encode_update_v1().into()
}

fn append(document: &DocumentName, seq: u64, update: Bytes) -> Write {
    let records = vec![Record { seq: Seq(seq), time_ms: 5, update }];
    Write::Append { document: document.clone(), epoch: EPOCH, records }
}

fn sentence(number: u64) -> String {
    format!("sentence {number} of the document that will be hurt")
}

/// Three documents: one to stay intact, one to be damaged, one deleted.
fn fill(dir: &Path) {
    let store = SledStore::open(dir).unwrap();
    for seq in 1..=5 {
        store.commit(&[append(&name("whole"), seq, typed(seq, "whole"))]).unwrap();
        store.commit(&[append(&name("hurt"), seq, typed(seq, &sentence(seq)))]).unwrap();
    }
    let snapshot = Snapshot { upto: Seq(4), update: typed(9, "snapshot") };
    store.commit(&[Write::Compact { document: name("whole"), snapshot }]).unwrap();
    store.commit(&[append(&name("deleted"), 1, TOMBSTONE)]).unwrap();
    store.close().unwrap();
}

/// Flips a bit in every copy of `needle` in sled's file.
fn damage(dir: &Path, needle: &str) {
    let db = dir.join("sled/db");
    let mut bytes = fs::read(&db).unwrap();
    let at: Vec<_> = bytes.windows(needle.len()).enumerate().filter(|(_, w)| *w == needle.as_bytes()).collect();
    let at: Vec<_> = at.into_iter().map(|(at, _)| at).collect();
    assert!(!at.is_empty());
    for at in at {
        bytes[at] ^= 4;
    }
    fs::write(db, bytes).unwrap();
}

/// Runs `syncline COMMAND --data DIR`. Returns whether it succeeded, and its output.
fn syncline(command: &str, dir: &Path) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_syncline")).arg(command).arg("--data").arg(dir).output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(printed).unwrap())
}

/// Exit code and output of a server that should not start. One that does start is killed.
fn serve(dir: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncline"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(dir);
    let mut server = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut greeting = String::new();
    // Empty if the server exits.
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut greeting).unwrap();
    if !greeting.is_empty() {
        server.kill().unwrap();
    }
    let ended = server.wait_with_output().unwrap();
    (ended.status.code(), greeting + &String::from_utf8(ended.stderr).unwrap())
}

fn text(stored: &Stored) -> String {
    let updates = stored.snapshot.iter().map(|snapshot| &snapshot.update);
    let updates = updates.chain(stored.records.iter().map(|record| &record.update)).cloned();
    String::from_utf8_lossy(&Replica::load(updates).unwrap().encode().unwrap()).into_owned()
}

fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(dir.join("sled")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.is_file()).collect();
    files.sort();
    files.iter().map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect()
}

#[test]
fn verify_names_damaged_record_and_repair_keeps_the_rest() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data");
    fill(&dir);
    let (fine, output) = syncline("verify", &dir);
    assert!(fine && output.contains("3 documents verified"), "{output}");
    let (fine, output) = syncline("repair", &dir);
    assert!(fine && output.contains("nothing was changed"), "{output}");

    damage(&dir, &sentence(3));
    let before = files(&dir);
    let (fine, output) = syncline("verify", &dir);
    assert!(!fine && output.contains(r#"document "hurt" is damaged at record "#), "{output}");
    assert!(output.contains("Lost: record"), "{output}");
    assert!(files(&dir) == before, "verify must not change a file");

    let (fine, repaired) = syncline("repair", &dir);
    assert!(fine && repaired.contains("with a new epoch. Lost: record"), "{repaired}");
    let (fine, after) = syncline("verify", &dir);
    assert!(fine && after.contains("3 documents verified"), "{after}");
    let store = SledStore::open_existing(&dir).unwrap();
    assert!(store.inconsistency().is_none());
    let whole = store.load(&name("whole")).unwrap().unwrap();
    // The engine may have stored parts of it in the damaged page: then it is named, too.
    let is_named = output.contains(r#"document "whole" is damaged at record"#);
    assert!(is_named || text(&whole).contains("whole"), "{output}\n{repaired}\n{whole:?}");
    let hurt = store.load(&name("hurt")).unwrap().unwrap();
    assert_ne!(hurt.epoch, EPOCH, "clients must see another history");
    // Records stored next to a copy of the third are lost with it: which ones depends on the engine's pages.
    let kept: Vec<_> = (1..=5).filter(|number| text(&hurt).contains(&sentence(*number))).collect();
    assert!(kept.contains(&1) && !kept.contains(&3) && kept.len() >= 2, "{kept:?}");
    assert!(store.load(&name("deleted")).unwrap().unwrap().is_tombstone());
    store.commit(&[append(&name("whole"), whole.last().0 + 1, typed(6, "continues"))]).unwrap();
    store.close().unwrap();

    let entries = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let aside: Vec<_> = entries.filter(|name| name.starts_with("data.damaged-")).collect();
    assert_eq!(aside.len(), 1);
    let kept: Vec<_> = files(&home.path().join(&aside[0])).into_iter().map(|(_, bytes)| bytes).collect();
    assert!(
        kept == before.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(),
        "the damaged store must be unchanged"
    );
}

#[test]
fn repair_exits_with_1_after_losing_a_document() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data");
    let store = SledStore::open(&dir).unwrap();
    // Too large for the page that has its name.
    let large = format!("{}{}", sentence(1), "x".repeat(200_000));
    store.commit(&[append(&name("gone"), 1, typed(1, &large))]).unwrap();
    store.close().unwrap();
    damage(&dir, &sentence(1));
    let (fine, output) = syncline("repair", &dir);
    assert!(!fine && output.contains(r#"LOST: document "gone": nothing of it can be read"#), "{output}");
    assert!(output.contains("the repaired store is in place, without 1 document: see LOST above"), "{output}");
    let (fine, output) = syncline("verify", &dir);
    assert!(fine && output.contains("0 documents verified: 0 records"), "{output}");
}

#[test]
fn server_refuses_to_start_on_store_that_lost_its_end() {
    let home = tempfile::tempdir().unwrap();
    let (dir, killed) = (home.path().join("data"), home.path().join("killed"));
    let store = SledStore::open(&dir).unwrap();
    for seq in 1..=3 {
        store.commit(&[append(&name("doc"), seq, typed(seq, &sentence(seq)))]).unwrap();
    }
    // The files as kill -9 leaves them.
    copy(&dir, &killed);
    store.close().unwrap();
    damage(&killed, &sentence(2));
    let (fine, found) = syncline("verify", &killed);
    assert!(!fine && found.contains(r#"document "doc" is damaged at record"#), "{found}");
    let (code, output) = serve(&killed);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("cannot be opened: ") && output.contains("syncline repair"), "{output}");

    // The engine has overwritten what it took for a torn write with zeros; the server had saved it before.
    assert_eq!(syncline("verify", &killed).1, found, "a start must not lose what can be kept");
    let (fine, output) = syncline("repair", &killed);
    assert!(fine && output.contains(r#"document "doc": "#), "{output}");
    let doc = SledStore::open_existing(&killed).unwrap().load(&name("doc")).unwrap().unwrap();
    assert!(text(&doc).contains(&sentence(1)) && !text(&doc).contains(&sentence(2)));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
