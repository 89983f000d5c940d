//! Damage to a store's files: every read returns what was saved, or an error; never different data without an error.
//!
//! `SYNCLINE_SEED` replays a run; `SYNCLINE_FLIPS` sets the number of damaged places.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use syncline_log::check::{Condition, Survey};
use syncline_log::store::Write;
use syncline_log::{Record, SledStore, Snapshot, Store, StoreError, Stored};
use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use tempfile::TempDir;

const EPOCH: Epoch = Epoch(0xE90C);

/// The size of the end of a file, where damage is concentrated.
const LAST_BYTES: u64 = 8 << 10;

type Saved = BTreeMap<DocumentName, Stored>;

fn name(number: usize) -> DocumentName {
    DocumentName::parse(&format!("document-{number}")).unwrap()
}

/// A store as kill -9 leaves it, and everything that was saved in it: many small documents, a few large ones, some
/// compacted, some deleted. It was opened more than once.
fn killed_store(rng: &mut StdRng) -> (TempDir, Saved) {
    let (home, mut saved) = (tempfile::tempdir().unwrap(), Saved::new());
    let live = home.path().join("live");
    for life in 0..3 {
        let store = SledStore::open(&live).unwrap();
        for _ in 0..60 {
            let mut writes = Vec::new();
            for _ in 0..rng.random_range(1..6) {
                writes.push(one_write(rng, &mut saved));
            }
            store.commit(&writes).unwrap();
        }
        if life == 2 {
            // Copied while the store is open: nothing is closed, flushed or rewritten.
            copy(&live, &home.path().join("killed"));
        }
        store.close().unwrap();
    }
    fs::remove_dir_all(&live).unwrap();
    (home, saved)
}

fn one_write(rng: &mut StdRng, saved: &mut Saved) -> Write {
    let document = name(rng.random_range(0..40));
    let last = saved.get(&document).map_or(Seq::ZERO, Stored::last);
    match rng.random_range(0..20) {
        0 if last > Seq::ZERO => {
            saved.remove(&document);
            Write::Delete { document }
        }
        1..4 if saved.get(&document).is_some_and(|stored| !stored.records.is_empty()) => {
            let snapshot = Snapshot { upto: last, update: noise(rng, 40_000) };
            let stored = saved.get_mut(&document).unwrap();
            stored.records.clear();
            stored.snapshot = Some(snapshot.clone());
            Write::Compact { document, snapshot }
        }
        kind => {
            let largest = if kind < 6 { 300_000 } else { 400 };
            let records: Vec<_> = (1..=rng.random_range(1..4))
                .map(|number| Record { seq: Seq(last.0 + number), time_ms: 5, update: noise(rng, largest) })
                .collect();
            let new = || Stored { epoch: EPOCH, snapshot: None, records: Vec::new() };
            saved.entry(document.clone()).or_insert_with(new).records.extend(records.clone());
            Write::Append { document, epoch: EPOCH, records }
        }
    }
}

fn noise(rng: &mut StdRng, most: usize) -> Bytes {
    let mut bytes = vec![0; rng.random_range(1..most)];
    rng.fill(&mut bytes[..]);
    bytes.into()
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

/// Opens the store and checks every document. `Err`: the store does not open, or the load of a document fails.
fn check_by_opening(dir: &Path, saved: &Saved) -> Result<(), StoreError> {
    let store = SledStore::open(dir)?;
    // Like the server.
    store.inconsistency().map_or(Ok(()), Err)?;
    let mut refused = Ok(());
    for (name, expected) in saved {
        match store.load(name) {
            Ok(Some(found)) => assert!(found == *expected, "{name} differs without an error"),
            Ok(None) => panic!("{name} is missing without an error"),
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains(name.as_str()) && message.contains("record"), "{message}");
                refused = Err(error);
            }
        }
    }
    refused.and_then(|()| {
        assert_eq!(store.list()?.len(), saved.len(), "a deleted document exists again");
        store.close()
    })
}

/// Surveys the store. Returns whether the survey reports everything as intact, and checks that this is true.
fn check_by_survey(dir: &Path, saved: &Saved) -> bool {
    let survey = Survey::of(dir).unwrap();
    let mut is_intact = survey.complaints().is_empty();
    for name in survey.documents() {
        match survey.document(name) {
            // It must be complete whatever the store-wide problems, because a repair keeps its sequence numbers.
            Condition::Intact(found) => assert!(
                saved.get(name) == Some(&found),
                "{name} is reported as intact at record {}, but was saved at {:?}; complaints: {:?}",
                found.last(),
                saved.get(name).map(Stored::last),
                survey.complaints()
            ),
            Condition::Damaged { error, .. } => {
                assert!(error.to_string().contains(name.as_str()), "{error}");
                is_intact = false;
            }
        }
    }
    let all = saved.keys().all(|name| survey.documents().any(|found| found == name));
    assert!(all || !is_intact, "a document is missing without an error");
    is_intact
}

