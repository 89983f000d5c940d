//! Tests the scanner with real documents, known bombs and mutated updates: a hub must accept, store and relay every update the
//! scanner accepts, and yrs must handle an update as the scanner's verdict predicts.
//!
//! A mutation that fails prints its seed; `SYNCLINE_SEED=<seed>` replays it first, `SYNCLINE_MUTATIONS=<n>` runs more.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use syncline_protocol::update::{
    ScanError, ScanLimits, Structs, Verdict, scan_state_vector, scan_update, state_vector_entries, update_ranges,
    verdict,
};
use syncline_replica::{HubDocument, PendingLimits, Replica, WeighOutcome};
use syncline_tests::fixtures::{
    Vector, numbers, one_letter_each, state_vector, tower, whole_documents, ycrdt_dataset, yjs_vectors,
};
use yrs::block::ClientID;
use yrs::updates::decoder::Decode;
use yrs::{Doc, Options, ReadTxn, StateVector, Transact, Update};

fn new_document() -> Doc {
    Doc::with_options(Options { client_id: ClientID::new(1), ..Options::default() })
}

fn scan(update: &[u8]) -> Result<(), ScanError> {
    scan_update(update, &ScanLimits::default()).map(drop)
}

fn clocks_of(document: &Doc) -> StateVector {
    document.transact().state_vector()
}

fn verdict_on(update: &[u8], clocks: &StateVector) -> Verdict {
    let state = |client| u64::from(clocks.get(&ClientID::new(client)));
    verdict(update, &state, &ScanLimits::default()).expect("an accepted update")
}

fn apply(document: &Doc, update: &[u8]) {
    let update = Update::decode_v1(update).expect("yrs decodes");
    document.transact_mut().apply_update(update).expect("yrs applies");
}

fn encode(document: &Doc) -> Vec<u8> {
    document.transact().encode_state_as_update_v1(&StateVector::default())
}

#[test]
fn every_real_update_and_state_vector_is_accepted() {
    let mut seen = 0;
    for vector in [yjs_vectors(), whole_documents(), ycrdt_dataset()].into_iter().flatten() {
        for update in vector.updates.iter().chain(&vector.others) {
            assert_eq!(scan(update), Ok(()), "{}", vector.name);
            seen += 1;
        }
        for bytes in &vector.state_vectors {
            let summary = scan_state_vector(bytes, &ScanLimits::default()).expect(&vector.name);
            let decoded = StateVector::decode_v1(bytes).expect("yrs decodes");
            assert_eq!(summary.clients as usize, decoded.len());
            assert!(state_vector_entries(bytes).all(|(id, clock)| u64::from(decoded.get(&ClientID::new(id))) == clock));
        }
    }
    assert_eq!(seen, 7_477 + 300 + 4 + 46_385);
}

/// The encoded document without its order: yrs writes a subdocument's options in a different order each time.
fn bag_of_bytes(document: &Doc) -> Vec<u8> {
    let mut bytes = encode(document);
    bytes.sort_unstable();
    bytes
}

/// A document, and for each client the clock up to which it was given updates.
struct CheckedDocument {
    document: Doc,
    given_clocks: HashMap<u64, u64>,
}

impl CheckedDocument {
    fn has_everything(&self) -> bool {
        let clocks = clocks_of(&self.document);
        let has = |(&client, &end): (&u64, &u64)| u64::from(clocks.get(&ClientID::new(client))) >= end;
        !self.document.transact().has_missing_updates() && self.given_clocks.iter().all(has)
    }

    /// Applies an update and checks that yrs behaves as the verdict predicts.
    fn apply_checked(&mut self, update: &[u8]) -> Verdict {
        let whole_before = self.has_everything();
        let clocks_before = clocks_of(&self.document);
        let verdict = verdict_on(update, &clocks_before);
        // With pending updates, any update may make yrs integrate them.
        let compare = verdict.structs == Structs::Known && !verdict.deletes && whole_before;
        let before = compare.then(|| bag_of_bytes(&self.document));
        apply(&self.document, update);
        for range in update_ranges(update) {
            let end = self.given_clocks.entry(range.client).or_default();
            *end = range.end.max(*end);
        }
        let whole = self.has_everything();
        match verdict.structs {
            Structs::None => assert!(!whole_before || clocks_of(&self.document) == clocks_before),
            Structs::Known => {
                assert!(!whole_before || clocks_of(&self.document) == clocks_before);
                assert!(
                    before.is_none_or(|before| before == bag_of_bytes(&self.document)),
                    "a known update changed the document"
                );
            }
            Structs::Fresh if whole_before => assert_eq!(whole, !verdict.deletes_ahead, "{verdict:?}"),
            Structs::Gap | Structs::MissingDependency if whole_before => assert!(!whole, "{verdict:?}"),
            _ => {}
        }
        verdict
    }
}

