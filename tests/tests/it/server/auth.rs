//! Access is decided before a document is opened: later messages wait for the decision, a denial leaves the
//! socket usable for other documents, and a read-only client is refused when it writes.

use std::sync::Arc;
use std::time::Duration;

use syncline_log::memory::MemoryStore;
use syncline_protocol::hocuspocus::{HocuspocusMessage, Scope};
use syncline_protocol::sync::SyncMessage;
use syncline_server::auth::{Access, AccessRequest, Authorize, Grant};
use syncline_tests::live::{GrantByToken, Socket, settings, start_with, typed};
use tokio::sync::Semaphore;

/// Decides by the token, after it acquires a permit.
struct GatedAuth {
    may_decide: Arc<Semaphore>,
}

impl Authorize for GatedAuth {
    fn authorize(&self, request: AccessRequest) -> Access {
        let may_decide = Arc::clone(&self.may_decide);
        Box::pin(async move {
            if request.token.is_some() {
                may_decide.acquire().await.unwrap().forget();
            }
            match request.token.as_deref() {
                Some("writer") => Ok(Grant::ReadWrite.into()),
                Some("reader") => Ok(Grant::Read.into()),
                // y-websocket sends no token, and neither does a Hocuspocus provider before its token message.
                None => Ok(Grant::Read.into()),
                Some(_) => Err("this token is not known".to_owned()),
            }
        })
    }
}

async fn server_with_permits(permits: usize) -> (syncline_server::Server, Arc<Semaphore>) {
    let may_decide = Arc::new(Semaphore::new(permits));
    let auth = Arc::new(GatedAuth { may_decide: Arc::clone(&may_decide) });
    (start_with(&settings(), Arc::new(MemoryStore::new()), auth).await, may_decide)
}

fn token(token: &str) -> HocuspocusMessage<'_> {
    HocuspocusMessage::Token { token, version: None }
}

