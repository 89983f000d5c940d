//! What the CRDT costs: a keystroke into a short and into a long document, the whole state, a difference, opening it.
//! `cargo bench -p syncline-replica`

#![allow(clippy::unwrap_used, reason = "a measurement")]

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use syncline_replica::{HeldLimits, Replica, Resting};
use yrs::{Doc, ReadTxn, StateVector, Text, Transact};

const LETTERS: u32 = 20_000;

/// A document of words typed at many places, and as many keystrokes at its end, one update each.
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
        let load = || Replica::load(std::iter::once(state.clone())).unwrap();
        let mut group = criterion.benchmark_group(format!("{size} document"));
        group.sample_size(20);
        group.bench_function(format!("apply {LETTERS} keystrokes"), |bench| {
            let type_all = |mut replica: Replica| {
                keystrokes.iter().for_each(|update| _ = replica.take(update, &HeldLimits::default()).unwrap());
                replica
            };
            bench.iter_batched(load, type_all, BatchSize::PerIteration);
        });
        let replica = load();
        let in_step = replica.state_vector();
        group.bench_function("encode", |bench| bench.iter(|| replica.encode()));
        group.bench_function("difference for who is in step", |bench| bench.iter(|| replica.diff(&in_step)));
        group.bench_function("open as a tree", |bench| bench.iter(load));
        let stored = [state.clone()];
        group.bench_function("open as bytes", |bench| bench.iter(|| Resting::load_as(1, &stored)));
        let mut resting = Resting::load_as(1, &stored).unwrap();
        group.bench_function("at rest: difference for who is in step", |bench| bench.iter(|| resting.diff(&in_step)));
        group.finish();
    }
}

criterion_group!(benches, documents);
criterion_main!(benches);
