//! Grants that change while sessions live: the authorizer lowers, raises or revokes them, or they end. Each dialect states
//! it in its own words, and no client has to send anything first.

use std::sync::Arc;
use std::time::Duration;

use syncline_log::memory::MemoryStore;
use syncline_protocol::hocuspocus::{HocuspocusMessage, Scope};
use syncline_protocol::native::ToServer;
use syncline_protocol::sync::SyncMessage;
use syncline_server::Server;
use syncline_server::auth::{Access, AccessRequest, Admission, Authorize, Grant, GrantControl};
use syncline_tests::PATIENCE;
use syncline_tests::live::{Socket, settings, start_with, typed};
use syncline_tests::native_client::{Native, ServerMessage};
use tokio::time::Instant;

const REASON: &str = "you were removed from this document";

/// Grants each token what its control holds; the token `brief` grants reading and writing for 50 ms.
struct Controls(Vec<(&'static str, GrantControl)>);

impl Authorize for Controls {
    fn authorize(&self, request: AccessRequest) -> Access {
        let token = request.token.unwrap_or_default();
        let admission = if token == "brief" {
            let ends = Some(Instant::now() + Duration::from_millis(50));
            Ok(Admission { ends, ..Grant::ReadWrite.into() })
        } else {
            let control = self.0.iter().find(|(of, _)| *of == token).map(|(_, control)| control);
            control.map(Admission::from).ok_or_else(|| "unknown token".to_owned())
        };
        Box::pin(std::future::ready(admission))
    }
}

/// A server with two tokens: `member`, whose control is returned, and `other`, which may always write.
async fn server(grant: Grant) -> (Server, GrantControl) {
    let control = GrantControl::new(grant);
    let controls = vec![("member", control.clone()), ("other", GrantControl::new(Grant::ReadWrite))];
    (start_with(&settings(), Arc::new(MemoryStore::new()), Arc::new(Controls(controls))).await, control)
}

/// A session of each dialect that has opened the document `doc` with the token.
async fn sessions(server: &Server, token: &str) -> (Socket, Socket, Native) {
    let mut plain = Socket::open(server, &format!("/doc?token={token}")).await;
    plain.join().await;
    let mut hocuspocus = Socket::open(server, "/").await;
    hocuspocus.open_document("doc", token).await;
    let mut native = Native::connect(server).await;
    open_native(&mut native, 0, "doc", token).await;
    (plain, hocuspocus, native)
}

/// Opens a document; returns whether it is read-only.
async fn open_native(native: &mut Native, channel: u64, document: &str, token: &str) -> bool {
    native.send(ToServer::Open { channel, document, token, cursor: None, wants_state_vector: false }).await;
    let opened = native.receive_first(|message| match message {
        ServerMessage::Opened { channel: of, read_only, .. } if *of == channel => Some(*read_only),
        _ => None,
    });
    let read_only = opened.await.0;
    native.send(ToServer::StateVector { channel, state_vector: &[0] }).await;
    native.receive_until(|message| matches!(message, ServerMessage::Diff { .. })).await;
    read_only
}

async fn send_edit(socket: &mut Socket, document: &str, edit: &[u8]) -> bool {
    socket.send_to(document, HocuspocusMessage::Sync(SyncMessage::Update(edit))).await;
    let mut is_saved = None;
    socket
        .receive_until(|_, message| {
            if let HocuspocusMessage::SyncStatus(saved) = message {
                is_saved = Some(*saved);
            }
            is_saved.is_some()
        })
        .await;
    is_saved == Some(true)
}

async fn expect_scope(socket: &mut Socket, scope: Scope) {
    socket
        .receive_until(|address, message| address == "doc" && *message == HocuspocusMessage::Authenticated(scope))
        .await;
}

async fn expect_denied(socket: &mut Socket, reason: &str) {
    socket
        .receive_until(|address, message| {
            matches!(message, HocuspocusMessage::PermissionDenied(why) if address == "doc" && why.contains(reason))
        })
        .await;
}

async fn expect_closed(native: &mut Native, reason: &str) {
    let closed = |message: &ServerMessage| matches!(message, ServerMessage::Closed { channel: 0, code: 4403, reason: why } if why.contains(reason));
    native.receive_until(closed).await;
}

#[tokio::test]
async fn edit_after_a_lowered_grant_is_refused_in_every_dialect() {
    let (server, control) = server(Grant::ReadWrite).await;
    let (mut plain, mut hocuspocus, mut native) = sessions(&server, "member").await;
    plain.sync(SyncMessage::Update(&typed(1, "a"))).await;
    assert_eq!(plain.receive_sync().await, (2, typed(1, "a")), "the echo of a saved edit");
    assert!(send_edit(&mut hocuspocus, "doc", &typed(2, "b")).await);
    native.save_change(0, 1, &typed(3, "c")).await;

    control.set(Grant::Read);
    expect_scope(&mut hocuspocus, Scope::ReadOnly).await;
    assert!(!send_edit(&mut hocuspocus, "doc", &typed(4, "d")).await);
    native.change(0, 2, &typed(5, "e")).await;
    native.receive_until(|message| matches!(message, ServerMessage::Refused { batch: 2, code: 4403, .. })).await;
    plain.sync(SyncMessage::Update(&typed(6, "f"))).await;
    let (code, reason) = plain.receive_close().await;
    assert_eq!((code, reason.contains("read-only")), (4403, true), "{reason}");
    // All of them may still read.
    let mut writer = Socket::open(&server, "/doc?token=other").await;
    writer.sync(SyncMessage::Update(&typed(7, "g"))).await;
    native.receive_until(|message| matches!(message, ServerMessage::Change { .. })).await;
    hocuspocus
        .receive_until(
            |_, message| matches!(message, HocuspocusMessage::Sync(SyncMessage::Update(update)) if *update == typed(7, "g")),
        )
        .await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn edit_after_a_raised_grant_is_accepted_in_every_dialect() {
    let (server, control) = server(Grant::Read).await;
    let (mut plain, mut hocuspocus, mut native) = sessions(&server, "member").await;
    assert!(!send_edit(&mut hocuspocus, "doc", &typed(1, "a")).await);
    native.change(0, 1, &typed(2, "b")).await;
    native.receive_until(|message| matches!(message, ServerMessage::Refused { batch: 1, code: 4403, .. })).await;

    control.set(Grant::ReadWrite);
    expect_scope(&mut hocuspocus, Scope::ReadWrite).await;
    assert!(send_edit(&mut hocuspocus, "doc", &typed(3, "c")).await);
    native.save_change(0, 2, &typed(4, "d")).await;
    plain.sync(SyncMessage::Update(&typed(5, "e"))).await;
    while plain.receive_sync().await != (2, typed(5, "e")) {}
    assert!(!open_native(&mut native, 1, "another", "member").await, "later documents have the new grant");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn revoked_grant_closes_the_document_of_a_silent_client() {
    let (server, control) = server(Grant::ReadWrite).await;
    let (mut plain, mut hocuspocus, mut native) = sessions(&server, "member").await;
    hocuspocus.open_document("another", "other").await;
    open_native(&mut native, 1, "another", "other").await;

    control.revoke(REASON);
    assert_eq!(plain.receive_close().await, (4403, REASON.to_owned()));
    expect_denied(&mut hocuspocus, REASON).await;
    expect_closed(&mut native, REASON).await;
    assert_eq!(server.metrics().documents_closed.get(4403), 2);
    // Documents of another grant stay open; the revoked one cannot be opened again.
    assert!(send_edit(&mut hocuspocus, "another", &typed(1, "a")).await);
    native.save_change(1, 1, &typed(2, "b")).await;
    hocuspocus.send_to("doc", HocuspocusMessage::Token { token: "member", version: None }).await;
    expect_denied(&mut hocuspocus, REASON).await;
    let mut again = Socket::open(&server, "/doc?token=member").await;
    again.sync(SyncMessage::Step1(&[0])).await;
    assert_eq!(again.receive_close().await, (4403, REASON.to_owned()));
    drop((plain, again));
    let unused = async {
        while control.is_used() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, unused).await.expect("open sessions no longer watch a revoked grant");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn grant_that_ends_is_revoked_then() {
    let (server, _) = server(Grant::ReadWrite).await;
    let mut plain = Socket::open(&server, "/doc?token=brief").await;
    plain.join().await;
    let (code, reason) = plain.receive_close().await;
    assert_eq!((code, reason.contains("ended")), (4403, true), "{reason}");
    let mut hocuspocus = Socket::open(&server, "/").await;
    hocuspocus.open_document("doc", "brief").await;
    expect_denied(&mut hocuspocus, "ended").await;
    let mut native = Native::connect(&server).await;
    open_native(&mut native, 0, "doc", "brief").await;
    expect_closed(&mut native, "ended").await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn document_that_was_left_is_not_opened_again_after_its_grant_was_revoked() {
    let (server, control) = server(Grant::ReadWrite).await;
    let mut hocuspocus = Socket::open(&server, "/").await;
    hocuspocus.open_document("doc", "member").await;
    hocuspocus.send_to("doc", HocuspocusMessage::Close("")).await;
    // Another provider of the socket still uses it.
    hocuspocus.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step2(&typed(1, "a")))).await;
    hocuspocus.receive_until(|_, message| *message == HocuspocusMessage::SyncStatus(true)).await;
    hocuspocus.send_to("doc", HocuspocusMessage::Close("")).await;
    hocuspocus.open_document("another", "other").await;
    control.revoke(REASON);
    hocuspocus.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&typed(2, "b")))).await;
    expect_denied(&mut hocuspocus, REASON).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn new_token_replaces_the_control_of_the_document() {
    let (server, control) = server(Grant::ReadWrite).await;
    let mut hocuspocus = Socket::open(&server, "/").await;
    hocuspocus.open_document("doc", "member").await;
    hocuspocus.send_to("doc", HocuspocusMessage::Token { token: "other", version: None }).await;
    expect_scope(&mut hocuspocus, Scope::ReadWrite).await;
    control.revoke(REASON);
    assert!(send_edit(&mut hocuspocus, "doc", &typed(1, "a")).await);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn dropped_control_leaves_the_grant_as_it_is() {
    let control = GrantControl::new(Grant::Read);
    let admission = Admission::from(&control);
    let auth = OneAdmission(admission);
    let server = start_with(&settings(), Arc::new(MemoryStore::new()), Arc::new(auth)).await;
    let mut hocuspocus = Socket::open(&server, "/").await;
    hocuspocus.open_document("doc", "").await;
    control.set(Grant::ReadWrite);
    drop(control);
    expect_scope(&mut hocuspocus, Scope::ReadWrite).await;
    for (client, text) in [(1, "a"), (2, "b")] {
        assert!(send_edit(&mut hocuspocus, "doc", &typed(client, text)).await);
    }
    server.stop().await.unwrap();
}

struct OneAdmission(Admission);

impl Authorize for OneAdmission {
    fn authorize(&self, _: AccessRequest) -> Access {
        Box::pin(std::future::ready(Ok(self.0.clone())))
    }
}
