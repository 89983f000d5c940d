//! Access is decided before anything is opened: what follows waits for the decision, a denial leaves the socket to
//! other documents, and who may only read is told so when it writes.

use std::sync::Arc;
use std::time::Duration;

use syncline_log::memory::MemoryStore;
use syncline_protocol::hocuspocus::{Message, Scope};
use syncline_protocol::sync::SyncMessage;
use syncline_server::auth::{Access, AccessRequest, Authorize, Grant};
use syncline_tests::live::{ByWord, Socket, settings, start_with, typed};
use tokio::sync::Semaphore;

/// Decides by the token, once a permit is there.
struct Doorkeeper {
    may_decide: Arc<Semaphore>,
}

impl Authorize for Doorkeeper {
    fn authorize(&self, request: AccessRequest) -> Access {
        let may_decide = Arc::clone(&self.may_decide);
        Box::pin(async move {
            if request.token.is_some() {
                may_decide.acquire().await.unwrap().forget();
            }
            match request.token.as_deref() {
                Some("writer") => Ok(Grant::ReadWrite.into()),
                Some("reader") => Ok(Grant::Read.into()),
                // y-websocket brings none, nor does a Hocuspocus provider before its token.
                None => Ok(Grant::Read.into()),
                Some(_) => Err("this token is not known".to_owned()),
            }
        })
    }
}

async fn door(permits: usize) -> (syncline_server::Server, Arc<Semaphore>) {
    let may_decide = Arc::new(Semaphore::new(permits));
    let doorkeeper = Arc::new(Doorkeeper { may_decide: Arc::clone(&may_decide) });
    (start_with(&settings(), Arc::new(MemoryStore::new()), doorkeeper).await, may_decide)
}

fn token(token: &str) -> Message<'_> {
    Message::Token { token, version: None }
}

#[tokio::test]
async fn messages_sent_before_the_decision_are_answered_after_it_in_order() {
    let (server, may_decide) = door(0).await;
    let mut socket = Socket::open(&server, "/").await;
    let update = typed(1, "early");
    // Even before the token: step 1, a change and a step 2, then the token.
    socket.say("notes", Message::Sync(SyncMessage::Step1(&[0]))).await;
    socket.say("notes", Message::Sync(SyncMessage::Update(&update))).await;
    socket.say("notes", Message::Sync(SyncMessage::Step2(&[0, 0]))).await;
    socket.say("notes", token("writer")).await;
    assert_eq!(server.open_documents(), 0, "nothing is opened before the decision");
    may_decide.add_permits(1);
    let mut heard = Vec::new();
    socket
        .hear_until(|_, message| {
            heard.push(match message {
                Message::Authenticated(Scope::ReadWrite) => "authenticated",
                Message::Sync(SyncMessage::Step1(_)) => "step 1",
                Message::Sync(SyncMessage::Step2(_)) => "step 2",
                Message::SyncStatus(true) => "saved",
                other => panic!("heard {other:?}"),
            });
            heard.len() == 5
        })
        .await;
    assert_eq!(heard, ["authenticated", "step 1", "step 2", "saved", "saved"]);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_denied_document_leaves_the_socket_to_others() {
    let (server, _may_decide) = door(10).await;
    let mut socket = Socket::open(&server, "/").await;
    socket.say("private", token("stranger")).await;
    socket
        .hear_until(|address, message| {
            address == "private" && matches!(message, Message::PermissionDenied("this token is not known"))
        })
        .await;
    // What it says there anyway opens nothing.
    socket.say("private", Message::Sync(SyncMessage::Step1(&[0]))).await;
    socket.say("public", token("writer")).await;
    socket.say("public", Message::Sync(SyncMessage::Step1(&[0]))).await;
    socket
        .hear_until(|address, message| {
            assert_eq!(address, "public");
            matches!(message, Message::Sync(SyncMessage::Step2(_)))
        })
        .await;
    assert_eq!(server.open_documents(), 1);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn who_may_only_read_hears_everything_and_changes_nothing() {
    let (server, _may_decide) = door(10).await;
    let mut writer = Socket::open(&server, "/").await;
    let mut reader = Socket::open(&server, "/").await;
    for (socket, name) in [(&mut writer, "writer"), (&mut reader, "reader")] {
        socket.say("notes", token(name)).await;
        socket.say("notes", Message::Sync(SyncMessage::Step1(&[0]))).await;
        socket.hear_until(|_, message| matches!(message, Message::Sync(SyncMessage::Step2(_)))).await;
    }
    // The answer to the server's step 1 is no attempt to write.
    reader.say("notes", Message::Sync(SyncMessage::Step2(&[0, 0]))).await;
    reader.hear_until(|_, message| matches!(message, Message::SyncStatus(true))).await;
    reader.say("notes", Message::Sync(SyncMessage::Update(&typed(1, "forged")))).await;
    reader.hear_until(|_, message| matches!(message, Message::SyncStatus(false))).await;
    let update = typed(2, "genuine");
    writer.say("notes", Message::Sync(SyncMessage::Update(&update))).await;
    reader
        .hear_until(|_, message| matches!(message, Message::Sync(SyncMessage::Update(heard)) if *heard == update))
        .await;

    // y-websocket has no word for "refused": there the session ends.
    let mut plain = Socket::open(&server, "/notes").await;
    let diff = plain.join().await;
    assert!(diff.windows(7).any(|window| window == b"genuine") && !diff.windows(6).any(|window| window == b"forged"));
    plain.sync(SyncMessage::Update(&typed(3, "forged"))).await;
    let (code, reason) = plain.hear_close().await;
    assert_eq!((code, reason.contains("read")), (4403, true), "{reason}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn messages_before_a_token_are_bounded_and_their_sender_is_closed_in_time() {
    let mut config = settings();
    config.session.authentication = Duration::from_millis(300);
    let server = start_with(&config, Arc::new(MemoryStore::new()), Arc::new(ByWord)).await;
    let mut socket = Socket::open(&server, "/").await;
    // For two documents: more small ones than are stored, and a long one.
    socket.say("other", Message::QueryAwareness).await;
    for _ in 0..1_100 {
        socket.say("notes", Message::QueryAwareness).await;
    }
    socket.say("notes", Message::Stateless(&"x".repeat(1024 * 1024))).await;
    let mut denied = Vec::new();
    socket
        .hear_until(|address, message| {
            assert!(matches!(message, Message::PermissionDenied(why) if why.contains("token")), "{message:?}");
            denied.push(address.to_owned());
            denied.len() == 2
        })
        .await;
    assert_eq!(denied, ["notes", "other"]);
    let (code, reason) = socket.hear_close().await;
    assert_eq!((code, reason.contains("token")), (4504, true), "{reason}");
    assert!(server.metrics().messages_ignored.get() > 100, "those over the limits are dropped");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn authenticated_session_outlives_the_time_for_a_token() {
    let mut config = settings();
    config.session.authentication = Duration::from_millis(50);
    let server = start_with(&config, Arc::new(MemoryStore::new()), Arc::new(ByWord)).await;
    let mut socket = Socket::open(&server, "/").await;
    socket.enter("notes", "write").await;
    // The clock of this session closes the other one.
    let mut late = Socket::open(&server, "/").await;
    late.say("notes", Message::QueryAwareness).await;
    assert_eq!(late.hear_close().await.0, 4504);
    socket.say("notes", Message::Sync(SyncMessage::Update(&typed(1, "x")))).await;
    socket.hear_until(|_, message| *message == Message::SyncStatus(true)).await;
    server.stop().await.unwrap();
}