#[derive(Debug)]
enum Damage {
    Flip(u64, u8),
    Cut(u64),
    Zero(u64, u64),
}

fn draw_file(rng: &mut StdRng, dir: &Path) -> PathBuf {
    let engine = dir.join("sled");
    let mut files: Vec<_> = fs::read_dir(&engine).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    // Half of the damage is in the log, which contains the documents.
    if rng.random_bool(0.5) { engine.join("db") } else { files[rng.random_range(0..files.len())].clone() }
}

fn damage(rng: &mut StdRng, path: &Path) -> Damage {
    let bytes = fs::read(path).unwrap();
    // Only damage bytes up to the last one in use.
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last as u64 + 1);
    // One time in four damage the end of the log, where no later message reveals the loss.
    let first = if rng.random_bool(0.25) { used.saturating_sub(LAST_BYTES) } else { 0 };
    let at = rng.random_range(first..used);
    match rng.random_range(0..10) {
        0 => Damage::Cut(at),
        1 => Damage::Zero(at, rng.random_range(1..8192).min(used - at)),
        _ => Damage::Flip(at, 1 << rng.random_range(0..8)),
    }
}

fn apply(path: &Path, damage: &Damage) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    match *damage {
        Damage::Cut(at) => file.set_len(at).unwrap(),
        Damage::Zero(at, len) => file.write_all_at(&vec![0; len as usize], at).unwrap(),
        Damage::Flip(at, bit) => {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ bit], at).unwrap();
        }
    }
}

fn setting(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap())
}

#[test]
fn damage_anywhere_is_an_error_or_changes_nothing() {
    let seed = setting("SYNCLINE_SEED", 1);
    println!("SYNCLINE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (home, saved) = killed_store(&mut rng);
    let killed = home.path().join("killed");
    assert!(check_by_survey(&killed, &saved), "an undamaged store is reported as damaged");
    copy(&killed, &home.path().join("undamaged"));
    check_by_opening(&home.path().join("undamaged"), &saved).unwrap();
    let (mut refused, mut harmless, mut missed, mut silent) = (0, 0, 0, Vec::new());
    for at in 0..setting("SYNCLINE_FLIPS", 24) {
        let path = draw_file(&mut rng, &killed);
        let damage_done = damage(&mut rng, &path);
        let trial = home.path().join("trial");
        fs::remove_dir_all(&trial).ok();
        copy(&killed, &trial);
        apply(&trial.join(path.strip_prefix(&killed).unwrap()), &damage_done);
        println!("{at}: {damage_done:?} in {}", path.display());
        let reported_intact = check_by_survey(&trial, &saved);
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check_by_opening(&trial, &saved)));
        std::panic::set_hook(before);
        match outcome {
            Ok(Ok(())) => harmless += 1,
            Ok(Err(error)) => {
                assert!(error.to_string().len() > 20, "{error}");
                refused += 1;
                if reported_intact {
                    println!("  reported as intact by the survey: {error}");
                    missed += 1;
                }
            }
            Err(panic) => {
                let what = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                silent.push(format!(
                    "damage {at} in {}: {what}; reported as intact by the survey: {reported_intact}",
                    path.display()
                ));
            }
        }
    }
    println!(
        "{refused} errors ({missed} of them reported as intact by the survey), {harmless} harmless, {} silent",
        silent.len()
    );
    assert!(silent.is_empty(), "{silent:#?}");
    assert!(refused > 0, "no damage caused an error");
}

