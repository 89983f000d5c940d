//! A document that is kept as bytes is the same document: whatever it is asked, before and after its tree is built.
//! A failure prints its seed; `SYNCLINE_SEED=<seed>` replays its plan.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[path = "support/live.rs"]
mod live;

use std::sync::Arc;

use bytes::Bytes;
use live::{Socket, start, typed};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use syncline_log::memory::MemoryStore;
use syncline_log::store::{Store, Write};
use syncline_log::{Record, Snapshot};
use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use syncline_protocol::sync::SyncMessage;
use syncline_replica::{HeldLimits, Replica, Resting, Taken};
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{Doc, GetString, ReadTxn, StateVector, Text, Transact, Update};

const RUNS: usize = 60;
const LIMITS: HeldLimits = HeldLimits { updates: 1_000, bytes: 1 << 20 };

fn seeds() -> Vec<u64> {
    match std::env::var("SYNCLINE_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..RUNS).map(|_| rand::random()).collect(),
    }
}

fn apply(doc: &Doc, update: &[u8]) {
    doc.transact_mut().apply_update(Update::decode_v1(update).unwrap()).unwrap();
}

fn text_of<'a>(updates: impl IntoIterator<Item = &'a [u8]>) -> String {
    let doc = Doc::new();
    let text = doc.get_or_insert_text("text");
    updates.into_iter().for_each(|update| apply(&doc, update));
    text.get_string(&doc.transact())
}

/// Two writers who see each other's work, now and then late; their updates in the order of a server.
fn history(random: &mut StdRng) -> Vec<Bytes> {
    let docs = [Doc::with_client_id(5), Doc::with_client_id(900)];
    let mut history: Vec<Bytes> = Vec::new();
    let mut seen = [0, 0];
    for _ in 0..random.random_range(1..30) {
        let who = random.random_range(0..2);
        if random.random_bool(0.5) {
            history[seen[who]..].iter().for_each(|update| apply(&docs[who], update));
            seen[who] = history.len();
        }
        let text = docs[who].get_or_insert_text("text");
        let mut txn = docs[who].transact_mut();
        let len = text.len(&txn);
        if len > 0 && random.random_bool(0.3) {
            text.remove_range(&mut txn, random.random_range(0..len), 1);
        } else {
            text.insert(&mut txn, random.random_range(0..=len), ["a", "bc", "def"][random.random_range(0..3)]);
        }
        history.push(txn.encode_update_v1().into());
    }
    history
}

