//! Documents that a Hocuspocus client has left: which of its messages open them again, and what a client that
//! returns to one is asked.

use std::sync::Arc;

use syncline_log::memory::MemoryStore;
use syncline_protocol::awareness::{AwarenessEntry, AwarenessUpdate, encode};
use syncline_protocol::hocuspocus::HocuspocusMessage;
use syncline_protocol::sync::SyncMessage;
use syncline_server::auth::OpenToAll;
use syncline_tests::live::{Socket, settings, start, start_with, typed};

fn awareness(clock: u64, state: &str) -> Vec<u8> {
    encode([AwarenessEntry { client: 1, clock, state }].into_iter())
}

/// What `destroy()` of a provider 2.15 sends.
async fn destroy(socket: &mut Socket, address: &str) {
    socket.send_to(address, HocuspocusMessage::Awareness(&awareness(2, "null"))).await;
    socket.send_to(address, HocuspocusMessage::Close("")).await;
    socket.send_to(address, HocuspocusMessage::Awareness(&awareness(2, "null"))).await;
}

/// Sends a step 1 and waits for the step 2. Fails if anything is received for the document `left`.
async fn sync_without(socket: &mut Socket, address: &str, left: &str) {
    socket.send_to(address, HocuspocusMessage::Sync(SyncMessage::Step1(&[0]))).await;
    socket
        .receive_until(|at, message| {
            assert_ne!(at, left, "{message:?}");
            at == address && matches!(message, HocuspocusMessage::Sync(SyncMessage::Step2(_)))
        })
        .await;
}

#[tokio::test]
async fn destroyed_provider_does_not_open_its_document_again() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut socket = Socket::open(&server, "/").await;
    socket.open_document("other", "").await;
    socket.open_document("left", "").await;
    destroy(&mut socket, "left").await;
    socket.send_to("left", HocuspocusMessage::QueryAwareness).await;
    socket.send_to("left", HocuspocusMessage::Stateless("")).await;
    sync_without(&mut socket, "other", "left").await;
    assert_eq!(server.metrics().messages_ignored.get(), 3);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn documents_opened_and_destroyed_in_turn_do_not_reach_the_limit() {
    let mut config = settings();
    config.session.documents = 2;
    let server = start_with(&config, Arc::new(MemoryStore::new()), Arc::new(OpenToAll)).await;
    let mut socket = Socket::open(&server, "/").await;
    for n in 0..5 {
        let name = format!("document {n}");
        socket.send_to(&name, HocuspocusMessage::Token { token: "", version: None }).await;
        socket
            .receive_until(|at, message| {
                assert!(!matches!(message, HocuspocusMessage::PermissionDenied(_)), "{at}: {message:?}");
                at == name && matches!(message, HocuspocusMessage::Sync(SyncMessage::Step1(_)))
            })
            .await;
        destroy(&mut socket, &name).await;
    }
    server.stop().await.unwrap();
}

/// React's strict mode: the Close of the first provider arrives before the queued awareness of the second.
#[tokio::test]
async fn awareness_state_after_a_stale_close_is_shown() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut other = Socket::open(&server, "/").await;
    other.open_document("doc", "").await;
    let mut socket = Socket::open(&server, "/").await;
    socket.open_document("doc", "").await;
    destroy(&mut socket, "doc").await;
    socket.send_to("doc", HocuspocusMessage::Awareness(&awareness(3, "{\"name\":\"me\"}"))).await;
    other
        .receive_until(|_, message| {
            let HocuspocusMessage::Awareness(update) = message else { return false };
            AwarenessUpdate::scan(update, &Default::default()).unwrap().iter().any(|entry| entry.state.contains("me"))
        })
        .await;
    server.stop().await.unwrap();
}

/// Opens a document with a token and a step 1, and waits until the server has answered it and has sent its own.
async fn open_and_expect_question(socket: &mut Socket) {
    socket.send_to("doc", HocuspocusMessage::Token { token: "", version: None }).await;
    socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step1(&[0]))).await;
    let (mut is_answered, mut is_asked) = (false, false);
    socket
        .receive_until(|_, message| {
            is_answered |= matches!(message, HocuspocusMessage::Sync(SyncMessage::Step2(_)));
            is_asked |= matches!(message, HocuspocusMessage::Sync(SyncMessage::Step1(_)));
            is_answered && is_asked
        })
        .await;
}

/// A provider that is destroyed while it fetches its token sends token and step 1 afterwards, and answers nothing.
#[tokio::test]
async fn returning_client_is_asked_after_a_question_that_nobody_answered() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut other = Socket::open(&server, "/doc").await;
    other.join().await;
    let mut socket = Socket::open(&server, "/").await;
    open_and_expect_question(&mut socket).await;
    open_and_expect_question(&mut socket).await;
    let update = typed(1, "written while left");
    socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step2(&update))).await;
    assert_eq!(other.receive_sync().await, (2, update));
    socket.receive_until(|_, message| *message == HocuspocusMessage::SyncStatus(true)).await;
    server.stop().await.unwrap();
}

/// A provider 2.x without a token begins with its step 1.
#[tokio::test]
async fn step_1_for_a_left_document_is_answered_with_what_the_client_lacks() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut socket = Socket::open(&server, "/").await;
    socket.open_document("doc", "").await;
    let update = typed(1, &"x".repeat(1_000));
    socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&update))).await;
    socket.receive_until(|_, message| *message == HocuspocusMessage::SyncStatus(true)).await;
    destroy(&mut socket, "doc").await;
    // It has the 1,000 letters of client 1.
    socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step1(&[1, 1, 0xe8, 7]))).await;
    let mut is_asked = false;
    socket
        .receive_until(|_, message| {
            is_asked |= matches!(message, HocuspocusMessage::Sync(SyncMessage::Step1(_)));
            let HocuspocusMessage::Sync(SyncMessage::Step2(sent)) = message else { return false };
            assert_eq!(*sent, [0, 0]);
            true
        })
        .await;
    assert!(is_asked);
    server.stop().await.unwrap();
}
