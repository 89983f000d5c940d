//! In every dialect an acknowledgement is sent only after the record is on disk.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use syncline_log::MAX_DOCUMENT_BYTES;
use syncline_log::memory::{Fault, MemoryStore};
use syncline_log::store::{Store, Write};
use syncline_protocol::hocuspocus::HocuspocusMessage;
use syncline_protocol::ids::DocumentName;
use syncline_protocol::sync::SyncMessage;
use syncline_server::auth::OpenToAll;
use syncline_tests::live::{Incoming, Socket, UnreadableStore, settings, start, start_with, typed};

async fn hocuspocus(server: &syncline_server::Server, name: &str) -> Socket {
    let mut socket = Socket::open(server, "/").await;
    socket.open_document(name, "").await;
    socket
}

#[tokio::test]
async fn edit_reaches_readers_before_the_disk_and_is_acknowledged_after() {
    let store = Arc::new(MemoryStore::new());
    let server = start(store.clone()).await;
    let mut author = hocuspocus(&server, "doc").await;
    let mut echoed = Socket::open(&server, "/doc").await;
    echoed.join().await;

    store.hold();
    let (first, second) = (typed(1, "a"), typed(2, "b"));
    author.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&first))).await;
    assert_eq!(echoed.receive_sync().await, (2, first), "readers receive the edit before it is on disk");
    tokio::task::spawn_blocking({
        let store = store.clone();
        move || store.wait_until_held()
    })
    .await
    .unwrap();
    echoed.sync(SyncMessage::Update(&second)).await;
    // The author of the first edit receives the second; an early acknowledgement would have arrived before it.
    author
        .receive_until(|_, message| {
            assert!(!matches!(message, HocuspocusMessage::SyncStatus(_)), "acknowledged before the edit is on disk");
            matches!(message, HocuspocusMessage::Sync(SyncMessage::Update(_)))
        })
        .await;

    store.release();
    author.receive_until(|_, message| matches!(message, HocuspocusMessage::SyncStatus(true))).await;
    assert_eq!(echoed.receive_sync().await, (2, second), "y-websocket: the echo is the acknowledgement");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn storage_failure_stops_acknowledgements_but_not_reads() {
    let store = Arc::new(MemoryStore::new());
    let mut config = settings();
    // The server delays closing a y-websocket session by some ticks, because the client reconnects within a second.
    config.session.tick = std::time::Duration::from_millis(20);
    let server = start_with(&config, store.clone(), Arc::new(OpenToAll)).await;
    let mut author = hocuspocus(&server, "doc").await;
    let kept = typed(1, "kept");
    author.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&kept))).await;
    author.receive_until(|_, message| matches!(message, HocuspocusMessage::SyncStatus(true))).await;

    store.fault_at(1, Fault::Fail);
    for client in 2..5 {
        author.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&typed(client, "lost")))).await;
        author
            .receive_until(|_, message| match message {
                HocuspocusMessage::SyncStatus(saved) => {
                    assert!(!saved, "no edit is reported as saved after the first failure");
                    true
                }
                _ => false,
            })
            .await;
    }
    let mut plain = Socket::open(&server, "/doc").await;
    let diff = plain.join().await;
    assert!(diff.windows(4).any(|window| window == b"kept"), "reads still work");
    // Like stock clients, it answers the server's step 1: first with nothing, then with the state it just received.
    plain.sync(SyncMessage::Step2(&[0, 0])).await;
    plain.sync(SyncMessage::Step2(&diff)).await;
    plain.join().await;
    plain.sync(SyncMessage::Update(&typed(9, "refused"))).await;
    let (code, reason) = plain.receive_close().await;
    assert_eq!(code, 4507, "{reason}");
    assert!(server.stop().await.is_err(), "stopping reports the storage failure");
}

/// Edits of 1 MB, each of a client of its own.
const LARGE_EDITS: u64 = 14;

#[tokio::test]
async fn greedy_writer_fills_its_own_share_of_the_log_and_others_are_in_the_next_commit() {
    let store = Arc::new(MemoryStore::new());
    let server = start(store.clone()).await;
    let mut author = hocuspocus(&server, "other").await;
    let mut reader = Socket::open(&server, "/other").await;
    reader.join().await;
    let mut greedy = Socket::open(&server, "/greedy").await;
    greedy.join().await;
    store.hold();
    let text = "a".repeat(1_000_000);
    let sending = tokio::spawn(async move {
        for client in 1..=LARGE_EDITS {
            greedy.sync(SyncMessage::Update(&typed(client, &text))).await;
        }
        greedy
    });
    let waiting = || server.log_figures().waiting_bytes;
    while waiting() < MAX_DOCUMENT_BYTES {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for client in 1..=20 {
        let edit = typed(client, "b");
        author.send_to("other", HocuspocusMessage::Sync(SyncMessage::Update(&edit))).await;
        assert_eq!(reader.receive_sync().await, (2, edit), "delivered while the disk is slow");
    }
    // Of 14 MB: its share, which the last edit or a snapshot of the document exceeds.
    assert!(waiting() < 2 * MAX_DOCUMENT_BYTES + 1_100_000, "{} bytes wait for the disk", waiting());
    let before = store.commits().len();
    store.release();
    author.receive_until(|_, message| matches!(message, HocuspocusMessage::SyncStatus(true))).await;
    let next = &store.commits()[before];
    assert!(next.iter().any(|write| matches!(write, Write::Append { document, .. } if document.as_str() == "other")));
    drop(sending.await.unwrap());
    // The server has read everything that was sent when it answers this.
    let mut late = Socket::open(&server, "/greedy").await;
    while late.join().await.len() < LARGE_EDITS as usize * 1_000_000 {}
    server.stop().await.unwrap();
    let stored = store.load(&DocumentName::parse("greedy").unwrap()).unwrap().unwrap();
    assert_eq!(stored.last().0, LARGE_EDITS);
}

#[tokio::test]
async fn document_that_cannot_be_loaded_is_not_served_as_empty() {
    let store = Arc::new(UnreadableStore { unreadable: true.into(), ..UnreadableStore::default() });
    let server = start(store.clone()).await;
    let mut socket = Socket::open(&server, "/doc").await;
    socket.sync(SyncMessage::Step1(&[0])).await;
    match socket.receive().await {
        Incoming::Closed { code, .. } => assert_eq!(code, 4503),
        other => panic!("received {other:?} from a document that could not be loaded"),
    }
    store.unreadable.store(false, Ordering::Relaxed);
    let mut again = Socket::open(&server, "/doc").await;
    assert_eq!(again.join().await, [0, 0]);
    server.stop().await.unwrap();
}
