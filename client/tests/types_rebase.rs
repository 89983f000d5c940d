//! Random documents rebased onto unrelated histories: without concurrent changes the result equals the rebased replica,
//! nothing is duplicated, and text typed by either side is kept.
//!
//! A failing run prints its seed; `SYNCLINE_SEED=<seed>` runs only that seed.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test helpers")]

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use syncline_client::types::Value;
use syncline_client::types::apart::{PathStep, both_changed};
use syncline_client::types::rebase::rebase;
use syncline_client::yrs::types::ToJson;
use syncline_client::yrs::updates::decoder::Decode;
use syncline_client::yrs::{
    Array, ClientID, Doc, GetString, Map, MapPrelim, OffsetKind, Options, Out, ReadTxn, StateVector, Text, TextPrelim,
    TextRef, Transact, TransactionMut, Update, WriteTxn,
};

const SEEDS: u64 = 400;

fn doc(client: u64, kind: OffsetKind) -> Doc {
    Doc::with_options(Options { offset_kind: kind, ..Options::with_client_id(ClientID::new(client)) })
}

fn copy(of: &Doc, client: u64) -> Doc {
    let copy = doc(client, OffsetKind::Utf16);
    let update = of.transact().encode_state_as_update_v1(&StateVector::default());
    copy.transact_mut().apply_update(Update::decode_v1(&update).unwrap()).unwrap();
    copy
}

fn content(doc: &Doc) -> [Value; 3] {
    let mut txn = doc.transact_mut();
    let (text, map, array) =
        (txn.get_or_insert_text("text"), txn.get_or_insert_map("map"), txn.get_or_insert_array("array"));
    [text.get_string(&txn).as_str().into(), Value::from_any(&map.to_json(&txn)), Value::from_any(&array.to_json(&txn))]
}

fn edit_text(rng: &mut SmallRng, txn: &mut TransactionMut<'_>, text: &TextRef) {
    // Never between the two UTF-16 units of a character.
    let units: Vec<u16> = text.get_string(txn).encode_utf16().collect();
    let mut at = rng.random_range(0..=units.len());
    while units.get(at).is_some_and(|unit| (0xDC00..0xE000).contains(unit)) {
        at -= 1;
    }
    if rng.random_range(0..3) == 0 {
        let mut end = (at + rng.random_range(0..6)).min(units.len());
        while units.get(end).is_some_and(|unit| (0xDC00..0xE000).contains(unit)) {
            end += 1;
        }
        text.remove_range(txn, at as u32, (end - at) as u32);
    } else {
        let words = ["one ", "two ", "\u{1f600} ", "gr\u{fc}n ", "\u{4e2d}\u{6587} ", "x"];
        text.insert(txn, at as u32, words[rng.random_range(0..words.len())]);
    }
}

/// Random edits of a text, a map with nested types, and an array with nested maps.
fn edit(rng: &mut SmallRng, doc: &Doc, times: usize) {
    let mut txn = doc.transact_mut();
    let (text, map, array) =
        (txn.get_or_insert_text("text"), txn.get_or_insert_map("map"), txn.get_or_insert_array("array"));
    for _ in 0..times {
        let key = ["a", "b", "c", "d"][rng.random_range(0..4)];
        let number: i64 = rng.random_range(0..1_000_000);
        let index = rng.random_range(0..=array.len(&txn));
        match rng.random_range(0..9) {
            0 | 1 => edit_text(rng, &mut txn, &text),
            2 => drop(map.insert(&mut txn, key, number)),
            3 => drop(map.remove(&mut txn, key)),
            4 => match map.get(&txn, key) {
                Some(Out::YText(inner)) => edit_text(rng, &mut txn, &inner),
                Some(Out::YMap(inner)) => drop(inner.insert(&mut txn, "k", number)),
                _ if rng.random() => drop(map.insert(&mut txn, key, TextPrelim::new("one two three"))),
                _ => drop(map.insert(&mut txn, key, MapPrelim::from([("n", number)]))),
            },
            5 => drop(array.insert(&mut txn, index, number)),
            6 if index < array.len(&txn) => array.remove(&mut txn, index),
            7 => match array.get(&txn, index) {
                Some(Out::YMap(inner)) => drop(inner.insert(&mut txn, "k", number)),
                _ => drop(array.insert(&mut txn, index, MapPrelim::from([("n", number)]))),
            },
            _ => {}
        }
    }
}

fn for_each_seed(run: impl Fn(u64, &mut SmallRng)) {
    let seeds = match std::env::var("SYNCLINE_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..SEEDS).collect(),
    };
    for seed in seeds {
        println!("SYNCLINE_SEED={seed}");
        run(seed, &mut SmallRng::seed_from_u64(seed));
    }
}

