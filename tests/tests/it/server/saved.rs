//! When stock clients report that everything is saved, it is: the unsynced-changes count of a Hocuspocus provider
//! after a reconnect and in `forceSync()`, and the echo of the step 2 for clients of Yjs 14.

use std::sync::Arc;

use syncline_log::memory::MemoryStore;
use syncline_protocol::awareness;
use syncline_protocol::hocuspocus::{End, Frame, HocuspocusMessage, PING_FRAME};
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::ywebsocket::YWebsocketMessage;
use syncline_tests::fixtures::numbers;
use syncline_tests::live::{self, Socket, start};

/// Round trips to wait for a sync status before it counts as missing.
const MAX_PINGS: usize = 20_000;

/// The update in which client 1 types the letter at `clock`.
fn letter(clock: u8) -> Vec<u8> {
    match clock {
        0 => vec![1, 1, 1, 0, 4, 1, 1, b't', 1, b'a', 0],
        _ => vec![1, 1, 1, clock, 0x84, 1, clock - 1, 1, b'a', 0],
    }
}

/// Sends a ping and counts the sync statuses that arrive before its answer; the server answers in order.
async fn statuses_until_pong(socket: &mut Socket) -> usize {
    socket.send(PING_FRAME.to_vec()).await;
    let mut statuses = 0;
    loop {
        let live::Incoming::Frame(frame) = socket.receive().await else { panic!("closed") };
        match Frame::decode(&frame, End::Client).unwrap() {
            Frame::Pong => return statuses,
            Frame::Addressed { message: HocuspocusMessage::SyncStatus(saved), .. } => {
                assert!(saved);
                statuses += 1;
            }
            _ => {}
        }
    }
}

/// Waits for `expected` sync statuses and checks that no more follow.
async fn expect_statuses(socket: &mut Socket, expected: usize, what: &str) {
    let mut statuses = 0;
    for _ in 0..MAX_PINGS {
        statuses += statuses_until_pong(socket).await;
        if statuses >= expected {
            break;
        }
        tokio::task::yield_now().await;
    }
    statuses += statuses_until_pong(socket).await;
    assert_eq!(statuses, expected, "{what}");
}

/// Waits until a new reader receives at least `bytes` bytes: then the document has accepted the updates, and any
/// acknowledgement of them would be on its way.
async fn wait_until_accepted(server: &syncline_server::Server, bytes: usize) {
    let mut reader = Socket::open(server, "/doc").await;
    while reader.join().await.len() < bytes {}
}

#[tokio::test]
async fn step_2_is_acknowledged_after_the_disk_and_queued_updates_never() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut socket = Socket::open(&server, "/").await;
    socket.send_to("doc", HocuspocusMessage::Token { token: "", version: Some("4.8.0") }).await;
    // Ten letters were typed offline, an eleventh after the step 1. The provider counts 2 unsynced changes: the
    // step 2 and the eleventh letter.
    socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step1(&[1, 1, 10]))).await;
    socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&letter(10)))).await;
    for clock in 0..10 {
        socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&letter(clock)))).await;
    }
    wait_until_accepted(&server, 21).await;
    assert_eq!(statuses_until_pong(&mut socket).await, 0, "before the step 2");
    socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step2(&[0, 0]))).await;
    socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&letter(11)))).await;
    wait_until_accepted(&server, 22).await;
    let what =
        "the step 2, the letter typed after the step 1, the letter after the step 2, and none for the queued ones";
    expect_statuses(&mut socket, 3, what).await;
    server.stop().await.unwrap();
}

/// A provider 2.15 that opens a document while its socket is disconnected queues its Auth and step 1 of that moment. It sends
/// them after those of the new connection, and counts neither them nor the edits queued behind them.
#[tokio::test]
async fn queued_older_step_1_does_not_restart_the_count() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut socket = Socket::open(&server, "/").await;
    let auth = HocuspocusMessage::Token { token: "", version: None };
    socket.send_to("doc", auth).await;
    socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step1(&[1, 1, 10]))).await;
    socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&letter(10)))).await;
    socket.send_to("doc", auth).await;
    socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step1(&[0]))).await;
    for clock in 0..10 {
        socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&letter(clock)))).await;
    }
    socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step2(&[0, 0]))).await;
    expect_statuses(&mut socket, 2, "the step 2 and the letter typed after the newer step 1").await;
    socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&letter(11)))).await;
    expect_statuses(&mut socket, 1, "a letter after the step 2").await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn offline_deletions_get_no_sync_status_of_their_own() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut socket = Socket::open(&server, "/").await;
    socket.open_document("doc", "").await;
    for clock in 0..4 {
        socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&letter(clock)))).await;
    }
    expect_statuses(&mut socket, 4, "the letters").await;
    let mut back = Socket::open(&server, "/").await;
    back.send_to("doc", HocuspocusMessage::Token { token: "", version: None }).await;
    back.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step1(&[1, 1, 4]))).await;
    for clock in 0..3 {
        back.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&[0, 1, 1, 1, clock, 1]))).await;
    }
    back.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step2(&[0, 1, 1, 1, 0, 3]))).await;
    back.receive_until(|_, message| *message == HocuspocusMessage::SyncStatus(true)).await;
    back.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&letter(4)))).await;
    back.receive_until(|_, message| *message == HocuspocusMessage::SyncStatus(true)).await;
    assert_eq!(statuses_until_pong(&mut back).await, 0, "one for the step 2, one for the letter");
    server.stop().await.unwrap();
}

