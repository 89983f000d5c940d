//! What a grant allows. Hocuspocus: a token decides for its document from then on, and what waited for a refused one is
//! forgotten. Who may only read is told when it writes, and only then.

use std::sync::Arc;

use syncline_log::memory::MemoryStore;
use syncline_protocol::hocuspocus::{Message, Scope};
use syncline_protocol::sync::SyncMessage;
use syncline_server::auth::{Access, AccessRequest, Authorize, Grant};
use syncline_tests::live::{GrantByToken, Socket, settings, start_with};

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
    let server = start_with(&settings(), Arc::new(MemoryStore::new()), Arc::new(GrantByToken)).await;
    let socket = Socket::open(&server, "/").await;
    (server, socket)
}

async fn edit_is_saved(socket: &mut Socket, edit: &[u8]) -> bool {
    socket.send_to("doc", Message::Sync(SyncMessage::Update(edit))).await;
    let mut is_saved = false;
    socket
        .receive_until(|_, message| match message {
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
async fn renewed_token_changes_the_grant_of_the_session() {
    let (server, mut socket) = session().await;
    socket.open_document("doc", "write").await;
    assert!(edit_is_saved(&mut socket, &EDITS[0]).await);
    socket.send_to("doc", Message::Token { token: "read", version: None }).await;
    socket.receive_until(|_, message| *message == Message::Authenticated(Scope::ReadOnly)).await;
    assert!(!edit_is_saved(&mut socket, &EDITS[1]).await, "told that it may only read, and still writes");
    socket.send_to("doc", Message::Token { token: "write", version: None }).await;
    assert!(edit_is_saved(&mut socket, &EDITS[1]).await);
    server.stop().await.unwrap();
}

/// What a client answers to our step 1 holds all deletions it knows of, not only new ones (Yjs, `encodeStateAsUpdate`).
#[tokio::test]
async fn reconnecting_reader_is_not_treated_as_a_writer() {
    let server = start_with(&settings(), Arc::new(MemoryStore::new()), Arc::new(OrElseRead)).await;
    let mut writer = Socket::open(&server, "/").await;
    writer.open_document("doc", "write").await;
    // A letter, and its deletion.
    let deletion = [0, 1, 1, 1, 0, 1];
    for edit in [&EDITS[0][..], &deletion] {
        assert!(edit_is_saved(&mut writer, edit).await);
    }
    let mut reader = Socket::open(&server, "/doc").await;
    assert_eq!(reader.join().await.last(), Some(&1), "it knows of the deletion");
    reader.sync(SyncMessage::Step2(&deletion)).await;
    let mut other = Socket::open(&server, "/").await;
    other.open_document("doc", "read").await;
    assert!(edit_is_saved(&mut other, &deletion).await, "it is here already");
    assert!(!edit_is_saved(&mut other, &[0, 1, 2, 1, 0, 1]).await, "this deletes what another wrote");
    // The reader is still served.
    assert!(edit_is_saved(&mut writer, &EDITS[1]).await);
    assert_eq!(reader.receive_sync().await, (2, EDITS[1].to_vec()));
    // And is told so when it does write.
    reader.sync(SyncMessage::Step2(&[0, 1, 2, 1, 0, 1])).await;
    assert_eq!(reader.receive_close().await.0, 4403);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn refused_token_renewal_closes_the_document_for_the_session() {
    let (server, mut socket) = session().await;
    socket.open_document("doc", "write").await;
    assert!(edit_is_saved(&mut socket, &EDITS[0]).await);
    socket.send_to("doc", Message::Token { token: "expired", version: None }).await;
    socket.receive_until(|_, message| matches!(message, Message::PermissionDenied(_))).await;
    // What comes now is dropped unread. If it were read, these bytes would be refused once more.
    socket.send_to("doc", Message::Sync(SyncMessage::Update(&[1]))).await;
    socket.send_to("other", Message::Token { token: "read", version: None }).await;
    socket.receive_until(|address, message| address == "other" && matches!(message, Message::Sync(_))).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn messages_buffered_for_a_refused_token_are_dropped_from_the_limit() {
    let (server, mut socket) = session().await;
    // Bytes of a document, never looked at: its token is refused.
    let early = vec![0; 1024 * 1024];
    for _ in 0..6 {
        socket.send_to("a document", Message::Sync(SyncMessage::Update(&early))).await;
        socket.send_to("a document", Message::Token { token: "", version: None }).await;
        socket.receive_until(|_, message| matches!(message, Message::PermissionDenied(_))).await;
    }
    server.stop().await.unwrap();
}
