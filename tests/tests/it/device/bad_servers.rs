//! Devices with misbehaving servers, disks that fail repeatedly, and long queues.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use syncline_client::device::{SystemClock, WallClock};
use syncline_client::types::Value;
use syncline_client::{DeviceError, EditError, Event, SyncState};
use syncline_log::SledStore;
use syncline_log::memory::MemoryStore;
use syncline_protocol::ids::{Epoch, Seq};
use syncline_protocol::native::{self, Cursor, Resume, ToClient, ToServer};
use syncline_server::auth::OpenToAll;
use syncline_tests::devices::{FullDisk, append, in_time, open, try_append, until_event};
use syncline_tests::live::{settings, start_with};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn repeated_disk_failure_loses_no_accepted_edit() {
    let dir = tempfile::tempdir().unwrap();
    let full = Arc::new(AtomicBool::new(false));
    let (directory, is_full) = (dir.path().join("disk"), Arc::clone(&full));
    let phone = open(&dir.path().join("phone"), "ws://127.0.0.1:1", move |config| {
        config.offline = true;
        config.open_store = Some(Arc::new(move || {
            Ok(Arc::new(FullDisk { store: SledStore::open(&directory)?, full: Arc::clone(&is_full) }))
        }));
    })
    .await;
    let (notes, other) = (phone.document("notes").await.unwrap(), phone.document("other").await.unwrap());
    append(&notes, "kept ").await;
    append(&other, "kept too").await;
    full.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        assert!(matches!(try_append(&notes, "lost ").await, Err(EditError::Storage(_))));
    }
    full.store(false, Ordering::Relaxed);
    append(&notes, "after").await;
    for (document, text) in [(&notes, "kept after"), (&other, "kept too")] {
        assert_eq!(document.text("text").await.unwrap(), text);
    }
    assert_eq!((notes.queue().await.unwrap().len(), other.queue().await.unwrap().len()), (2, 1));
    phone.close().await;

    let directory = dir.path().join("disk");
    let phone = open(&dir.path().join("phone"), "ws://127.0.0.1:1", move |config| {
        config.offline = true;
        config.open_store = Some(Arc::new(move || Ok(Arc::new(SledStore::open(&directory)?))));
    })
    .await;
    assert_eq!(phone.document("notes").await.unwrap().text("text").await.unwrap(), "kept after");
    assert_eq!(phone.document("other").await.unwrap().text("text").await.unwrap(), "kept too");
    phone.close().await;
}

#[tokio::test]
async fn edit_too_large_for_the_server_blocks_no_other_document() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = settings();
    config.session.message_bytes = 4096;
    let server = start_with(&config, Arc::new(MemoryStore::default()), Arc::new(OpenToAll)).await;
    let url = format!("ws://{}", server.address());
    let phone = open(&dir.path().join("phone"), &url, |config| config.offline = true).await;
    let (large, notes) = (phone.document("large").await.unwrap(), phone.document("notes").await.unwrap());
    append(&large, &"x".repeat(10_000)).await;
    append(&notes, "fine").await;
    let error = notes.propose("status", Value::Text("y".repeat(100_000))).await.unwrap_err();
    assert!(matches!(error, EditError::Rejected(_)), "{error}");
    let mut events = large.events();
    phone.go_online().await;
    until_event(&mut events, |event| matches!(event, Event::Refused { code: 4413, .. })).await;
    in_time("saved", notes.wait_until_saved()).await.unwrap();
    // The limit is now known, so large edits are rejected locally, also in a document opened later.
    let later = phone.document("later").await.unwrap();
    for document in [&notes, &later] {
        let error = try_append(document, &"x".repeat(10_000)).await.unwrap_err();
        assert!(matches!(error, EditError::Rejected(_)), "{error}");
    }
    for _ in 0..100 {
        append(&later, &"z".repeat(200)).await;
    }
    in_time("saved", later.wait_until_saved()).await.unwrap();
    phone.close().await;
    server.stop().await.unwrap();
}

struct FixedClock(u64);

impl WallClock for FixedClock {
    fn now_ms(&self) -> u64 {
        self.0
    }
}

#[tokio::test]
async fn accepted_edits_can_be_read_again_with_any_clock() {
    let dir = tempfile::tempdir().unwrap();
    for (count, now_ms) in [(1, u64::MAX), (2, 0), (3, 1 << 60)] {
        let phone = open(&dir.path().join("phone"), "ws://127.0.0.1:1", |config| {
            config.offline = true;
            config.clock = Arc::new(FixedClock(now_ms));
        })
        .await;
        let mut notes = phone.document("notes").await.unwrap();
        assert_eq!(notes.take_problems(), Vec::<String>::new());
        append(&notes, "x").await;
        let queue = notes.queue().await.unwrap();
        assert_eq!(queue.len(), count);
        assert!(queue.is_sorted_by_key(|entry| entry.id), "ids increase");
        phone.close().await;
    }
}