#[test]
fn verdicts_agree_with_what_yrs_does() {
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut count = |verdict: Verdict| *counts.entry(format!("{:?}", verdict.structs)).or_default() += 1;
    let mut rng = StdRng::seed_from_u64(7);
    for Vector { name, updates, others, state_vectors } in yjs_vectors().into_iter().chain(ycrdt_dataset()) {
        let mut checked = CheckedDocument { document: new_document(), given_clocks: HashMap::new() };
        for (number, update) in updates.iter().enumerate() {
            let verdict = catch_unwind(AssertUnwindSafe(|| checked.apply_checked(update)))
                .unwrap_or_else(|_| panic!("{name}, update {number}"));
            count(verdict);
            // Sometimes an update is repeated or arrives early.
            let again = rng.random_range(0..updates.len() * 4);
            if let Some(update) = updates.get(again) {
                count(checked.apply_checked(update));
            }
        }
        // A stale client that receives the whole document.
        if let ([whole, held, _], [_, asks]) = (&others[..], &state_vectors[..]) {
            let mut stale = CheckedDocument { document: new_document(), given_clocks: HashMap::new() };
            stale.apply_checked(held);
            assert_eq!(clocks_of(&stale.document), StateVector::decode_v1(asks).expect("yrs decodes"), "{name}");
            count(stale.apply_checked(whole));
            assert!(stale.has_everything(), "{name}");
            let clocks = clocks_of(&checked.document);
            assert_eq!(verdict_on(whole, &clocks).structs, Structs::Known, "{name}");
            assert_eq!(verdict_on(whole, &StateVector::default()).structs, Structs::Fresh, "{name}");
        }
    }
    println!("{counts:?}");
    for structs in [Structs::Known, Structs::Fresh, Structs::Gap, Structs::MissingDependency, Structs::Overlaps] {
        let count = counts.get(&format!("{structs:?}")).copied().unwrap_or(0);
        assert!(count > 0, "no vector shows {structs:?}: {counts:?}");
    }
}

#[test]
fn ranges_agree_with_yrs() {
    for vector in yjs_vectors() {
        let update = &vector.others[0];
        let clocks = Update::decode_v1(update).expect("yrs decodes").state_vector();
        let ranges: Vec<_> = update_ranges(update).collect();
        assert_eq!(ranges.len(), clocks.len(), "{}", vector.name);
        assert!(ranges.iter().all(|range| u64::from(clocks.get(&ClientID::new(range.client))) == range.end));
    }
}

#[test]
fn length_bombs_are_refused() {
    for count in [1u64 << 20, 1 << 28, u64::from(u32::MAX), (1 << 53) - 1] {
        let count = numbers(&[count]);
        let sections = [&count[..], &[0, 0]].concat();
        let structs = [&[1][..], &count, &[5, 0, 0]].concat();
        let values = [&[1, 1, 5, 0, 8, 1, 1, b't'][..], &count, &[0]].concat();
        let string = [&[1, 1, 5, 0, 4, 1, 1, b't'][..], &count, b"x", &[0]].concat();
        let array = [&[1, 1, 5, 0, 8, 1, 1, b't', 1, 117][..], &count, &[0]].concat();
        let map = [&[1, 1, 5, 0, 8, 1, 1, b't', 1, 118][..], &count, &[0]].concat();
        let deletes = [&[0][..], &count, &[0]].concat();
        let ranges = [&[0, 1, 5][..], &count, &[0, 1]].concat();
        for bomb in [&count, &sections, &structs, &values, &string, &array, &map, &deletes, &ranges] {
            assert!(scan(bomb).is_err(), "{bomb:?}");
        }
        assert!(scan_state_vector(&count, &ScanLimits::default()).is_err());
    }
}

