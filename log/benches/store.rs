//! Benchmarks of the sled store: durable commits with one record for each of 1 to 1,000 documents, and reading a snapshot.
//! `cargo bench -p syncline-log`

#![allow(clippy::unwrap_used, reason = "a measurement")]

use std::cell::Cell;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use syncline_log::store::Write;
use syncline_log::{Record, SledStore, Snapshot, Store};
use syncline_protocol::ids::{DocumentName, Epoch, Seq};

fn name(at: u64) -> DocumentName {
    DocumentName::parse(&format!("document-{at}")).unwrap()
}

fn append(document: u64, seq: u64) -> Write {
    let record = Record { seq: Seq(seq), time_ms: 0, update: Bytes::from(vec![seq as u8; 100]) };
    Write::Append { document: name(document), epoch: Epoch(1), records: vec![record] }
}

fn store(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("durable commit, one record a document");
    for documents in [1, 64, 1_000] {
        let dir = tempfile::tempdir().unwrap();
        let (store, seq) = (SledStore::open(dir.path()).unwrap(), Cell::new(0));
        group.throughput(Throughput::Elements(documents)).sample_size(20);
        group.bench_function(format!("{documents} documents"), |bench| {
            bench.iter(|| {
                seq.set(seq.get() + 1);
                let writes: Vec<_> = (0..documents).map(|document| append(document, seq.get())).collect();
                store.commit(&writes).unwrap();
            });
        });
    }
    group.finish();
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path()).unwrap();
    let snapshot = Snapshot { upto: Seq(1), update: Bytes::from(vec![7; 311 * 1024]) };
    store.commit(&[append(0, 1), Write::Compact { document: name(0), snapshot }]).unwrap();
    criterion.bench_function("read a snapshot of 311 KiB", |bench| bench.iter(|| store.load(&name(0)).unwrap()));
}

criterion_group!(benches, store);
criterion_main!(benches);
