//! What a grant allows. In Hocuspocus, a new token replaces the document's grant, and messages that waited for a
//! refused token are dropped. A read-only client is refused only when it writes.

use std::sync::Arc;

use syncline_log::memory::MemoryStore;
use syncline_protocol::hocuspocus::{HocuspocusMessage, Scope};
use syncline_protocol::sync::SyncMessage;
use syncline_server::auth::{Access, AccessRequest, Authorize, Grant};
use syncline_tests::live::{GrantByToken, Socket, settings, start_with, typed};

/// Client 1 types "a"; client 2 types "a".
const EDITS: [[u8; 14]; 2] = [
    [1, 1, 1, 0, 4, 1, 4, b't', b'e', b'x', b't', 1, b'a', 0],
    [1, 1, 2, 0, 4, 1, 4, b't', b'e', b'x', b't', 1, b'a', 0],
];

/// Grants write access to the token `write` and read access otherwise: y-websocket sends no token.
struct ReadByDefault;

impl Authorize for ReadByDefault {
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
    socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(edit))).await;
    let mut is_saved = false;
    socket
        .receive_until(|_, message| match message {
            HocuspocusMessage::SyncStatus(saved) => {
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
    socket.send_to("doc", HocuspocusMessage::Token { token: "read", version: None }).await;
    socket.receive_until(|_, message| *message == HocuspocusMessage::Authenticated(Scope::ReadOnly)).await;
    assert!(!edit_is_saved(&mut socket, &EDITS[1]).await, "a write after the grant became read-only is refused");
    socket.send_to("doc", HocuspocusMessage::Token { token: "write", version: None }).await;
    assert!(edit_is_saved(&mut socket, &EDITS[1]).await);
    server.stop().await.unwrap();
}

/// A client's answer to the server's step 1 holds all deletions it knows, not only new ones (Yjs,
/// `encodeStateAsUpdate`).
#[tokio::test]
async fn reconnecting_reader_is_not_treated_as_a_writer() {
    let server = start_with(&settings(), Arc::new(MemoryStore::new()), Arc::new(ReadByDefault)).await;
    let mut writer = Socket::open(&server, "/").await;
    writer.open_document("doc", "write").await;
    // A letter and its deletion.
    let deletion = [0, 1, 1, 1, 0, 1];
    for edit in [&EDITS[0][..], &deletion] {
        assert!(edit_is_saved(&mut writer, edit).await);
    }
    let mut reader = Socket::open(&server, "/doc").await;
    assert_eq!(reader.join().await.last(), Some(&1), "the diff holds the deletion");
    reader.sync(SyncMessage::Step2(&deletion)).await;
    let mut other = Socket::open(&server, "/").await;
    other.open_document("doc", "read").await;
    assert!(edit_is_saved(&mut other, &deletion).await, "the server already has this deletion");
    assert!(!edit_is_saved(&mut other, &[0, 1, 2, 1, 0, 1]).await, "this deletion is new");
    // The reader is still served.
    assert!(edit_is_saved(&mut writer, &EDITS[1]).await);
    assert_eq!(reader.receive_sync().await, (2, EDITS[1].to_vec()));
    // A deletion that the reader may have derived itself, which the server does not have. It is not applied.
    let derived = [0, 1, 2, 1, 0, 1];
    reader.sync(SyncMessage::Step2(&derived)).await;
    let third = typed(3, "third");
    assert!(edit_is_saved(&mut writer, &third).await);
    assert_eq!(reader.receive_sync().await, (2, third));
    let mut late = Socket::open(&server, "/doc").await;
    assert!(!late.join().await.ends_with(&derived[1..]), "it was applied");
    // It is refused when it does write: a step 2 that inserts, and a deletion that is a change.
    for write in [SyncMessage::Step2(&typed(4, "fourth")), SyncMessage::Update(&derived)] {
        let mut reader = Socket::open(&server, "/doc").await;
        reader.join().await;
        reader.sync(write).await;
        assert_eq!(reader.receive_close().await.0, 4403);
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn refused_token_renewal_closes_the_document_for_the_session() {
    let (server, mut socket) = session().await;
    socket.open_document("doc", "write").await;
    assert!(edit_is_saved(&mut socket, &EDITS[0]).await);
    socket.send_to("doc", HocuspocusMessage::Token { token: "expired", version: None }).await;
    socket.receive_until(|_, message| matches!(message, HocuspocusMessage::PermissionDenied(_))).await;
    // Later messages are dropped unread. If these bytes were read, they would be refused again.
    socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&[1]))).await;
    socket.send_to("other", HocuspocusMessage::Token { token: "read", version: None }).await;
    socket.receive_until(|address, message| address == "other" && matches!(message, HocuspocusMessage::Sync(_))).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn messages_buffered_for_a_refused_token_are_dropped_from_the_limit() {
    let (server, mut socket) = session().await;
    // These bytes are never decoded, because the token is refused.
    let early = vec![0; 1024 * 1024];
    for _ in 0..6 {
        socket.send_to("a document", HocuspocusMessage::Sync(SyncMessage::Update(&early))).await;
        socket.send_to("a document", HocuspocusMessage::Token { token: "", version: None }).await;
        socket.receive_until(|_, message| matches!(message, HocuspocusMessage::PermissionDenied(_))).await;
    }
    server.stop().await.unwrap();
}