#[test]
fn nested_values_are_refused() {
    for depth in [8_000, 100_000] {
        let head = [1, 1, 5, 0, 8, 1, 1, b't', 1];
        let arrays = [&head[..], &[117, 1].repeat(depth), &[127, 0]].concat();
        let maps = [&head[..], &[118, 1, 0].repeat(depth), &[127, 0]].concat();
        let json = "[".repeat(depth) + &"]".repeat(depth);
        let embed = [&[1, 1, 5, 0, 5, 1, 1, b't'][..], &numbers(&[json.len() as u64]), json.as_bytes(), &[0]].concat();
        for bomb in [arrays, maps, embed] {
            assert_eq!(scan(&bomb), Err(ScanError::ValueTooDeep(100)));
        }
    }
}

#[test]
fn too_many_or_empty_clients_are_refused_and_any_ids_accepted() {
    let limits = ScanLimits::default();
    for count in [100_000u64, 1_000_000] {
        let mut empty = numbers(&[count]);
        (0..count).for_each(|client| empty.extend(numbers(&[0, client, 0])));
        empty.push(0);
        assert!(scan(&empty).is_err());
    }
    // A document in long use: many page loads, each with a client id of its own.
    assert_eq!(scan(&one_letter_each((0..200_000u32).map(u64::from))), Ok(()));
    assert!(scan_state_vector(&state_vector((0..200_000u32).map(u64::from)), &limits).is_ok());
    for count in [200_001u32, 1_000_000] {
        assert!(matches!(scan(&one_letter_each((0..count).map(u64::from))), Err(ScanError::TooMany { .. })));
        let many = scan_state_vector(&state_vector((0..count).map(u64::from)), &limits);
        assert!(matches!(many, Err(ScanError::TooMany { .. })), "{count}");
    }
    assert!(scan(&[2, 0, 1, 0, 0, 2, 0, 0]).is_err(), "sections without structs");
    // Ids of an application's own scheme: they would collide in a table that uses the id as its hash.
    let scheme = (0..30_000u32).map(|client| u64::from(client) << 20);
    assert_eq!(scan(&one_letter_each(scheme.clone())), Ok(()));
    assert!(scan_state_vector(&state_vector(scheme), &limits).is_ok());
}

#[test]
fn clocks_near_the_end_are_refused() {
    let known = [1, 1, 0xb1, 2, 0xff, 0xff, 0xff, 0xff, 0x0f, 0xc4, 0x0a, 0x03, 0x0a, 0x0f, 1, b'a', 0];
    assert!(matches!(scan(&known), Err(ScanError::ClockTooLarge { .. })));
    for clock in [1u64 << 31, 4_000_000_000, 1 << 32, (1 << 53) - 1] {
        let text = [&[1, 1, 5][..], &numbers(&[clock]), &[4, 1, 1, b't', 1, b'x', 0]].concat();
        let origin = [&[1, 1, 5, 0, 0x84, 6][..], &numbers(&[clock]), &[1, b'x', 0]].concat();
        let long = [&[1, 1, 5, 0, 0][..], &numbers(&[clock]), &[0]].concat();
        let deleted = [&[0, 1, 5, 1, 0][..], &numbers(&[clock])].concat();
        for bomb in [text, origin, long, deleted] {
            assert!(matches!(scan(&bomb), Err(ScanError::ClockTooLarge { .. })), "{clock}");
        }
        assert!(scan_state_vector(&[&[1, 5][..], &numbers(&[clock])].concat(), &ScanLimits::default()).is_err());
    }
}

#[test]
fn hub_accepts_nested_types_of_any_depth_and_tree_refuses_deep_ones() {
    for (count, is_tree) in [(501, true), (1_900, true), (100_000, false)] {
        let update = Bytes::from(tower(None, count, true));
        assert_eq!(scan(&update), Ok(()));
        let mut hub = HubDocument::default();
        assert_eq!(hub.take(&update), Ok(WeighOutcome::Changed));
        assert!(hub.compact().len() < 40, "all types are deleted");
        // In a thread with the default stack size.
        let tree = std::thread::spawn(move || Replica::default().take(&update, &PendingLimits::default()).is_ok());
        assert_eq!(tree.join().expect("no overflow"), is_tree, "{count} levels");
    }
}

