//! When snapshots replace records: new records trigger a snapshot; pending updates that the last snapshot kept do not.

use std::sync::Arc;

use syncline_log::memory::MemoryStore;
use syncline_protocol::sync::SyncMessage;
use syncline_tests::live::{Socket, start};
use yrs::{Doc, Text, Transact};

/// Above the threshold for a snapshot, below the limit of pending updates.
const PENDING_BYTES: usize = 700 * 1024;

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
    // The first edit is never sent, so the second stays pending.
    type_one("lost");
    let pending = type_one(&"x".repeat(PENDING_BYTES));
    socket.sync(SyncMessage::Update(&pending)).await;
    while socket.receive_sync().await != (2, pending.clone()) {}

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
    assert_eq!(server.metrics().compactions.get(), 1, "the pending update triggers one snapshot");
    server.stop().await.unwrap();
}
