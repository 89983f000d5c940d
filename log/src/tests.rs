//! What the log promises whatever the store: batching, order, reporting, and the latch.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use syncline_protocol::ids::{DocumentName, Epoch, Seq};

use super::memory::{Fault, MemoryStore};
use super::store::Write;
use super::*;

/// Longest wait for something that must come.
const PATIENCE: Duration = Duration::from_secs(20);

fn name(text: &str) -> DocumentName {
    DocumentName::parse(text).unwrap()
}

fn record(seq: u64) -> Record {
    sized(seq, 3)
}

fn sized(seq: u64, len: usize) -> Record {
    Record { seq: Seq(seq), time_ms: seq, update: Bytes::from(vec![seq as u8; len]) }
}

fn open(log: &Log, text: &str) -> DocumentLog {
    log.document(name(text), Epoch(5), Seq::ZERO)
}

fn start() -> (Arc<MemoryStore>, Log) {
    let store = Arc::new(MemoryStore::new());
    let log = Log::start(Arc::clone(&store) as Arc<dyn Store>);
    (store, log)
}

fn durable(upto: u64) -> Durable {
    Durable { upto: Seq(upto), failed: false }
}

async fn until(document: &mut DocumentLog, upto: u64) {
    while document.durable() != durable(upto) {
        assert!(!document.durable_changed().await.failed);
    }
}

async fn until_failed(document: &mut DocumentLog) {
    while !document.durable().failed {
        document.durable_changed().await;
    }
}

/// Waits until a commit is held by the gate.
async fn held(store: &Arc<MemoryStore>) {
    let store = Arc::clone(store);
    tokio::task::spawn_blocking(move || store.wait_until_held()).await.unwrap();
}

#[tokio::test]
async fn what_queued_during_a_commit_becomes_one_commit_with_one_step_per_document() {
    let (store, log) = start();
    store.hold();
    let mut documents: Vec<_> = (0..100).map(|at| open(&log, &format!("{at}"))).collect();
    documents[0].append(vec![record(1)]).await;
    held(&store).await;
    for document in &documents[1..] {
        document.append(vec![record(1), record(2)]).await;
        document.append(vec![record(3)]).await;
    }
    store.release();
    for document in &mut documents[1..] {
        until(document, 3).await;
    }
    let commits = store.commits();
    assert_eq!((commits.len(), commits[1].len()), (2, 99));
    assert!(commits[1].iter().all(|write| matches!(write, Write::Append { records, .. } if records.len() == 3)));
}

#[tokio::test]
async fn a_record_is_durable_after_its_commit_and_not_before() {
    let (store, log) = start();
    store.hold();
    let mut document = open(&log, "doc");
    document.append(vec![record(1), record(2)]).await;
    held(&store).await;
    assert_eq!(document.durable(), durable(0));
    store.release();
    assert_eq!(document.durable_changed().await, durable(2));
    assert_eq!(log.load(&name("doc")).await.unwrap().unwrap().records, [record(1), record(2)]);
}

#[tokio::test]
async fn a_snapshot_keeps_its_place_among_the_records() {
    let (store, log) = start();
    store.hold();
    let mut document = open(&log, "doc");
    document.append(vec![record(1)]).await;
    held(&store).await;
    document.append(vec![record(2)]).await;
    document.compact(Snapshot { upto: Seq(2), update: Bytes::from_static(b"two") }).await;
    document.append(vec![record(3)]).await;
    store.release();
    until(&mut document, 3).await;
    let stored = log.load(&name("doc")).await.unwrap().unwrap();
    assert_eq!((stored.snapshot.unwrap().upto, stored.records), (Seq(2), vec![record(3)]));
}

#[tokio::test]
async fn the_first_error_is_final_and_everyone_is_told() {
    for fault in [Fault::Fail, Fault::Panic] {
        let (store, log) = start();
        let (mut writer, mut idle) = (open(&log, "writer"), open(&log, "idle"));
        let mut watch = log.watch_failed();
        writer.append(vec![record(1)]).await;
        until(&mut writer, 1).await;
        store.fault_at(1, fault);
        writer.append(vec![record(2)]).await;
        until_failed(&mut writer).await;
        until_failed(&mut idle).await;
        assert!(watch.wait_for(Option::is_some).await.is_ok() && log.failed().is_some());
        let mut late = open(&log, "late");
        assert!(late.durable().failed && late.durable_changed().await.failed);
        // The store would work again, and is not asked.
        late.append(vec![record(1)]).await;
        writer.append(vec![record(3)]).await;
        assert!(log.delete(&name("idle")).await.is_err());
        assert_eq!(writer.durable(), Durable { upto: Seq(1), failed: true });
        assert_eq!(store.commits().len(), 2);
        assert_eq!(log.load(&name("writer")).await.unwrap().unwrap().records, [record(1)], "reads go on");
        log.close().await;
        assert!(store.is_closed());
    }
}

#[tokio::test]
async fn a_crash_forgets_what_was_not_durable() {
    let (store, log) = start();
    let mut document = open(&log, "doc");
    document.append(vec![record(1)]).await;
    until(&mut document, 1).await;
    store.hold();
    document.append(vec![record(2)]).await;
    held(&store).await;
    store.crash();
    until_failed(&mut document).await;
    assert_eq!(document.durable().upto, Seq(1));
    assert_eq!(store.load(&name("doc")).unwrap().unwrap().last(), Seq(1));
}

