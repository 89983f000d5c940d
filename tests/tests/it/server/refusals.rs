//! A refusal affects the smallest unit that the dialect can report it for: a message, else a document, else a
//! session (SPEC.md, Refusals).

use std::sync::Arc;

use syncline_log::memory::MemoryStore;
use syncline_protocol::hocuspocus::HocuspocusMessage;
use syncline_protocol::native::ToServer;
use syncline_protocol::sync::SyncMessage;
use syncline_server::Server;
use syncline_server::auth::OpenToAll;
use syncline_server::config::Config;
use syncline_tests::live::{Socket, settings, start, start_with, typed};
use syncline_tests::native_client::{Native, ServerMessage};

async fn server(change: impl FnOnce(&mut Config)) -> Server {
    let mut config = settings();
    change(&mut config);
    start_with(&config, Arc::new(MemoryStore::new()), Arc::new(OpenToAll)).await
}

/// Waits for PermissionDenied at `address` and returns its reason.
async fn denial_reason(socket: &mut Socket, address: &str) -> String {
    let mut reason = String::new();
    socket
        .receive_until(|at, message| match message {
            HocuspocusMessage::PermissionDenied(why) => {
                assert_eq!(at, address);
                reason = (*why).to_owned();
                true
            }
            _ => false,
        })
        .await;
    reason
}

async fn save_edit(socket: &mut Socket, address: &str, update: &[u8]) {
    socket.send_to(address, HocuspocusMessage::Sync(SyncMessage::Update(update))).await;
    socket
        .receive_until(|at, message| {
            assert!(!matches!(message, HocuspocusMessage::PermissionDenied(_)), "{at}: {message:?}");
            at == address && *message == HocuspocusMessage::SyncStatus(true)
        })
        .await;
}

/// Updates that the scanner refuses: a truncated one, and one that claims 268 million clients.
const REFUSED_UPDATES: [&[u8]; 2] = [&[1], &[0xff, 0xff, 0xff, 0x7f]];

