//! CPU cost of a document in a hub and with a tree: keystrokes into a short and a long document, a difference, opening,
//! compaction. `cargo bench -p syncline-replica`

#![allow(clippy::unwrap_used, reason = "a measurement")]

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use syncline_replica::{HubDocument, PendingLimits, Replica};
use yrs::{Doc, ReadTxn, StateVector, Text, Transact};

const LETTERS: u32 = 20_000;

/// The state of a document with `words` words typed at many positions, and updates for [`LETTERS`] keystrokes at its end.
fn typed(words: u32) -> (Bytes, Vec<Bytes>) {
    let doc = Doc::with_client_id(3_141_592_653);
    let text = doc.get_or_insert_text("text");
    for word in 0..words {
        let mut txn = doc.transact_mut();
        let len = text.len(&txn);
        text.insert(&mut txn, (word * 7_919) % (len + 1), "word ");
        if word % 3 == 0 {
            text.remove_range(&mut txn, (word * 104_729) % (len + 1), 2);
        }
    }
    let state = doc.transact().encode_state_as_update_v1(&StateVector::default());
    let keystrokes = (0..LETTERS).map(|_| {
        let mut txn = doc.transact_mut();
        let len = text.len(&txn);
        text.insert(&mut txn, len, "x");
        txn.encode_update_v1().into()
    });
    (state.into(), keystrokes.collect())
}

fn documents(criterion: &mut Criterion) {
    for (size, words) in [("an empty", 0), ("a long", 30_000)] {
        let (state, keystrokes) = typed(words);
        let stored = [state.clone()];
        let load = || HubDocument::load(1, &stored).unwrap();
        let load_tree = || Replica::load(std::iter::once(state.clone())).unwrap();
        let mut group = criterion.benchmark_group(format!("{size} document"));
        group.sample_size(20);
        group.bench_function(format!("hub: {LETTERS} keystrokes"), |bench| {
            let type_all = |mut document: HubDocument| {
                keystrokes.iter().for_each(|update| _ = document.take(update).unwrap());
                document
            };
            bench.iter_batched(load, type_all, BatchSize::PerIteration);
        });
        group.bench_function(format!("tree: {LETTERS} keystrokes"), |bench| {
            let type_all = |mut replica: Replica| {
                keystrokes.iter().for_each(|update| _ = replica.take(update, &PendingLimits::default()).unwrap());
                replica
            };
            bench.iter_batched(load_tree, type_all, BatchSize::PerIteration);
        });
        let mut document = load();
        let in_step = document.state_vector();
        group.bench_function("hub: difference for an up-to-date peer", |bench| bench.iter(|| document.diff(&in_step)));
        group.bench_function("hub: open", |bench| bench.iter(load));
        group.bench_function("hub: open, one keystroke, compact", |bench| {
            let compact = |mut document: HubDocument| {
                document.take(&keystrokes[0]).unwrap();
                document.compact()
            };
            bench.iter_batched(load, compact, BatchSize::PerIteration);
        });
        group.bench_function("tree: open", |bench| bench.iter(load_tree));
        group.finish();
    }
}

criterion_group!(benches, documents);
criterion_main!(benches);