#[tokio::test]
async fn a_load_waits_for_its_own_document_and_for_no_other() {
    let (store, log) = start();
    store.hold();
    let document = open(&log, "doc");
    document.append(vec![record(1)]).await;
    held(&store).await;
    // The task that held the document is gone; its record is on the way.
    drop(document);
    assert_eq!(log.load(&name("other")).await.unwrap(), None);
    let load = tokio::spawn({
        let log = log.clone();
        async move { log.load(&name("doc")).await }
    });
    // Other documents' loads pass by meanwhile.
    assert_eq!(log.load(&name("other")).await.unwrap(), None);
    assert!(!load.is_finished());
    store.release();
    assert_eq!(load.await.unwrap().unwrap().unwrap().last(), Seq(1));
}

#[tokio::test]
async fn handing_in_waits_for_room_and_an_oversized_command_passes_alone() {
    let (store, log) = start();
    store.hold();
    let mut document = open(&log, "doc");
    document.append(vec![sized(1, MAX_QUEUED_BYTES * 2)]).await;
    held(&store).await;
    let mut second = Box::pin(document.append(vec![record(2)]));
    assert!((&mut second).now_or_never().is_none());
    store.release();
    second.await;
    until(&mut document, 2).await;
}

#[tokio::test]
async fn closing_commits_what_is_queued_and_a_later_record_is_never_durable() {
    let (store, log) = start();
    store.hold();
    let mut document = open(&log, "doc");
    document.append(vec![record(1)]).await;
    held(&store).await;
    document.append(vec![record(2)]).await;
    let close = tokio::spawn({
        let log = log.clone();
        async move { log.close().await }
    });
    store.release();
    close.await.unwrap();
    assert!(store.is_closed());
    assert_eq!(store.load(&name("doc")).unwrap().unwrap().last(), Seq(2));
    document.append(vec![record(3)]).await;
    until_failed(&mut document).await;
    assert_eq!(document.durable().upto, Seq(2));
    log.close().await;
}

#[tokio::test]
async fn the_last_handle_dropped_closes_the_store() {
    let (store, log) = start();
    let document = open(&log, "doc");
    document.append(vec![record(1)]).await;
    let thread = log.take_thread();
    drop((log, document));
    tokio::task::spawn_blocking(move || thread.join()).await.unwrap();
    assert!(store.is_closed());
    assert_eq!(store.load(&name("doc")).unwrap().unwrap().last(), Seq(1));
}

#[tokio::test]
#[should_panic(expected = "record out of order")]
async fn a_gap_is_the_callers_fault_and_stops_the_caller() {
    let (_store, log) = start();
    open(&log, "doc").append(vec![record(2)]).await;
}

#[test]
fn who_waits_elsewhere_is_told_when_the_runtime_of_the_log_is_gone() {
    let (own, other) = (runtime(), runtime());
    let (_store, log) = own.block_on(async { start() });
    let mut document = open(&log, "doc");
    drop(own);
    other.block_on(async {
        document.append(vec![record(1)]).await;
        // Reached only when it is not told.
        tokio::time::timeout(PATIENCE, until(&mut document, 1)).await.unwrap();
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

#[test]
fn what_was_not_told_when_the_runtime_of_the_log_ends_is_told_then() {
    let (own, other) = (runtime(), runtime());
    let (store, log) = own.block_on(async { start() });
    let mut document = open(&log, "doc");
    let deleting = log.clone();
    let deleting = other.spawn(async move { deleting.delete(&name("gone")).await });
    other.block_on(async {
        // Nobody drives the log's own runtime, so nobody tells.
        until_committed(&store, 1).await;
        for seq in [1, 2] {
            document.append(vec![record(seq)]).await;
            until_committed(&store, 1 + seq as usize).await;
        }
    });
    assert_eq!(document.durable(), durable(0));
    drop(own);
    other.block_on(async {
        let told = async {
            until(&mut document, 2).await;
            deleting.await.unwrap().unwrap();
            assert_eq!(log.load(&name("doc")).await.unwrap().unwrap().last(), Seq(2), "nothing of it is on its way");
        };
        // Reached only when somebody is not told.
        tokio::time::timeout(PATIENCE, told).await.unwrap();
    });
}

/// Waits until so many commits have begun, and the last of them is through.
async fn until_committed(store: &MemoryStore, commits: usize) {
    let wait = async {
        while store.commits().len() < commits || store.is_committing() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
}

#[test]
fn closing_returns_when_everybody_is_told() {
    let (own, other) = (runtime(), runtime());
    let (store, log) = own.block_on(async { start() });
    let document = open(&log, "doc");
    other.block_on(async {
        document.append(vec![record(1)]).await;
        let close = tokio::spawn({
            let log = log.clone();
            async move { log.close().await }
        });
        // Nobody drives the log's own runtime, so nobody tells. The thread is through meanwhile.
        while !store.is_closed() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!close.is_finished() && document.durable() == durable(0), "it is closed, and somebody is not told");
        let (closed, until_closed) = tokio::sync::oneshot::channel::<()>();
        let telling = std::thread::spawn(move || own.block_on(until_closed));
        tokio::time::timeout(PATIENCE, close).await.unwrap().unwrap();
        assert_eq!(document.durable(), durable(1));
        drop(closed);
        telling.join().unwrap().unwrap_err();
    });
}
