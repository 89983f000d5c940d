//! Measures the log's durable updates per second and the latency until an update is durable, compared with sled called
//! directly with the same batches. `cargo run --profile dist -p syncline-log --example log_bench -- DIR [SECONDS]`

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark, not part of the server")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs};

use bytes::Bytes;
use syncline_log::{Log, Record, SledStore};
use syncline_protocol::ids::{DocumentName, Epoch, Seq};

const UPDATE_BYTES: usize = 100;

fn main() {
    let dir = env::args().nth(1).expect("a directory");
    let seconds = env::args().nth(2).map_or(5, |seconds| seconds.parse().unwrap());
    let dir = Path::new(&dir);
    println!(
        "{:<22}{:>10}{:>12}{:>12}{:>12}{:>10}{:>10}",
        "", "documents", "updates/s", "p50 us", "p99 us", "MB", "commits"
    );
    for documents in [1, 64, 1_000] {
        for window in [1, 16] {
            through_the_log(&dir.join("log"), documents, window, seconds);
        }
        direct(&dir.join("direct"), documents, seconds);
    }
}

/// Each document keeps `window` records in flight: it appends the next when one becomes durable.
fn through_the_log(dir: &Path, documents: usize, window: u64, seconds: u64) {
    fs::remove_dir_all(dir).ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let took = runtime.block_on(async {
        let log = Log::start(Arc::new(SledStore::open(dir).unwrap()));
        let end = Instant::now() + Duration::from_secs(seconds);
        let tasks: Vec<_> = (0..documents)
            .map(|at| {
                let name = DocumentName::parse(&format!("document-{at}")).unwrap();
                let mut document = log.document(name, Epoch(1), Seq::ZERO);
                tokio::spawn(async move {
                    let (mut sent, mut took, mut waiting) = (0, Vec::new(), std::collections::VecDeque::new());
                    while Instant::now() < end {
                        while waiting.len() < window as usize {
                            sent += 1;
                            waiting.push_back((sent, Instant::now()));
                            let update = Bytes::from(vec![sent as u8; UPDATE_BYTES]);
                            document.append(vec![Record { seq: Seq(sent), time_ms: 0, update }]);
                        }
                        let durable = document.changed().await;
                        assert!(!durable.failed);
                        while waiting.front().is_some_and(|(seq, _)| *seq <= durable.upto.0) {
                            took.push(waiting.pop_front().unwrap().1.elapsed());
                        }
                    }
                    took
                })
            })
            .collect();
        let mut took = Vec::new();
        for task in tasks {
            took.extend(task.await.unwrap());
        }
        log.close().await;
        took
    });
    report(&format!("log, {window} in flight"), dir, documents, took, seconds, None);
}

/// Commits one batch with a record for each document, then flush and fdatasync; without heads and checksums.
fn direct(dir: &Path, documents: usize, seconds: u64) {
    fs::remove_dir_all(dir).ok();
    let db = sled::Config::new().path(dir).cache_capacity(64 << 20).flush_every_ms(None).open().unwrap();
    let file = fs::File::open(dir.join("db")).unwrap();
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut took, mut seq, mut commits) = (Vec::new(), 0_u64, 0);
    while Instant::now() < end {
        seq += 1;
        let start = Instant::now();
        let mut batch = sled::Batch::default();
        for document in 0..documents as u64 {
            let key = [document.to_be_bytes(), seq.to_be_bytes()].concat();
            batch.insert(key, vec![seq as u8; UPDATE_BYTES]);
        }
        db.apply_batch(batch).unwrap();
        db.flush().unwrap();
        file.sync_data().unwrap();
        commits += 1;
        took.extend(std::iter::repeat_n(start.elapsed(), documents));
    }
    drop(db);
    report("sled directly", dir, documents, took, seconds, Some(commits));
}

fn report(what: &str, dir: &Path, documents: usize, mut took: Vec<Duration>, seconds: u64, commits: Option<u64>) {
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_micros();
    let bytes = [dir.join("db"), dir.join("sled/db")].iter().find_map(|db| Some(fs::metadata(db).ok()?.len()));
    println!(
        "{what:<22}{documents:>10}{:>12}{:>12}{:>12}{:>10}{:>10}",
        took.len() as u64 / seconds,
        at(0.5),
        at(0.99),
        bytes.unwrap_or(0) >> 20,
        commits.map_or("-".into(), |commits| commits.to_string())
    );
}