/// Creates an unrelated document with the same content as `of`.
fn recreated(of: &Doc, client: u64, kind: OffsetKind) -> Doc {
    let created = doc(client, kind);
    rebase(&Doc::with_client_id(1), of, &mut created.transact_mut());
    created
}

#[test]
fn changes_of_one_side_are_applied_once() {
    for_each_seed(|seed, rng| {
        let kind = if seed % 2 == 0 { OffsetKind::Utf16 } else { OffsetKind::Bytes };
        let base = doc(11, OffsetKind::Utf16);
        edit(rng, &base, 25);
        let mine = copy(&base, 12);
        edit(rng, &mine, 12);
        let onto = recreated(&base, 13, kind);
        assert_eq!(content(&onto), content(&base), "seed {seed}: a recreated document");
        let report = rebase(&base, &mine, &mut onto.transact_mut());
        assert_eq!(content(&onto), content(&mine), "seed {seed}");
        assert!(report.conflicts.is_empty(), "seed {seed}: {:?}", report.conflicts);
        let again = rebase(&base, &mine, &mut onto.transact_mut());
        assert_eq!(content(&onto), content(&mine), "seed {seed}: second rebase");
        assert_eq!(again.changes, 0, "seed {seed}: second rebase");
        assert_eq!(both_changed(&base, &mine, &copy(&base, 14)), [], "seed {seed}");
    });
}

#[test]
fn concurrent_changes_keep_our_keys_and_report_conflicts() {
    for_each_seed(|seed, rng| {
        let base = doc(11, OffsetKind::Utf16);
        edit(rng, &base, 25);
        let (mine, theirs) = (copy(&base, 12), copy(&base, 13));
        edit(rng, &mine, 8);
        edit(rng, &theirs, 8);
        let onto = recreated(&base, 14, OffsetKind::Bytes);
        rebase(&base, &theirs, &mut onto.transact_mut());
        let report = rebase(&base, &mine, &mut onto.transact_mut());
        let [[_, was, _], [_, is, _], [_, others, _], [_, now, _]] = [&base, &mine, &theirs, &onto].map(content);
        let (Value::Map(was), Value::Map(is), Value::Map(others), Value::Map(now)) = (was, is, others, now) else {
            panic!("expected maps")
        };
        for key in ["a", "b", "c", "d"] {
            let ours = is.get(key);
            let conflict = report.conflicts.iter().any(|conflict| {
                conflict.path.starts_with(&[PathStep::Key("map".to_owned()), PathStep::Key(key.to_owned())])
            });
            if was.get(key) == ours {
                assert_eq!(now.get(key), others.get(key), "seed {seed}: {key} has their value");
            } else if was.get(key) == others.get(key) || matches!(ours, Some(Value::Integer(_))) {
                assert_eq!(now.get(key), ours, "seed {seed}: {key} has our value");
            } else if ours.is_none() && others.contains_key(key) {
                assert!(conflict, "seed {seed}: {key} was removed by us and changed by them");
                assert_eq!(now.get(key), others.get(key), "seed {seed}: {key} is kept");
            }
        }
    });
}

#[test]
fn words_typed_by_either_side_are_kept_once() {
    for_each_seed(|seed, rng| {
        let base = doc(11, OffsetKind::Utf16);
        base.get_or_insert_text("text").push(&mut base.transact_mut(), "one two three four five six");
        let (mine, theirs) = (copy(&base, 12), recreated(&base, 13, OffsetKind::Utf16));
        for (doc, side) in [(&mine, "m"), (&theirs, "t")] {
            for number in 0..3 {
                let (text, mut txn) = (doc.get_or_insert_text("text"), doc.transact_mut());
                let string = text.get_string(&txn);
                let spaces: Vec<usize> = string.match_indices(' ').map(|(at, _)| at).collect();
                let at = spaces[rng.random_range(0..spaces.len())] as u32;
                text.insert(&mut txn, at, &format!(" {side}{number}"));
            }
        }
        rebase(&base, &mine, &mut theirs.transact_mut());
        let [Value::Text(text), ..] = content(&theirs) else { panic!("expected a text") };
        let mut words: Vec<&str> = text.split(' ').collect();
        words.sort_unstable();
        let mut expected = vec!["one", "two", "three", "four", "five", "six", "m0", "m1", "m2", "t0", "t1", "t2"];
        expected.sort_unstable();
        assert_eq!(words, expected, "seed {seed}: {text}");
    });
}