#[test]
fn at_rest_and_awake_a_document_answers_alike() {
    let mut rested = 0;
    for seed in seeds() {
        println!("SYNCLINE_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let history = history(&mut random);
        let tree = Replica::load(history.iter().cloned()).unwrap();
        let mut resting = Resting::load_as(7, &history).unwrap();
        rested += usize::from(resting.is_resting());
        let whole = tree.encode().unwrap();
        assert_eq!(text_of([&resting.encode().unwrap()[..]]), text_of([&whole[..]]));
        let vector = |bytes: &[u8]| StateVector::decode_v1(bytes).unwrap();
        assert_eq!(vector(&resting.state_vector()), vector(&tree.state_vector()));

        // What is known changes nothing and wakes nothing: single updates, and the whole delete set.
        let known = [history[random.random_range(0..history.len())].clone(), whole.clone()];
        let was_resting = resting.is_resting();
        for update in &known {
            assert_eq!(resting.take(update, &LIMITS), Ok(Taken::Known), "SYNCLINE_SEED={seed}");
        }
        assert_eq!(resting.is_resting(), was_resting);

        // Peers with nothing, with all, with a part.
        let part = history[..random.random_range(0..=history.len())].to_vec();
        let doc = Doc::with_client_id(1);
        part.iter().for_each(|update| apply(&doc, update));
        for peer in [StateVector::default(), vector(&tree.state_vector()), doc.transact().state_vector()] {
            let peer = peer.encode_v1();
            let (ours, theirs) = (resting.diff(&peer).unwrap(), tree.diff(&peer).unwrap());
            let has_nothing = peer == [0];
            let base: Vec<&[u8]> = if has_nothing { vec![] } else { vec![&whole] };
            assert_eq!(
                text_of(base.iter().copied().chain([&ours[..]])),
                text_of(base.iter().copied().chain([&theirs[..]])),
                "SYNCLINE_SEED={seed}"
            );
        }
        part.iter().for_each(|update| apply(&doc, update));
        let peer = doc.transact().state_vector().encode_v1();
        apply(&doc, &resting.diff(&peer).unwrap());
        assert_eq!(doc.get_or_insert_text("text").get_string(&doc.transact()), text_of([&whole[..]]));

        // It rests, a change wakes it, it rests again.
        resting.rest().unwrap();
        assert!(resting.is_resting());
        let change = Bytes::from(typed(77, "!"));
        assert_eq!(resting.take(&change, &LIMITS), Ok(Taken::Changed));
        assert!(!resting.is_resting());
        resting.rest().unwrap();
        assert!(text_of([&resting.encode().unwrap()[..]]).contains('!'));
        assert_eq!(resting.take(&change, &LIMITS), Ok(Taken::Known));
    }
    assert!(rested > 0, "none of these histories could be kept as bytes");
}

#[test]
fn a_deletion_that_is_new_wakes_a_document_and_what_waits_keeps_it_awake() {
    let doc = Doc::with_client_id(5);
    let text = doc.get_or_insert_text("text");
    text.insert(&mut doc.transact_mut(), 0, "abc");
    let all = Bytes::from(doc.transact().encode_state_as_update_v1(&StateVector::default()));
    let mut resting = Resting::load_as(7, std::slice::from_ref(&all)).unwrap();
    let deletion = {
        let mut txn = doc.transact_mut();
        text.remove_range(&mut txn, 1, 1);
        Bytes::from(txn.encode_update_v1())
    };
    assert!(resting.must_wake_for(&deletion));
    assert_eq!(resting.take(&deletion, &LIMITS), Ok(Taken::Changed));
    resting.rest().unwrap();
    assert_eq!(resting.take(&deletion, &LIMITS), Ok(Taken::Known));
    assert!(resting.is_resting());
    text.insert(&mut doc.transact_mut(), 0, "x");
    let waits = {
        let mut txn = doc.transact_mut();
        text.insert(&mut txn, 0, "y");
        Bytes::from(txn.encode_update_v1())
    };
    assert_eq!(resting.take(&waits, &LIMITS), Ok(Taken::Held));
    resting.rest().unwrap();
    assert!(!resting.is_resting(), "what waits would be lost with the tree");
    assert_eq!(resting.held().len(), 1);
}

/// A store with one document: a snapshot of `chars`, and records behind it.
fn stored(chars: usize, records: &[Vec<u8>]) -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new());
    let document = DocumentName::parse("doc").unwrap();
    let record = |seq, update: &[u8]| Record { seq: Seq(seq), time_ms: 0, update: Bytes::copy_from_slice(update) };
    let whole = typed(1, &"x".repeat(chars));
    let append = |records| Write::Append { document: document.clone(), epoch: Epoch(1), records };
    let snapshot = Snapshot { upto: Seq(1), update: whole.clone().into() };
    let compact = Write::Compact { document: document.clone(), snapshot };
    let records = records.iter().zip(2..).map(|(update, seq)| record(seq, update)).collect();
    store.commit(&[append(vec![record(1, &whole)]), compact, append(records)]).unwrap();
    store
}

#[tokio::test]
async fn a_cold_open_that_races_with_changes_misses_none() {
    // Large: woken beside the runtime, and its first answer is shared with those who come later.
    for chars in [10, 300_000] {
        let server = start(stored(chars, &[typed(2, "two"), typed(3, "three")])).await;
        let mut writer = Socket::open(&server, "/doc").await;
        let mut readers = Vec::new();
        for number in 0..20_u64 {
            let mut reader = Socket::open(&server, "/doc").await;
            reader.sync(SyncMessage::Step1(&[0])).await;
            writer.sync(SyncMessage::Update(&typed(100 + number, &format!("<{number}>")))).await;
            readers.push(reader);
        }
        for reader in &mut readers {
            let (doc, mut text) = (Doc::new(), String::new());
            let root = doc.get_or_insert_text("text");
            let mut has_joined = false;
            while !has_joined || !(0..20).all(|number| text.contains(&format!("<{number}>"))) {
                let (kind, update) = reader.hear_sync().await;
                if kind == 0 {
                    continue;
                }
                assert!(has_joined || kind == 1, "a change before the document");
                has_joined |= kind == 1;
                apply(&doc, &update);
                text = root.get_string(&doc.transact());
                assert!(text.contains("two") && text.contains("three") && text.len() >= chars);
            }
        }
        server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn stored_bytes_that_make_no_document_refuse_the_session_and_blame_nobody() {
    // Client 2 types into a letter, as if it were a type: a log from which no server takes such a thing.
    let store = stored(10, &[]);
    let document = DocumentName::parse("doc").unwrap();
    let bad = Bytes::from_static(&[1, 1, 2, 0, 4, 0, 1, 0, 1, b'b', 0]);
    let records = vec![Record { seq: Seq(2), time_ms: 0, update: bad }];
    store.commit(&[Write::Append { document, epoch: Epoch(1), records }]).unwrap();
    let server = start(store).await;
    let mut author = Socket::open(&server, "/doc").await;
    author.join().await;
    assert!(server.metrics().reloads.get() == 0, "who only reads needs no tree");
    author.sync(SyncMessage::Update(&typed(50, "new"))).await;
    let (code, reason) = author.hear_close().await;
    assert!(code == 4503 || code == 4500, "{code} {reason}");
    server.stop().await.unwrap();
}
