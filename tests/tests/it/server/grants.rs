//! What a grant allows. Hocuspocus: a token decides for its document from then on, and what waited for a refused one is
//! forgotten. Who may only read is told when it writes, and only then.

use std::sync::Arc;

use syncline_log::memory::MemoryStore;
use syncline_protocol::hocuspocus::{Message, Scope};
use syncline_protocol::sync::SyncMessage;
use syncline_server::auth::{Access, AccessRequest, Authorize, Grant};
use syncline_tests::live::{ByWord, Socket, settings, start_with};

/// Client 1 types "a"; client 2 does.
const EDITS: [[u8; 14]; 2] = [
    [1, 1, 1, 0, 4, 1, 4, b't', b'e', b'x', b't', 1, b'a', 0],
    [1, 1, 2, 0, 4, 1, 4, b't', b'e', b'x', b't', 1, b'a', 0],
];

/// Who says nothing may read: y-websocket brings no token.
struct OrElseRead;

impl Authorize for OrElseRead {
    fn authorize(&self, request: AccessRequest) -> Access {
        let writes = request.token.as_deref() == Some("write");
        let grant = if writes { Grant::ReadWrite } else { Grant::Read };
        Box::pin(std::future::ready(Ok(grant.into())))
    }
}

async fn session() -> (syncline_server::Server, Socket) {
    let server = start_with(&settings(), Arc::new(MemoryStore::new()), Arc::new(ByWord)).await;
    let socket = Socket::open(&server, "/").await;
    (server, socket)
}

async fn edit_is_saved(socket: &mut Socket, edit: &[u8]) -> bool {
    socket.say("doc", Message::Sync(SyncMessage::Update(edit))).await;
    let mut is_saved = false;
    socket
        .hear_until(|_, message| match message {
            Message::SyncStatus(saved) => {
                is_saved = *saved;
                true
            }
            _ => false,
        })
        .await;
    is_saved
}

#[tokio::test]
async fn a_renewed_token_changes_what_the_session_may_do() {
    let (server, mut socket) = session().await;
    socket.enter("doc", "write").await;
    assert!(edit_is_saved(&mut socket, &EDITS[0]).await);
    socket.say("doc", Message::Token { token: "read", version: None }).await;
    socket.hear_until(|_, message| *message == Message::Authenticated(Scope::ReadOnly)).await;
    assert!(!edit_is_saved(&mut socket, &EDITS[1]).await, "told that it may only read, and still writes");
    socket.say("doc", Message::Token { token: "write", version: None }).await;
    assert!(edit_is_saved(&mut socket, &EDITS[1]).await);
    server.stop().await.unwrap();
}

/// What a client answers to our step 1 holds all deletions it knows of, not only new ones (Yjs, `encodeStateAsUpdate`).
#[tokio::test]
async fn a_reader_that_comes_back_is_not_taken_for_a_writer() {
    let server = start_with(&settings(), Arc::new(MemoryStore::new()), Arc::new(OrElseRead)).await;
    let mut writer = Socket::open(&server, "/").await;
    writer.enter("doc", "write").await;
    // A letter, and its deletion.
    let deletion = [0, 1, 1, 1, 0, 1];
    for edit in [&EDITS[0][..], &deletion] {
        assert!(edit_is_saved(&mut writer, edit).await);
    }
    let mut reader = Socket::open(&server, "/doc").await;
    assert_eq!(reader.join().await.last(), Some(&1), "it knows of the deletion");
    reader.sync(SyncMessage::Step2(&deletion)).await;
    let mut other = Socket::open(&server, "/").await;
    other.enter("doc", "read").await;
    assert!(edit_is_saved(&mut other, &deletion).await, "it is here already");
    assert!(!edit_is_saved(&mut other, &[0, 1, 2, 1, 0, 1]).await, "this deletes what another wrote");
    // The reader is still served.
    assert!(edit_is_saved(&mut writer, &EDITS[1]).await);
    assert_eq!(reader.hear_sync().await, (2, EDITS[1].to_vec()));
    // And is told so when it does write.
    reader.sync(SyncMessage::Step2(&[0, 1, 2, 1, 0, 1])).await;
    assert_eq!(reader.hear_close().await.0, 4403);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_refused_renewal_ends_the_document_for_this_session() {
    let (server, mut socket) = session().await;
    socket.enter("doc", "write").await;
    assert!(edit_is_saved(&mut socket, &EDITS[0]).await);
    socket.say("doc", Message::Token { token: "expired", version: None }).await;
    socket.hear_until(|_, message| matches!(message, Message::PermissionDenied(_))).await;
    // What comes now is dropped unread. If it were read, these bytes would be refused once more.
    socket.say("doc", Message::Sync(SyncMessage::Update(&[1]))).await;
    socket.say("other", Message::Token { token: "read", version: None }).await;
    socket.hear_until(|address, message| address == "other" && matches!(message, Message::Sync(_))).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn what_waited_for_a_refused_token_no_longer_counts() {
    let (server, mut socket) = session().await;
    // Bytes of a document, never looked at: its token is refused.
    let early = vec![0; 1024 * 1024];
    for _ in 0..6 {
        socket.say("a document", Message::Sync(SyncMessage::Update(&early))).await;
        socket.say("a document", Message::Token { token: "", version: None }).await;
        socket.hear_until(|_, message| matches!(message, Message::PermissionDenied(_))).await;
    }
    server.stop().await.unwrap();
}