/// Changes a few bytes in ways that preserve much of the structure.
fn mutate(rng: &mut StdRng, update: &[u8], other: &[u8]) -> Vec<u8> {
    let mut out = update.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(0..out.len());
        match rng.random_range(0..9) {
            0 => out[at] ^= 1 << rng.random_range(0..8),
            1 => out[at] = rng.random(),
            2 => out[at] = out[at].wrapping_add(1),
            3 => out[at] = out[at].wrapping_sub(1),
            4 => out.insert(at, rng.random_range(0..=16)),
            5 if out.len() > 1 => _ = out.remove(at),
            6 => {
                let interesting = [0x00, 0x01, 0x04, 0x07, 0x08, 0x0a, 0x27, 0x44, 0x47, 0x84, 0x87, 0xc4, 0xc7, 0xff];
                out[at] = interesting[rng.random_range(0..interesting.len())];
            }
            7 => {
                let len = rng.random_range(0..=(out.len() - at).min(12));
                let from = rng.random_range(0..=out.len() - len);
                let piece = out[from..from + len].to_vec();
                out[at..at + len].copy_from_slice(&piece);
            }
            _ => {
                let start = rng.random_range(0..other.len());
                let piece = &other[start..other.len().min(start + rng.random_range(1..12))];
                out.splice(at..at, piece.iter().copied());
            }
        }
    }
    out
}

/// Result of one mutation.
enum Outcome {
    Refused,
    Taken,
    /// Accepted by the hub; no tree could be built with it.
    NoTree,
}

/// If the scanner accepts a mutated update, a hub must accept, store and relay it; a tree accepts it or returns an error.
fn one_mutation(seed: u64, corpus: &[Vector]) -> Outcome {
    let mut rng = StdRng::seed_from_u64(seed);
    let vector = &corpus[rng.random_range(0..corpus.len())];
    let number = rng.random_range(0..vector.updates.len());
    let other = &corpus[rng.random_range(0..corpus.len())].updates[0];
    let mutated = Bytes::from(mutate(&mut rng, &vector.updates[number], other));
    if scan(&mutated).is_err() {
        return Outcome::Refused;
    }
    let mut outcome = Outcome::Taken;
    for prefix in [&[][..], &vector.updates[..number.min(60)]] {
        let prefix: Vec<Bytes> = prefix.iter().cloned().map(Bytes::from).collect();
        let mut hub = HubDocument::load(1, &prefix).expect("accepted updates can be loaded");
        let before = hub.state_vector();
        hub.take(&mutated).ok();
        for clocks in [&[0][..], &before, &hub.state_vector()] {
            scan(&hub.diff(clocks).to_bytes()).expect("the scanner accepts what a hub encodes");
        }
        vector.updates[number..].iter().take(3).for_each(|update| _ = hub.take(&update.clone().into()));
        let vector = hub.state_vector();
        let state = hub.compact();
        scan(&state).expect("the scanner accepts what a hub encodes");
        let again = HubDocument::load(1, &[state]).expect("a hub's state can be loaded");
        assert_eq!(again.state_vector(), vector);
        let mut tree = Replica::load(prefix.into_iter()).expect("a tree can be built from updates of Yjs");
        if tree.take(&mutated, &PendingLimits::default()).is_err() {
            outcome = Outcome::NoTree;
        }
    }
    outcome
}

#[test]
fn mutations_the_scanner_accepts_are_stored_and_crash_no_tree() {
    let from_environment = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let replay = from_environment("SYNCLINE_SEED");
    let count = from_environment("SYNCLINE_MUTATIONS").unwrap_or(4_000);
    let first = replay.unwrap_or(1);
    let corpus: Vec<Vector> = yjs_vectors().into_iter().chain(ycrdt_dataset().into_iter().step_by(50)).collect();
    let corpus: Vec<Vector> = corpus.into_iter().filter(|vector| !vector.updates.is_empty()).collect();
    let (mut taken, mut no_tree, mut failed) = (0, 0, Vec::new());
    for seed in first..first + count {
        match catch_unwind(|| one_mutation(seed, &corpus)) {
            Ok(Outcome::Refused) => {}
            Ok(Outcome::Taken) => taken += 1,
            Ok(Outcome::NoTree) => no_tree += 1,
            Err(_) => failed.push(seed),
        }
    }
    println!("{count} mutations from seed {first}: {taken} accepted, {no_tree} accepted without a tree");
    assert!(failed.is_empty(), "replay with SYNCLINE_SEED={} (failed: {failed:?})", failed[0]);
    assert!(no_tree * 20 < taken, "updates that no tree accepts are rare");
    assert!(taken > count / 20, "too few mutations are accepted to show anything");
}
