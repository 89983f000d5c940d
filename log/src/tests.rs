//! Tests of the log's guarantees, independent of the store: batching, order, reporting, and the error latch.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use syncline_protocol::ids::{DocumentName, Epoch, Seq};

use super::memory::{Fault, MemoryStore};
use super::store::Write;
use super::*;

/// The timeout for events that must happen.
const TIMEOUT: Duration = Duration::from_secs(20);

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
        assert!(!document.changed().await.failed);
    }
}

async fn until_failed(document: &mut DocumentLog) {
    while !document.durable().failed {
        document.changed().await;
    }
}

/// Waits until a commit is paused.
async fn until_held(store: &Arc<MemoryStore>) {
    let store = Arc::clone(store);
    tokio::task::spawn_blocking(move || store.wait_until_held()).await.unwrap();
}

#[tokio::test]
async fn commands_queued_during_a_commit_become_one_step_per_document() {
    let (store, log) = start();
    store.hold();
    let mut documents: Vec<_> = (0..100).map(|at| open(&log, &format!("{at}"))).collect();
    documents[0].append(vec![record(1)]);
    until_held(&store).await;
    for document in &mut documents[1..] {
        document.append(vec![record(1), record(2)]);
        document.append(vec![record(3)]);
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
async fn record_is_durable_after_its_commit_and_not_before() {
    let (store, log) = start();
    store.hold();
    let mut document = open(&log, "doc");
    document.append(vec![record(1), record(2)]);
    until_held(&store).await;
    assert_eq!(document.durable(), durable(0));
    store.release();
    assert_eq!(document.changed().await, durable(2));
    assert_eq!(log.load(&name("doc")).await.unwrap().unwrap().records, [record(1), record(2)]);
}

#[tokio::test]
async fn snapshot_is_committed_in_order_with_the_records() {
    let (store, log) = start();
    store.hold();
    let mut document = open(&log, "doc");
    document.append(vec![record(1)]);
    until_held(&store).await;
    document.append(vec![record(2)]);
    document.compact(Snapshot { upto: Seq(2), update: Bytes::from_static(b"two") });
    document.append(vec![record(3)]);
    store.release();
    until(&mut document, 3).await;
    let stored = log.load(&name("doc")).await.unwrap().unwrap();
    assert_eq!((stored.snapshot.unwrap().upto, stored.records), (Seq(2), vec![record(3)]));
}

#[tokio::test]
async fn first_error_is_final_and_reported_to_every_document() {
    for fault in [Fault::Fail, Fault::Panic] {
        let (store, log) = start();
        let (mut writer, mut idle) = (open(&log, "writer"), open(&log, "idle"));
        let mut watch = log.watch_failed();
        writer.append(vec![record(1)]);
        until(&mut writer, 1).await;
        store.fault_at(1, fault);
        writer.append(vec![record(2)]);
        until_failed(&mut writer).await;
        until_failed(&mut idle).await;
        assert!(watch.wait_for(Option::is_some).await.is_ok() && log.failed().is_some());
        let mut late = open(&log, "late");
        assert!(late.durable().failed && late.changed().await.failed);
        // The store would work again, but it is not called.
        late.append(vec![record(1)]);
        writer.append(vec![record(3)]);
        assert!(log.delete(&name("idle")).await.is_err());
        assert_eq!(writer.durable(), Durable { upto: Seq(1), failed: true });
        assert_eq!(store.commits().len(), 2);
        assert_eq!(log.load(&name("writer")).await.unwrap().unwrap().records, [record(1)], "reads still work");
        log.close().await;
        assert!(store.is_closed());
    }
}

#[tokio::test]
async fn crash_discards_records_that_were_not_durable() {
    let (store, log) = start();
    let mut document = open(&log, "doc");
    document.append(vec![record(1)]);
    until(&mut document, 1).await;
    store.hold();
    document.append(vec![record(2)]);
    until_held(&store).await;
    store.crash();
    until_failed(&mut document).await;
    assert_eq!(document.durable().upto, Seq(1));
    assert_eq!(store.load(&name("doc")).unwrap().unwrap().last(), Seq(1));
}

#[tokio::test]
async fn load_waits_for_its_own_document_only() {
    let (store, log) = start();
    store.hold();
    let mut document = open(&log, "doc");
    document.append(vec![record(1)]);
    until_held(&store).await;
    // The document's task has ended while its record is still queued.
    drop(document);
    assert_eq!(log.load(&name("other")).await.unwrap(), None);
    let load = tokio::spawn({
        let log = log.clone();
        async move { log.load(&name("doc")).await }
    });
    // Meanwhile other documents can be loaded.
    assert_eq!(log.load(&name("other")).await.unwrap(), None);
    assert!(!load.is_finished());
    store.release();
    assert_eq!(load.await.unwrap().unwrap().unwrap().last(), Seq(1));
}

#[tokio::test]
async fn document_whose_queue_is_full_has_no_room_until_a_commit() {
    let (store, log) = start();
    store.hold();
    let mut document = open(&log, "doc");
    document.append(vec![record(1)]);
    until_held(&store).await;
    assert!(document.has_room());
    document.append(vec![sized(2, MAX_DOCUMENT_BYTES)]);
    assert!(!document.has_room());
    assert!(document.changed().now_or_never().is_none());
    assert_eq!(log.figures().waiting_bytes, MAX_DOCUMENT_BYTES + 2 * 128 + 3);
    store.release();
    until(&mut document, 2).await;
    assert!(document.has_room());
    assert_eq!(log.figures().waiting_bytes, 0);
}

#[tokio::test]
async fn room_is_reported_when_a_snapshot_has_made_the_queue_full() {
    let (store, log) = start();
    let mut document = open(&log, "doc");
    document.append(vec![record(1)]);
    until(&mut document, 1).await;
    store.hold();
    document.compact(Snapshot { upto: Seq(1), update: Bytes::from(vec![0; MAX_DOCUMENT_BYTES]) });
    assert!(!document.has_room());
    until_held(&store).await;
    assert!(document.changed().now_or_never().is_none());
    store.release();
    tokio::time::timeout(TIMEOUT, document.changed()).await.unwrap();
    assert!(document.has_room());
}

#[tokio::test]
async fn documents_that_fill_the_log_leave_room_for_the_others() {
    let (store, log) = start();
    store.hold();
    let mut first = open(&log, "first");
    first.append(vec![record(1)]);
    until_held(&store).await;
    let mut greedy: Vec<_> = (0..16).map(|at| open(&log, &format!("greedy {at}"))).collect();
    for document in &mut greedy {
        document.append(vec![sized(1, MAX_DOCUMENT_BYTES)]);
    }
    assert!(log.figures().waiting_bytes >= MAX_QUEUED_BYTES);
    let mut other = open(&log, "other");
    assert!(other.has_room(), "every document has a share");
    other.append(vec![record(1)]);
    store.release();
    until(&mut other, 1).await;
    let commits = store.commits();
    let of_other = commits.iter().position(|writes| writes.iter().any(|write| is_append(write, "other")));
    assert_eq!(of_other, Some(1), "its record is in the next commit");
    assert_eq!(commits[1].len(), 2, "and one large record at most");
    for document in &mut greedy {
        until(document, 1).await;
    }
}

fn is_append(write: &Write, of: &str) -> bool {
    matches!(write, Write::Append { document, .. } if *document == name(of))
}

#[tokio::test]
async fn commits_take_from_large_documents_in_turn() {
    let (log, mut committer) = Log::with_committer(Arc::new(MemoryStore::new()));
    let mut documents: Vec<_> = (0..4).map(|at| open(&log, &format!("{at}"))).collect();
    for seq in 1..=3 {
        for document in &mut documents {
            document.append(vec![sized(seq, 300 << 10)]);
        }
    }
    let mut turns = Vec::new();
    while let Some(batch) = committer.take() {
        for write in batch.writes() {
            let Write::Append { document, records, .. } = write else { panic!("{write:?}") };
            assert_eq!(records.len(), 1);
            turns.push(document.as_str().parse::<u32>().unwrap());
        }
        committer.commit(batch).report();
    }
    assert_eq!(turns, [0, 1, 2, 3].repeat(3));
    assert!(documents.iter().all(|document| document.durable() == durable(3)));
}

/// More documents than share one commit in the first turn: each of them gets its turn before any gets another.
#[tokio::test]
async fn no_document_waits_for_the_backlog_of_others() {
    let (log, mut committer) = Log::with_committer(Arc::new(MemoryStore::new()));
    let mut greedy: Vec<_> = (0..40).map(|at| open(&log, &format!("greedy {at}"))).collect();
    for seq in 1..=20 {
        greedy.iter_mut().for_each(|document| document.append(vec![sized(seq, 14 << 10)]));
    }
    let mut other = open(&log, "other");
    other.append(vec![sized(1, 14 << 10)]);
    let mut commits = 0;
    while other.durable() != durable(1) {
        let batch = committer.take().unwrap();
        committer.commit(batch).report();
        commits += 1;
    }
    assert!(commits <= 2, "in commit {commits}");
}

#[tokio::test]
async fn close_commits_queued_records_and_later_ones_are_never_durable() {
    let (store, log) = start();
    store.hold();
    let mut document = open(&log, "doc");
    document.append(vec![record(1)]);
    until_held(&store).await;
    document.append(vec![record(2)]);
    let close = tokio::spawn({
        let log = log.clone();
        async move { log.close().await }
    });
    store.release();
    close.await.unwrap();
    assert!(store.is_closed());
    assert_eq!(store.load(&name("doc")).unwrap().unwrap().last(), Seq(2));
    document.append(vec![record(3)]);
    until_failed(&mut document).await;
    assert_eq!(document.durable().upto, Seq(2));
    log.close().await;
}

#[tokio::test]
async fn dropping_the_last_handle_closes_the_store() {
    let (store, log) = start();
    let mut document = open(&log, "doc");
    document.append(vec![record(1)]);
    let thread = log.take_thread();
    drop((log, document));
    tokio::task::spawn_blocking(move || thread.join()).await.unwrap();
    assert!(store.is_closed());
    assert_eq!(store.load(&name("doc")).unwrap().unwrap().last(), Seq(1));
}

#[tokio::test]
#[should_panic(expected = "record out of order")]
async fn append_with_a_gap_panics() {
    let (_store, log) = start();
    open(&log, "doc").append(vec![record(2)]);
}

#[test]
fn commit_is_reported_to_other_runtimes_after_the_logs_runtime_ended() {
    let (own, other) = (runtime(), runtime());
    let (_store, log) = own.block_on(async { start() });
    let mut document = open(&log, "doc");
    drop(own);
    other.block_on(async {
        document.append(vec![record(1)]);
        // Times out only if the commit is not reported.
        tokio::time::timeout(TIMEOUT, until(&mut document, 1)).await.unwrap();
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

#[test]
fn pending_reports_are_published_when_the_logs_runtime_ends() {
    let (own, other) = (runtime(), runtime());
    let (store, log) = own.block_on(async { start() });
    let mut document = open(&log, "doc");
    let deleting = log.clone();
    let deleting = other.spawn(async move { deleting.delete(&name("gone")).await });
    other.block_on(async {
        // The log's own runtime is not driven, so nothing is reported.
        until_committed(&store, 1).await;
        for seq in [1, 2] {
            document.append(vec![record(seq)]);
            until_committed(&store, 1 + seq as usize).await;
        }
    });
    assert_eq!(document.durable(), durable(0));
    drop(own);
    other.block_on(async {
        let all_reported = async {
            until(&mut document, 2).await;
            deleting.await.unwrap().unwrap();
            assert_eq!(log.load(&name("doc")).await.unwrap().unwrap().last(), Seq(2), "no command is pending");
        };
        // Times out only if something is not reported.
        tokio::time::timeout(TIMEOUT, all_reported).await.unwrap();
    });
}

/// Waits until `commits` commits have started and the last of them has finished.
async fn until_committed(store: &MemoryStore, commits: usize) {
    let wait = async {
        while store.commits().len() < commits || store.is_committing() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, wait).await.unwrap();
}

#[test]
fn close_returns_after_every_commit_is_reported() {
    let (own, other) = (runtime(), runtime());
    let (store, log) = own.block_on(async { start() });
    let mut document = open(&log, "doc");
    other.block_on(async {
        document.append(vec![record(1)]);
        let close = tokio::spawn({
            let log = log.clone();
            async move { log.close().await }
        });
        // The log's own runtime is not driven, so nothing is reported. Meanwhile the thread finishes.
        while !store.is_closed() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(
            !close.is_finished() && document.durable() == durable(0),
            "close returned before the commit was reported"
        );
        let (closed, until_closed) = tokio::sync::oneshot::channel::<()>();
        let reporting = std::thread::spawn(move || own.block_on(until_closed));
        tokio::time::timeout(TIMEOUT, close).await.unwrap().unwrap();
        assert_eq!(document.durable(), durable(1));
        drop(closed);
        reporting.join().unwrap().unwrap_err();
    });
}
