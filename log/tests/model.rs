//! Random steps on the sled store and on an in-memory model, which must always have the same content.
//! A failure prints its seed; `SYNCLINE_SEED=<seed>` replays it alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test")]

use std::env;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use syncline_log::memory::MemoryStore;
use syncline_log::store::Write;
use syncline_log::{Record, SledStore, Snapshot, Store};
use syncline_protocol::ids::{DocumentName, Epoch, Seq};

const RUNS: u64 = 6;
const COMMITS: usize = 60;
const DOCUMENTS: usize = 5;

#[test]
fn sled_store_equals_the_model_after_random_steps() {
    if let Ok(seed) = env::var("SYNCLINE_SEED") {
        return run(seed.parse().expect("SYNCLINE_SEED is a number"));
    }
    for _ in 0..RUNS {
        run(rand::random());
    }
}

fn run(seed: u64) {
    println!("SYNCLINE_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..DOCUMENTS).map(|at| DocumentName::parse(&"doc/".repeat(at * 20 + 1)).unwrap()).collect();
    let (model, mut store) = (MemoryStore::new(), SledStore::open(dir.path()).unwrap());
    for _ in 0..COMMITS {
        let mut last: Vec<_> =
            names.iter().map(|name| model.load(name).unwrap().map_or(0, |doc| doc.last().0)).collect();
        let steps = random.random_range(1..12);
        let writes: Vec<_> = (0..steps).map(|_| step(&mut random, &names, &mut last)).collect();
        model.commit(&writes).unwrap();
        store.commit(&writes).unwrap();
        match random.random_range(0..8) {
            0 => {
                store.close().unwrap();
                store = SledStore::open(dir.path()).unwrap();
            }
            // Without a close: like a kill, except for the lock.
            1 => {
                drop(store);
                store = SledStore::open(dir.path()).unwrap();
            }
            _ => {}
        }
        for name in &names {
            assert!(store.load(name).unwrap() == model.load(name).unwrap(), "{name} differs");
        }
        let (mut ours, mut theirs) = (store.list().unwrap(), model.list().unwrap());
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs);
    }
}

fn step(random: &mut StdRng, names: &[DocumentName], last: &mut [u64]) -> Write {
    let at = random.random_range(0..names.len());
    let document = names[at].clone();
    let kind = random.random_range(0..20);
    if kind == 0 {
        last[at] = 0;
        return Write::Delete { document };
    }
    if kind < 5 && last[at] > 0 {
        let upto = Seq(random.random_range(1..=last[at]));
        return Write::Compact { document, snapshot: Snapshot { upto, update: update(random) } };
    }
    let count = random.random_range(0..6);
    let records = (0..count)
        .map(|_| {
            last[at] += 1;
            Record { seq: Seq(last[at]), time_ms: random.random(), update: update(random) }
        })
        .collect();
    Write::Append { document, epoch: Epoch(at as u128), records }
}

/// A random update: mostly small, sometimes about the size of a chunk, and sometimes large.
fn update(random: &mut StdRng) -> Bytes {
    let len = match random.random_range(0..30) {
        0 => random.random_range(100_000..700_000),
        1..6 => random.random_range(4_000..4_200),
        _ => random.random_range(0..400),
    };
    let mut update = vec![0; len];
    random.fill(&mut update[..]);
    update.into()
}