/// The provider counts 2 unsynced changes if its user deletes before the server's first message arrives, and 1 if
/// the deletion was queued.
#[tokio::test]
async fn deletion_before_the_first_answer_gets_a_status_unless_queued() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut socket = Socket::open(&server, "/").await;
    socket.open_document("doc", "").await;
    socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&letter(0)))).await;
    expect_statuses(&mut socket, 1, "the letter").await;
    let delete = [0, 1, 1, 1, 0, 1];
    for (is_queued, expected) in [(false, 2), (true, 1)] {
        let mut back = Socket::open(&server, "/").await;
        back.send_to("doc", HocuspocusMessage::Token { token: "", version: None }).await;
        back.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step1(&[1, 1, 1]))).await;
        if is_queued {
            // A provider sends its queue when it receives the first message. While this client waits for one, it also
            // answers the ping before it.
            back.receive_until(|_, message| matches!(message, HocuspocusMessage::Sync(SyncMessage::Step2(_)))).await;
        }
        back.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&delete))).await;
        if !is_queued {
            back.receive_until(|_, message| matches!(message, HocuspocusMessage::Sync(SyncMessage::Step2(_)))).await;
        }
        back.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step2(&delete))).await;
        expect_statuses(&mut back, expected, &format!("queued: {is_queued}")).await;
        // From here on the server knows that the queue was sent: in a `forceSync()` every deletion counts as new.
        back.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step1(&[1, 1, 1]))).await;
        back.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&delete))).await;
        back.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step2(&delete))).await;
        expect_statuses(&mut back, 2, "the deletion and the step 2").await;
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn later_step_1_is_answered_with_step_2_and_step_1() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut socket = Socket::open(&server, "/").await;
    socket.open_document("doc", "").await;
    for _ in 0..3 {
        // forceSync(): the provider counts 1 unsynced change until its answer to the server's step 1 is acknowledged.
        socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step1(&[0]))).await;
        let mut received = Vec::new();
        socket
            .receive_until(|_, message| {
                match message {
                    HocuspocusMessage::Sync(SyncMessage::Step2(_)) => received.push("step 2"),
                    HocuspocusMessage::Sync(SyncMessage::Step1(_)) => received.push("step 1"),
                    other => panic!("{other:?}"),
                }
                received.len() == 2
            })
            .await;
        assert_eq!(received, ["step 2", "step 1"]);
        socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step2(&[0, 0]))).await;
        socket.receive_until(|_, message| *message == HocuspocusMessage::SyncStatus(true)).await;
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn step_2_is_echoed_to_clients_of_yjs_14() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let offline = letter(0);
    for (client, is_echoed) in [(1u64, false), (1 << 40, true)] {
        let mut socket = Socket::open(&server, &format!("/doc-{client}")).await;
        socket.join().await;
        let entry = awareness::AwarenessEntry { client, clock: 1, state: "{}" };
        let here = awareness::encode([entry].into_iter());
        socket.send(YWebsocketMessage::Awareness(&here).encode()).await;
        socket.sync(SyncMessage::Step2(&offline)).await;
        let typed = letter(1);
        socket.sync(SyncMessage::Update(&typed)).await;
        if is_echoed {
            assert_eq!(socket.receive_sync().await, (2, offline.clone()));
        }
        assert_eq!(socket.receive_sync().await, (2, typed), "client {client}");
    }
    server.stop().await.unwrap();
}

/// An update in which each of 10,000 clients inserts a letter behind one of client 9, which is missing: the most that may be
/// pending in a document.
fn as_much_as_may_be_pending() -> Vec<u8> {
    let mut update = numbers(&[10_000]);
    for client in 1_000..11_000 {
        update.extend(numbers(&[1, client, 0]));
        update.extend([0x84, 9, 0, 1, b'x']);
    }
    update.push(0);
    update
}

#[tokio::test]
async fn update_that_could_not_be_stored_is_saved_only_with_the_next_step_2() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut other = Socket::open(&server, "/doc").await;
    let pending = as_much_as_may_be_pending();
    other.sync(SyncMessage::Update(&pending)).await;
    while other.receive_sync().await != (2, pending.clone()) {}
    let (first, lost) = (letter(0), letter(1));
    let both = yrs::merge_updates_v1([&first, &lost]).unwrap();

    let mut hocuspocus = Socket::open(&server, "/").await;
    hocuspocus.open_document("doc", "").await;
    let mut ywebsocket = Socket::open(&server, "/doc").await;
    ywebsocket.join().await;
    ywebsocket.sync(SyncMessage::Step2(&[0, 0])).await;

    hocuspocus.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&lost))).await;
    let mut has_asked = false;
    hocuspocus
        .receive_until(|_, message| {
            assert_ne!(*message, HocuspocusMessage::SyncStatus(true));
            has_asked |= matches!(message, HocuspocusMessage::Sync(SyncMessage::Step1(_)));
            *message == HocuspocusMessage::SyncStatus(false) || has_asked
        })
        .await;
    // The empty update by whose echo a client recognises that everything is saved. A step 1 behind it is answered in order.
    ywebsocket.sync(SyncMessage::Update(&lost)).await;
    ywebsocket.sync(SyncMessage::Update(&[0, 0])).await;
    ywebsocket.sync(SyncMessage::Step1(&[0])).await;
    loop {
        match ywebsocket.receive_sync().await {
            (1, _) => break,
            message => assert_ne!(message, (2, vec![0, 0]), "the update before it is not stored"),
        }
    }
    hocuspocus.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step2(&both))).await;
    hocuspocus.receive_until(|_, message| *message == HocuspocusMessage::SyncStatus(true)).await;
    ywebsocket.sync(SyncMessage::Step2(&both)).await;
    while ywebsocket.receive_sync().await != (2, vec![0, 0]) {}
    server.stop().await.unwrap();
}