#[tokio::test]
async fn refused_change_costs_hocuspocus_one_document() {
    let server = start(Arc::new(MemoryStore::new())).await;
    for bad in REFUSED_UPDATES {
        let mut socket = Socket::open(&server, "/").await;
        socket.open_document("one", "").await;
        socket.open_document("two", "").await;
        socket.send_to("one", HocuspocusMessage::Sync(SyncMessage::Update(bad))).await;
        assert!(!denial_reason(&mut socket, "one").await.is_empty());
        // Later messages to the denied document are dropped, without an answer or another refusal.
        socket.send_to("one", HocuspocusMessage::Sync(SyncMessage::Update(bad))).await;
        socket.send_to("one", HocuspocusMessage::Sync(SyncMessage::Step1(&[0]))).await;
        save_edit(&mut socket, "two", &typed(1, "x")).await;
        // The token opens the document again.
        socket.open_document("one", "").await;
        save_edit(&mut socket, "one", &typed(2, "y")).await;
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn refused_change_costs_native_one_document_and_y_websocket_its_session() {
    let server = start(Arc::new(MemoryStore::new())).await;
    for bad in REFUSED_UPDATES {
        let mut native = Native::connect(&server).await;
        native.join(0, "one").await;
        native.join(1, "two").await;
        native.change(0, 1, bad).await;
        native.receive_until(|message| matches!(message, ServerMessage::Closed { channel: 0, code: 4400, .. })).await;
        native.save_change(1, 1, &typed(1, "x")).await;
        let mut plain = Socket::open(&server, "/one").await;
        plain.join().await;
        plain.sync(SyncMessage::Update(bad)).await;
        let (code, reason) = plain.receive_close().await;
        assert_eq!((code, reason.is_empty()), (4400, false));
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn document_over_the_limit_is_denied_and_the_others_stay_open() {
    let server = server(|config| config.session.documents = 3).await;
    let mut socket = Socket::open(&server, "/").await;
    for name in ["a", "b", "c"] {
        socket.open_document(name, "").await;
    }
    socket.send_to("d", HocuspocusMessage::Token { token: "", version: None }).await;
    assert!(denial_reason(&mut socket, "d").await.contains("at most 3 documents"));
    save_edit(&mut socket, "c", &typed(1, "x")).await;
    // Closing a document makes room for another.
    socket.send_to("a", HocuspocusMessage::Close("")).await;
    socket.open_document("d", "").await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn default_allows_a_thousand_documents_on_one_socket() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut socket = Socket::open(&server, "/").await;
    for n in 0..1_000 {
        socket.open_document(&format!("document {n}"), "").await;
    }
    save_edit(&mut socket, "document 0", &typed(1, "x")).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn message_over_the_limit_costs_a_document_and_is_not_stored() {
    let limit = 1024 * 1024;
    let server = server(|config| {
        config.session.message_bytes = limit;
        // Limit of all buffered incomplete messages; only two messages at the size limit fit.
        config.limits.partial_bytes = 2 * limit;
    })
    .await;
    let huge = vec![7; 40 * limit];
    let mut socket = Socket::open(&server, "/").await;
    socket.open_document("large", "").await;
    socket.open_document("small", "").await;
    socket.send_to("large", HocuspocusMessage::Sync(SyncMessage::Step2(&huge))).await;
    assert!(denial_reason(&mut socket, "large").await.contains(&limit.to_string()));
    // The same message is now dropped without an answer.
    socket.send_to("large", HocuspocusMessage::Sync(SyncMessage::Step2(&huge))).await;
    save_edit(&mut socket, "small", &typed(1, "x")).await;

    let mut native = Native::connect(&server).await;
    native.join(0, "doc").await;
    native.change(0, 1, &huge).await;
    native
        .receive_until(|message| matches!(message, ServerMessage::Refused { channel: 0, batch: 1, code: 4413 }))
        .await;
    native.save_change(0, 2, &typed(1, "x")).await;
    native.send(ToServer::StateVector { channel: 0, state_vector: &huge }).await;
    native.receive_until(|message| matches!(message, ServerMessage::Closed { channel: 0, code: 4413, .. })).await;
    native.join(1, "doc").await;
    assert_eq!(server.metrics().partial_refused.get(), 0);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn long_messages_for_a_denied_document_are_dropped_unread() {
    let server = server(|config| config.limits.partial_bytes = 1024 * 1024).await;
    let mut socket = Socket::open(&server, "/").await;
    socket.open_document("two", "").await;
    socket.open_document("one", "").await;
    socket.send_to("one", HocuspocusMessage::Sync(SyncMessage::Update(&[1]))).await;
    denial_reason(&mut socket, "one").await;
    // Buffered, each would exceed the limit for the incomplete messages of all sessions.
    for _ in 0..3 {
        socket.send_to("one", HocuspocusMessage::Sync(SyncMessage::Update(&vec![0; 8 * 1024 * 1024]))).await;
    }
    save_edit(&mut socket, "two", &typed(1, "x")).await;
    assert_eq!(server.metrics().partial_refused.get(), 0);
    assert!(server.metrics().messages_ignored.get() >= 3);
    server.stop().await.unwrap();
}

/// React's strict mode: a component is mounted, unmounted and mounted again before the socket is open, and the provider
/// sends the Close of the first after the token of the second.
#[tokio::test]
async fn messages_after_a_stale_close_open_the_document_again() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut other = Socket::open(&server, "/doc").await;
    other.join().await;
    let mut socket = Socket::open(&server, "/").await;
    socket.send_to("doc", HocuspocusMessage::Token { token: "", version: Some("4.8.0") }).await;
    socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step1(&[0]))).await;
    socket.send_to("doc", HocuspocusMessage::Close("")).await;
    let update = typed(1, "typed");
    socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&update))).await;
    socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step2(&update))).await;
    assert_eq!(other.receive_sync().await, (2, update));
    socket.receive_until(|_, message| *message == HocuspocusMessage::SyncStatus(true)).await;
    // The session also receives changes again.
    let later = typed(2, "later");
    other.sync(SyncMessage::Update(&later)).await;
    socket
        .receive_until(
            |_, message| matches!(message, HocuspocusMessage::Sync(SyncMessage::Update(sent)) if *sent == later),
        )
        .await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn provider_without_a_token_is_served_when_access_is_open() {
    let server = start(Arc::new(MemoryStore::new())).await;
    for name in ["d2", "a document"] {
        let mut socket = Socket::open(&server, "/").await;
        socket.send_to(name, HocuspocusMessage::Sync(SyncMessage::Step1(&[0]))).await;
        socket.send_to(name, HocuspocusMessage::Sync(SyncMessage::Step2(&typed(1, "x")))).await;
        socket
            .receive_until(|_, message| {
                assert!(
                    !matches!(message, HocuspocusMessage::Authenticated(_)),
                    "a provider 2.x without a token expects none"
                );
                *message == HocuspocusMessage::SyncStatus(true)
            })
            .await;
    }
    server.stop().await.unwrap();
}

/// A session is closed after ten thousand refusals, and not before.
#[tokio::test]
async fn refusals_of_one_session_are_bounded() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut socket = Socket::open(&server, "/").await;
    socket.open_document("good", "").await;
    for n in 0..10_000 {
        socket.send_to(&format!("\u{1}{n}"), HocuspocusMessage::Token { token: "", version: None }).await;
        if n % 1_000 == 999 {
            socket.send_to("good", HocuspocusMessage::Sync(SyncMessage::Step1(&[0]))).await;
            socket.receive_until(|at, message| at == "good" && matches!(message, HocuspocusMessage::Sync(_))).await;
        }
    }
    socket.send_to("\u{1}", HocuspocusMessage::Token { token: "", version: None }).await;
    assert_eq!(socket.receive_close().await.0, 4529);
    server.stop().await.unwrap();
}
