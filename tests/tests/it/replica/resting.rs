//! A hub's document gives the same answers as one with a tree, before and after it is compacted, and a document that is
//! loaded from disk misses no change. A failure prints its seed; `SYNCLINE_SEED=<seed>` replays its plan.

use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use syncline_log::memory::MemoryStore;
use syncline_log::store::{Store, Write};
use syncline_log::{Record, Snapshot};
use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use syncline_protocol::sync::SyncMessage;
use syncline_replica::{HubDocument, Replica, WeighOutcome};
use syncline_tests::live::{Socket, start, typed};
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{Doc, GetString, ReadTxn, StateVector, Text, Transact, Update};

const RUNS: usize = 60;

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

/// Two writers that receive each other's updates, sometimes late; their updates in server order.
fn history(random: &mut StdRng) -> Vec<Bytes> {
    let docs = [Doc::with_client_id(5), Doc::with_client_id(900)];
    let mut history: Vec<Bytes> = Vec::new();
    let mut seen = [0, 0];
    for _ in 0..random.random_range(1..30) {
        let writer = random.random_range(0..2);
        if random.random_bool(0.5) {
            history[seen[writer]..].iter().for_each(|update| apply(&docs[writer], update));
            seen[writer] = history.len();
        }
        let text = docs[writer].get_or_insert_text("text");
        let mut txn = docs[writer].transact_mut();
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
fn hub_and_tree_answer_alike_before_and_after_compaction() {
    for seed in seeds() {
        println!("SYNCLINE_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let history = history(&mut random);
        let tree = Replica::load(history.iter().cloned()).unwrap();
        let mut hub = HubDocument::load(7, &history).unwrap();
        let whole = tree.encode().unwrap();
        let vector = |bytes: &[u8]| StateVector::decode_v1(bytes).unwrap();
        for _ in 0..2 {
            assert_eq!(text_of([&hub.encode()[..]]), text_of([&whole[..]]));
            assert_eq!(vector(&hub.state_vector()), vector(&tree.state_vector()));
            // Known updates change nothing: single ones, and the whole state with its delete set.
            for update in [&history[random.random_range(0..history.len())], &whole] {
                assert_eq!(hub.take(update), Ok(WeighOutcome::Known), "SYNCLINE_SEED={seed}");
            }
            // Peers with nothing, everything, and a part.
            let part = random.random_range(0..=history.len());
            for seen in [0, history.len(), part] {
                let doc = Doc::with_client_id(1);
                history[..seen].iter().for_each(|update| apply(&doc, update));
                let peer = doc.transact().state_vector().encode_v1();
                apply(&doc, &hub.diff(&peer).to_bytes());
                assert_eq!(doc.get_or_insert_text("text").get_string(&doc.transact()), text_of([&whole[..]]));
            }
            hub.compact();
            assert!(hub.is_compact());
        }
        let change = Bytes::from(typed(77, "!"));
        assert_eq!(hub.take(&change), Ok(WeighOutcome::Changed));
        assert!(text_of([&hub.compact()[..]]).contains('!'));
        assert_eq!(hub.take(&change), Ok(WeighOutcome::Known));
    }
}

/// A store with one document: a snapshot of `chars` characters, followed by `records`.
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
async fn joining_during_a_cold_open_misses_no_change() {
    // A large document is loaded outside the runtime, and later readers share its first step 2.
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
                let (kind, update) = reader.receive_sync().await;
                if kind == 0 {
                    continue;
                }
                assert!(has_joined || kind == 1, "a change arrived before step 2");
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
async fn stored_update_that_no_tree_accepts_is_served_unchanged() {
    // Client 2 inserts into a character as if it were a type: Yjs turns that into garbage.
    let store = stored(10, &[]);
    let document = DocumentName::parse("doc").unwrap();
    let bad = Bytes::from_static(&[1, 1, 2, 0, 4, 0, 1, 0, 1, b'b', 0]);
    let records = vec![Record { seq: Seq(2), time_ms: 0, update: bad }];
    store.commit(&[Write::Append { document, epoch: Epoch(1), records }]).unwrap();
    let server = start(store).await;
    let mut author = Socket::open(&server, "/doc").await;
    author.join().await;
    let change = typed(50, "new");
    author.sync(SyncMessage::Update(&change)).await;
    assert_eq!(author.receive_sync().await, (2, change));
    server.stop().await.unwrap();
}