#[tokio::test]
async fn messages_sent_before_the_decision_are_answered_after_it_in_order() {
    let (server, may_decide) = server_with_permits(0).await;
    let mut socket = Socket::open(&server, "/").await;
    let update = typed(1, "early");
    // Step 1, an update and step 2 arrive even before the token.
    socket.send_to("notes", HocuspocusMessage::Sync(SyncMessage::Step1(&[0]))).await;
    socket.send_to("notes", HocuspocusMessage::Sync(SyncMessage::Update(&update))).await;
    socket.send_to("notes", HocuspocusMessage::Sync(SyncMessage::Step2(&[0, 0]))).await;
    socket.send_to("notes", token("writer")).await;
    assert_eq!(server.open_documents(), 0, "nothing is opened before the decision");
    may_decide.add_permits(1);
    let mut received = Vec::new();
    socket
        .receive_until(|_, message| {
            received.push(match message {
                HocuspocusMessage::Authenticated(Scope::ReadWrite) => "authenticated",
                HocuspocusMessage::Sync(SyncMessage::Step1(_)) => "step 1",
                HocuspocusMessage::Sync(SyncMessage::Step2(_)) => "step 2",
                HocuspocusMessage::SyncStatus(true) => "saved",
                other => panic!("received {other:?}"),
            });
            received.len() == 5
        })
        .await;
    assert_eq!(received, ["authenticated", "step 1", "step 2", "saved", "saved"]);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn denied_document_leaves_the_socket_usable_for_others() {
    let (server, _may_decide) = server_with_permits(10).await;
    let mut socket = Socket::open(&server, "/").await;
    socket.send_to("private", token("stranger")).await;
    socket
        .receive_until(|address, message| {
            address == "private" && matches!(message, HocuspocusMessage::PermissionDenied("this token is not known"))
        })
        .await;
    // Later messages to the denied document open nothing.
    socket.send_to("private", HocuspocusMessage::Sync(SyncMessage::Step1(&[0]))).await;
    socket.send_to("public", token("writer")).await;
    socket.send_to("public", HocuspocusMessage::Sync(SyncMessage::Step1(&[0]))).await;
    socket
        .receive_until(|address, message| {
            assert_eq!(address, "public");
            matches!(message, HocuspocusMessage::Sync(SyncMessage::Step2(_)))
        })
        .await;
    assert_eq!(server.open_documents(), 1);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn read_only_client_receives_all_changes_and_can_write_none() {
    let (server, _may_decide) = server_with_permits(10).await;
    let mut writer = Socket::open(&server, "/").await;
    let mut reader = Socket::open(&server, "/").await;
    for (socket, name) in [(&mut writer, "writer"), (&mut reader, "reader")] {
        socket.send_to("notes", token(name)).await;
        socket.send_to("notes", HocuspocusMessage::Sync(SyncMessage::Step1(&[0]))).await;
        socket.receive_until(|_, message| matches!(message, HocuspocusMessage::Sync(SyncMessage::Step2(_)))).await;
    }
    // An empty answer to the server's step 1 is not an attempt to write.
    reader.send_to("notes", HocuspocusMessage::Sync(SyncMessage::Step2(&[0, 0]))).await;
    reader.receive_until(|_, message| matches!(message, HocuspocusMessage::SyncStatus(true))).await;
    reader.send_to("notes", HocuspocusMessage::Sync(SyncMessage::Update(&typed(1, "forged")))).await;
    reader.receive_until(|_, message| matches!(message, HocuspocusMessage::SyncStatus(false))).await;
    let update = typed(2, "genuine");
    writer.send_to("notes", HocuspocusMessage::Sync(SyncMessage::Update(&update))).await;
    reader
        .receive_until(
            |_, message| matches!(message, HocuspocusMessage::Sync(SyncMessage::Update(received)) if *received == update),
        )
        .await;

    // y-websocket has no message for a refusal, so the session ends.
    let mut plain = Socket::open(&server, "/notes").await;
    let diff = plain.join().await;
    assert!(diff.windows(7).any(|window| window == b"genuine") && !diff.windows(6).any(|window| window == b"forged"));
    plain.sync(SyncMessage::Update(&typed(3, "forged"))).await;
    let (code, reason) = plain.receive_close().await;
    assert_eq!((code, reason.contains("read")), (4403, true), "{reason}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn messages_before_a_token_are_bounded_and_the_session_times_out() {
    let mut config = settings();
    config.session.authentication = Duration::from_millis(300);
    let server = start_with(&config, Arc::new(MemoryStore::new()), Arc::new(GrantByToken)).await;
    let mut socket = Socket::open(&server, "/").await;
    // Two documents: more small messages than are buffered, and a long one.
    socket.send_to("other", HocuspocusMessage::QueryAwareness).await;
    for _ in 0..1_100 {
        socket.send_to("notes", HocuspocusMessage::QueryAwareness).await;
    }
    socket.send_to("notes", HocuspocusMessage::Stateless(&"x".repeat(1024 * 1024))).await;
    let mut denied = Vec::new();
    socket
        .receive_until(|address, message| {
            assert!(
                matches!(message, HocuspocusMessage::PermissionDenied(why) if why.contains("token")),
                "{message:?}"
            );
            denied.push(address.to_owned());
            denied.len() == 2
        })
        .await;
    assert_eq!(denied, ["notes", "other"]);
    let (code, reason) = socket.receive_close().await;
    assert_eq!((code, reason.contains("token")), (4504, true), "{reason}");
    assert!(server.metrics().messages_ignored.get() > 100, "messages over the limit are dropped");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn authenticated_session_outlives_the_authentication_timeout() {
    let mut config = settings();
    config.session.authentication = Duration::from_millis(50);
    let server = start_with(&config, Arc::new(MemoryStore::new()), Arc::new(GrantByToken)).await;
    let mut socket = Socket::open(&server, "/").await;
    socket.open_document("notes", "write").await;
    // The timeout closes the session that sent no token.
    let mut late = Socket::open(&server, "/").await;
    late.send_to("notes", HocuspocusMessage::QueryAwareness).await;
    assert_eq!(late.receive_close().await.0, 4504);
    socket.send_to("notes", HocuspocusMessage::Sync(SyncMessage::Update(&typed(1, "x")))).await;
    socket.receive_until(|_, message| *message == HocuspocusMessage::SyncStatus(true)).await;
    server.stop().await.unwrap();
}