/// The loss is at the end of a segment, where no later message reveals that something is missing.
#[test]
fn document_outdated_by_a_lost_segment_end_is_reported_as_damaged() {
    const SEGMENT_BYTES: u64 = 8 << 20;
    const NEWEST: &[u8] = b"the newest form";
    let home = tempfile::tempdir().unwrap();
    let (live, killed) = (home.path().join("live"), home.path().join("killed"));
    let store = SledStore::open(&live).unwrap();
    let append = |document: &str, seq: u64, update: &[u8]| {
        let records = vec![Record { seq: Seq(seq), time_ms: 5, update: Bytes::copy_from_slice(update) }];
        Write::Append { document: DocumentName::parse(document).unwrap(), epoch: EPOCH, records }
    };
    let all = |names: &str, seq: u64, bytes: usize| {
        let write = |number| append(&format!("{names}/{number:03}"), seq, &vec![number as u8; bytes]);
        store.commit(&(0..200).map(write).collect::<Vec<_>>()).unwrap();
    };
    // Neighbouring documents that never change keep the engine from rewriting the document's pages; others fill the log.
    all("a", 1, 10);
    all("b", 1, 500);
    store.commit(&[append("m", 1, b"the older form")]).unwrap();
    all("n", 1, 500);
    all("a", 2, 10_000);
    store.commit(&[append("m", 2, NEWEST)]).unwrap();
    all("a", 3, 50_000);
    copy(&live, &killed);
    store.close().unwrap();
    let db = killed.join("sled/db");
    let bytes = fs::read(&db).unwrap();
    let found: Vec<_> = bytes.windows(NEWEST.len()).enumerate().filter(|(_, bytes)| *bytes == NEWEST).collect();
    assert!(!found.is_empty());
    // Zero this much before the newest value, with or without its head, and everything after it in the segment.
    for before in [100, 200, 400, 800, 1_600] {
        for (at, _) in &found {
            let at = *at as u64 - before;
            let end = at.next_multiple_of(SEGMENT_BYTES).min(bytes.len() as u64);
            apply(&db, &Damage::Zero(at, end - at));
        }
        let survey = Survey::of(&killed).unwrap();
        assert!(!survey.complaints().is_empty(), "{before} bytes before it");
        let condition = survey.document(&DocumentName::parse("m").unwrap());
        assert!(matches!(condition, Condition::Damaged { .. }), "{before} bytes before it: {condition:?}");
        fs::write(&db, &bytes).unwrap();
    }
}

/// The range from the first to the last difference of two files of the same length.
fn differing(one: &[u8], other: &[u8]) -> std::ops::Range<usize> {
    let differs = |at: &usize| one.get(*at) != other.get(*at);
    let first = (0..other.len()).find(differs).unwrap();
    let last = (0..other.len()).rev().find(differs).unwrap();
    first..last + 1
}

#[test]
fn partly_written_commit_is_recovered_completely_or_not_at_all() {
    let home = tempfile::tempdir().unwrap();
    let (live, crashed) = (home.path().join("live"), home.path().join("crashed"));
    let store = SledStore::open(&live).unwrap();
    let records = |seq: u64| vec![Record { seq: Seq(seq), time_ms: 5, update: vec![seq as u8; 300].into() }];
    let append = |document: usize, seq| Write::Append { document: name(document), epoch: EPOCH, records: records(seq) };
    for seq in 1..=4 {
        store.commit(&(0..6).map(|document| append(document, seq)).collect::<Vec<_>>()).unwrap();
    }
    let before: Vec<_> = (0..6).map(|document| store.load(&name(document)).unwrap().unwrap()).collect();
    copy(&live, &crashed);
    let snapshot = Snapshot { upto: Seq(4), update: vec![9; 500].into() };
    let mut writes: Vec<_> = (1..6).map(|document| append(document, 5)).collect();
    writes.push(Write::Compact { document: name(0), snapshot });
    store.commit(&writes).unwrap();
    let after: Vec<_> = (0..6).map(|document| store.load(&name(document)).unwrap().unwrap()).collect();
    let written = fs::read(live.join("sled/db")).unwrap();
    store.close().unwrap();
    let earlier = fs::read(crashed.join("sled/db")).unwrap();

    let mut seen = [0, 0];
    for cut in differing(&earlier, &written).step_by(61) {
        let mut bytes = written.clone();
        bytes[cut..].fill(0);
        fs::write(crashed.join("sled/db"), &bytes).unwrap();
        let survey = Survey::of(&crashed).unwrap();
        let found: Vec<_> = (0..6)
            .map(|document| match survey.document(&name(document)) {
                Condition::Intact(stored) => stored,
                Condition::Damaged { error, .. } => panic!("cut at {cut}: {error}"),
            })
            .collect();
        drop(survey);
        assert!(found == before || found == after, "cut at {cut}: only part of the commit was recovered");
        seen[usize::from(found == after)] += 1;

        let opened = home.path().join("opened");
        copy(&crashed, &opened);
        let store = SledStore::open(&opened).unwrap();
        for (document, found) in found.into_iter().enumerate() {
            assert_eq!(
                store.load(&name(document)).unwrap(),
                Some(found),
                "cut at {cut}: the engine opens another state"
            );
        }
        store.close().unwrap();
        fs::remove_dir_all(&opened).unwrap();
    }
    assert!(seen[0] > 10, "{seen:?}");
}
