//! When snapshots replace records: as often as new records ask for it, never because of what the last snapshot left.

use std::sync::Arc;

use syncline_log::memory::MemoryStore;
use syncline_protocol::sync::SyncMessage;
use syncline_tests::live::{Socket, start};
use yrs::{Doc, Text, Transact};

/// Above what calls for a snapshot, below what a document holds.
const HELD_BYTES: usize = 700 * 1024;

#[tokio::test]
async fn pending_updates_do_not_trigger_a_snapshot_on_every_edit() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut socket = Socket::open(&server, "/doc").await;
    socket.join().await;
    let doc = Doc::with_client_id(1);
    let text = doc.get_or_insert_text("text");
    let type_one = |part: &str| {
        let mut txn = doc.transact_mut();
        text.insert(&mut txn, 0, part);
        txn.encode_update_v1()
    };
    // The first edit never comes, so the second waits.
    type_one("lost");
    let held = type_one(&"x".repeat(HELD_BYTES));
    socket.sync(SyncMessage::Update(&held)).await;
    while socket.receive_sync().await != (2, held.clone()) {}

    for client in 2..20 {
        let edit = {
            let doc = Doc::with_client_id(client);
            let text = doc.get_or_insert_text("text");
            let mut txn = doc.transact_mut();
            text.insert(&mut txn, 0, "a");
            txn.encode_update_v1()
        };
        socket.sync(SyncMessage::Update(&edit)).await;
        while socket.receive_sync().await != (2, edit.clone()) {}
    }
    assert_eq!(server.metrics().compactions.get(), 1, "the held update calls for a snapshot once");
    server.stop().await.unwrap();
}
