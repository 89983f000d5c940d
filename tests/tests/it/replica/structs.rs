//! Compares the struct store with yrs: a reader with a hub's whole state, or with the diff to any earlier state, shows the same
//! document as a reader with every update. `tests/node/structs-fuzz.mjs` compares it with Yjs, on generated documents. A failure
//! prints its seed; `SYNCLINE_SEED=<seed>` replays it.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use syncline_replica::{Crdt, HubDocument, WeighOutcome, to_json};
use syncline_tests::fixtures::{Vector, whole_documents, ycrdt_dataset, yjs_vectors};
use yrs::updates::decoder::Decode;
use yrs::{Doc, Options, ReadTxn, StateVector, Transact, Update};

/// The content that a reader shows, and its state vector.
fn shown(state: &[u8]) -> (String, StateVector) {
    let vector = Update::decode_v1(state).unwrap().state_vector();
    (to_json(state).unwrap().to_string(), vector)
}

fn reader() -> Doc {
    Doc::with_options(Options { cleanup_formatting: false, ..Options::default() })
}

fn apply(doc: &Doc, update: &[u8]) {
    doc.transact_mut().apply_update(Update::decode_v1(update).unwrap()).unwrap();
}

fn state_of(doc: &Doc) -> Vec<u8> {
    doc.transact().encode_state_as_update_v1(&StateVector::default())
}

/// Applies the updates of a test vector to a hub in any order and compares the end states. Returns how many were pending.
fn compare(vector: &Vector, random: &mut StdRng) -> usize {
    let updates: Vec<Bytes> = vector.updates.iter().cloned().map(Bytes::from).collect();
    let all = reader();
    updates.iter().for_each(|update| apply(&all, update));
    let expected = shown(&state_of(&all));

    let mut order: Vec<usize> = (0..updates.len()).collect();
    if random.random_bool(0.5) {
        order.shuffle(random);
    }
    let mut hub = HubDocument::new(1);
    // A reader that receives every change, and one that falls behind.
    let (live, stale) = (reader(), reader());
    let mut pending = 0;
    for (number, at) in order.into_iter().enumerate() {
        let was_split = hub.weigh(&updates[at]).unwrap().is_split();
        let taken = hub.take(&updates[at]).unwrap();
        pending += usize::from(taken == WeighOutcome::Pending);
        if taken == WeighOutcome::Changed && !was_split {
            apply(&live, &updates[at]);
        }
        hub.take_released().iter().for_each(|released| apply(&live, &released.update));
        if number == updates.len() / 2 {
            apply(&stale, &hub.encode());
        }
        match random.random_range(0..40) {
            0 | 1 => drop(hub.compact()),
            // As after a restart of the server.
            2 => {
                let stored: Vec<Bytes> = std::iter::once(hub.compact()).chain(hub.pending()).collect();
                hub = HubDocument::load(1, &stored).unwrap();
            }
            _ => {}
        }
    }
    assert_eq!(hub.pending().len(), 0);
    let stale_vector = yrs::updates::encoder::Encode::encode_v1(&stale.transact().state_vector());
    apply(&stale, &hub.diff(&stale_vector).to_bytes());
    apply(&live, &hub.diff(&hub.state_vector()).to_bytes());
    for (what, state) in [
        ("whole", hub.encode().to_vec()),
        ("compacted", hub.compact().to_vec()),
        ("live", state_of(&live)),
        ("stale", state_of(&stale)),
    ] {
        assert_eq!(shown(&state), expected, "{}: {what}", vector.name);
    }
    pending
}

#[test]
fn hub_state_equals_all_updates_for_readers() {
    let seed = std::env::var("SYNCLINE_SEED").ok().map_or_else(rand::random, |seed| seed.parse().unwrap());
    println!("SYNCLINE_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut documents, mut pending) = (0, 0);
    for vector in yjs_vectors().iter().chain(&ycrdt_dataset()).chain(&whole_documents()) {
        pending += compare(vector, &mut random);
        documents += 1;
    }
    println!("{documents} documents; {pending} updates were pending");
    assert!(documents > 5_400 && pending > 1_000, "{documents} documents, {pending} updates were pending");
}

/// lib0 accepts numbers encoded in more bytes than needed, and so do all clients.
#[test]
fn padded_numbers_are_read_and_not_corrupted_by_later_structs() {
    // "a" with its length in two bytes, followed by "b"; the same for garbage and for values.
    let text = [&[1, 1, 1, 0, 4, 1, 1, b't', 0x81, 0, b'a', 0][..], &[1, 1, 1, 1, 0x84, 1, 0, 1, b'b', 0]];
    let garbage = [&[1, 1, 1, 0, 0, 0x81, 0, 0][..], &[1, 1, 1, 1, 0, 1, 0]];
    let values = [&[1, 1, 1, 0, 8, 1, 1, b'l', 0x81, 0, 126, 0][..], &[1, 1, 1, 1, 0x88, 1, 0, 1, 120, 0]];
    for updates in [text, garbage, values] {
        let updates = updates.map(Bytes::copy_from_slice);
        let all = reader();
        updates.iter().for_each(|update| apply(&all, update));
        for load in [false, true] {
            let mut hub = HubDocument::new(1);
            assert_eq!(hub.take(&updates[0]), Ok(WeighOutcome::Changed));
            if load {
                hub = HubDocument::load(1, &[hub.compact()]).unwrap();
            }
            assert_eq!(hub.take(&updates[1]), Ok(WeighOutcome::Changed));
            assert_eq!(shown(&hub.encode()), shown(&state_of(&all)));
            assert_eq!(shown(&hub.compact()), shown(&state_of(&all)));
        }
    }
}

/// The encoding of yrs after garbage collection is the reference for the size.
#[test]
fn compacted_state_is_as_small_as_that_of_a_tree() {
    let (mut ours, mut theirs, mut worst) = (0, 0, (0.0, String::new()));
    for vector in yjs_vectors().into_iter().chain(whole_documents()) {
        let updates: Vec<Bytes> = vector.updates.into_iter().map(Bytes::from).collect();
        let mut tree = Crdt::default();
        updates.iter().for_each(|update| _ = tree.apply(update).unwrap());
        let (one, other) = (HubDocument::load(1, &updates).unwrap().compact().len(), tree.encode().unwrap().len());
        (ours, theirs) = (ours + one, theirs + other);
        let ratio = one as f64 / other as f64;
        if ratio > worst.0 {
            worst = (ratio, vector.name);
        }
    }
    println!("{ours} bytes, with a tree {theirs}; at worst {worst:?}");
    assert!(ours * 100 <= theirs * 103, "{ours} bytes, with a tree {theirs}");
}