/// A server that welcomes every client and answers each opened document with the frames of `answers`. Returns its URL and the
/// numbers of connections and of opened documents.
async fn hostile_server(
    answers: impl Fn(u64) -> Vec<Bytes> + Send + 'static,
) -> (String, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let (connections, opened) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&connections), Arc::clone(&opened));
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            counts.0.fetch_add(1, Ordering::Relaxed);
            let Ok(mut socket) = tokio_tungstenite::accept_async(tcp).await else { continue };
            // The right time: a device that corrects its clock opens its documents once more.
            let time_ms = SystemClock.now_ms();
            let welcome = ToClient::Welcome { version: native::VERSION, time_ms, max_message_bytes: 1 << 20 };
            socket.send(Message::Binary(welcome.encode().into())).await.ok();
            while let Some(Ok(message)) = socket.next().await {
                let Message::Binary(frame) = message else { continue };
                if let Ok(ToServer::Open { channel, .. }) = ToServer::decode(&frame) {
                    counts.1.fetch_add(1, Ordering::Relaxed);
                    for frame in answers(channel) {
                        socket.send(Message::Binary(frame)).await.ok();
                    }
                }
            }
        }
    });
    (url, connections, opened)
}

fn opened(channel: u64) -> Bytes {
    let cursor = Cursor { epoch: Epoch(1), seq: Seq(1) };
    let resume = Resume::SendStateVector;
    ToClient::Opened { channel, cursor, read_only: false, resume, state_vector: None }.encode().into()
}

/// Waits until the device has opened its document so many times.
async fn until_opened(opens: &AtomicUsize, times: usize) {
    in_time("the document is opened again", async {
        while opens.load(Ordering::Relaxed) < times {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn document_with_invalid_server_data_is_reopened_with_backoff() {
    let dir = tempfile::tempdir().unwrap();
    let nonsense = |channel| {
        let bad = ToClient::Change { channel, seq: Seq(1), update: &[9, 9, 9] }.encode();
        vec![opened(channel), bad.into()]
    };
    let (url, connections, opens) = hostile_server(nonsense).await;
    let began = Instant::now();
    let phone = open(&dir.path().join("phone"), &url, |_| ()).await;
    let notes = phone.document("notes").await.unwrap();
    append(&notes, "kept").await;
    until_opened(&opens, 3).await;
    // Half of 1 s before the second attempt, half of 2 s before the third.
    assert!(began.elapsed() >= Duration::from_millis(1_500), "opened again after {:?}", began.elapsed());
    assert_eq!(connections.load(Ordering::Relaxed), 1, "the connection stays open for other documents");
    assert_eq!(notes.text("text").await.unwrap(), "kept");
    assert_eq!(notes.queue().await.unwrap().len(), 1);
    phone.close().await;
}

#[tokio::test]
async fn edit_refused_by_a_failing_server_disk_is_retried() {
    let dir = tempfile::tempdir().unwrap();
    let refuse = |channel| {
        let diff = ToClient::Diff { channel, seq: Seq(1), update: &[0, 0] }.encode().into();
        let refused = ToClient::Refused { channel, batch: 1, code: 4507, reason: "disk" }.encode().into();
        vec![opened(channel), diff, refused]
    };
    let (url, _, opens) = hostile_server(refuse).await;
    let phone = open(&dir.path().join("phone"), &url, |_| ()).await;
    let notes = phone.document("notes").await.unwrap();
    append(&notes, "kept").await;
    until_opened(&opens, 2).await;
    assert_eq!((notes.status().refused, notes.queue().await.unwrap().len()), (0, 1));
    phone.close().await;
}

#[tokio::test]
async fn rebase_without_a_changed_history_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let phone = open(&dir.path().join("phone"), "ws://127.0.0.1:1", |config| config.offline = true).await;
    let notes = phone.document("notes").await.unwrap();
    assert!(matches!(in_time("an answer", notes.rebase()).await, Err(DeviceError::Refused(_))));
    phone.close().await;
}

#[tokio::test]
async fn thousands_of_offline_edits_take_linear_time_and_arrive() {
    const EDITS: usize = 8_000;
    let dir = tempfile::tempdir().unwrap();
    let server = start_with(&settings(), Arc::new(MemoryStore::default()), Arc::new(OpenToAll)).await;
    let url = format!("ws://{}", server.address());
    let phone = open(&dir.path().join("phone"), &url, |config| {
        config.offline = true;
        config.open_store = Some(Arc::new(|| Ok(Arc::new(MemoryStore::default()))));
    })
    .await;
    let notes = phone.document("notes").await.unwrap();
    let (began, mut quarter) = (Instant::now(), Duration::ZERO);
    for count in 1..=EDITS {
        append(&notes, "x").await;
        if count == EDITS / 4 {
            quarter = began.elapsed();
        }
    }
    let all = began.elapsed();
    println!("a quarter: {quarter:?}, all: {all:?}");
    assert!(all < 12 * quarter, "a quarter took {quarter:?}, all {all:?}");
    let began = Instant::now();
    phone.go_online().await;
    tokio::time::timeout(Duration::from_secs(120), notes.wait_until_saved()).await.unwrap().unwrap();
    println!("sent in {:?}", began.elapsed());
    assert_eq!(notes.text("text").await.unwrap().len(), EDITS);
    assert_ne!(notes.status().sync, SyncState::Offline);
    phone.close().await;
    server.stop().await.unwrap();
}
