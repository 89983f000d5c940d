//! Measures how long an edit takes until it is on the device's disk, and the rate of many concurrent edits.
//! `cargo run --profile dist -p syncline-client --example edit_bench -- DIR [EDITS]`

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark, not a part of the client")]

use std::time::{Duration, Instant};

use syncline_client::yrs::{Text, TransactionMut, WriteTxn};
use syncline_client::{Device, DeviceConfig, Document};

fn append_letter(txn: &mut TransactionMut<'_>) {
    let text = txn.get_or_insert_text("text");
    let end = text.len(txn);
    text.insert(txn, end, "x");
}

#[tokio::main]
async fn main() {
    let dir = std::env::args().nth(1).expect("usage: edit_bench DIR [EDITS]");
    let edits: usize = std::env::args().nth(2).map_or(2_000, |edits| edits.parse().unwrap());
    let mut config = DeviceConfig::new(&dir, "ws://127.0.0.1:1");
    config.offline = true;
    let device = Device::open(config.clone()).await.unwrap();
    let document = device.document("bench").await.unwrap();
    one_by_one(&document, edits).await;
    concurrently(&document, edits * 10).await;
    let start = Instant::now();
    device.close().await;
    println!("close: {:?}", start.elapsed());
    let start = Instant::now();
    let device = Device::open(config).await.unwrap();
    let document = device.document("bench").await.unwrap();
    println!("open with {} in the queue: {:?}", document.status().pending, start.elapsed());
    device.close().await;
}

async fn one_by_one(document: &Document, edits: usize) {
    let mut times = Vec::new();
    for _ in 0..edits {
        let start = Instant::now();
        document.edit(append_letter).await.unwrap();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let total: Duration = times.iter().sum();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    println!("one by one: {:.0}/s, p50 {:?}, p99 {:?}", edits as f64 / total.as_secs_f64(), at(50), at(99));
}

async fn concurrently(document: &Document, edits: usize) {
    let start = Instant::now();
    let all = (0..edits).map(|_| {
        let document = document.clone();
        tokio::spawn(async move { document.edit(append_letter).await.unwrap() })
    });
    for edit in all.collect::<Vec<_>>() {
        edit.await.unwrap();
    }
    println!("concurrently: {:.0}/s", edits as f64 / start.elapsed().as_secs_f64());
}
