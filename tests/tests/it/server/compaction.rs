//! When snapshots replace records: new records trigger a snapshot; pending updates that the last snapshot kept do not.

use std::sync::Arc;

use syncline_log::memory::MemoryStore;
use syncline_protocol::sync::SyncMessage;
use syncline_tests::hostile_updates::{letters, line};
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

/// As many entries as edits between two snapshots: each would be written again for each edit.
#[tokio::test]
async fn many_small_pending_entries_do_not_multiply_what_is_written() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut socket = Socket::open(&server, "/doc").await;
    socket.join().await;
    let pending: Vec<_> = (1_000..4_000).map(|client| (client, 1, Some((client, 0)), None)).collect();
    socket.sync(SyncMessage::Update(&letters(&pending))).await;
    let last = letters(&[(1, 2_199, Some((1, 2_198)), None)]);
    for clock in 0..2_200u64 {
        let update = match clock {
            0 => line(1, 1),
            _ => letters(&[(1, clock, Some((1, clock - 1)), None)]),
        };
        socket.sync(SyncMessage::Update(&update)).await;
        if clock % 100 == 0 || update == last {
            while socket.receive_sync().await != (2, update.clone()) {}
        }
    }
    assert_eq!(server.metrics().compactions.get(), 0, "a snapshot would write 3,000 records for 2,000 edits");
    server.stop().await.unwrap();
}
