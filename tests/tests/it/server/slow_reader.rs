//! A slow reader neither diverges nor uses unbounded memory: its queued frames are dropped and one diff resyncs it.

use std::sync::Arc;

use syncline_log::memory::MemoryStore;
use syncline_protocol::sync::SyncMessage;
use syncline_server::auth::OpenToAll;
use syncline_tests::live::{Socket, settings, start_with};
use tokio::net::{TcpSocket, TcpStream};
use yrs::updates::decoder::Decode;
use yrs::{Doc, GetString, Text, Transact, Update};

/// Characters of each write; [`WRITES`] of them fill any socket buffer.
const WRITE_CHARS: u32 = 50_000;
const WRITES: usize = 200;
const OUTBOX_BYTES: usize = 64 * 1024;

/// A socket whose receive buffer is as small as the system allows.
async fn narrow(server: &syncline_server::Server) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(server.address()).await.unwrap()
}

fn apply(doc: &Doc, update: &[u8]) {
    doc.transact_mut().apply_update(Update::decode_v1(update).unwrap()).unwrap();
}

#[tokio::test]
async fn slow_reader_is_resynced_and_converges() {
    let mut config = settings();
    config.session.outbox_bytes = OUTBOX_BYTES;
    let server = start_with(&config, Arc::new(MemoryStore::new()), Arc::new(OpenToAll)).await;
    let mut slow = Socket::over(narrow(&server).await, &server, "/doc").await;
    slow.join().await;
    let mut writer = Socket::open(&server, "/doc").await;
    writer.join().await;

    // The slow reader does not read while 10 MB of text are sent. The writer waits for each echo, so nothing is
    // in flight.
    let source = Doc::with_client_id(7);
    let text = source.get_or_insert_text("text");
    for number in 0..WRITES {
        let update = {
            let mut txn = source.transact_mut();
            // Insert at the front and delete most of it again, so that a diff is much smaller than the updates.
            text.insert(&mut txn, 0, &format!("{number};{}", "x".repeat(WRITE_CHARS as usize)));
            txn.encode_update_v1()
        };
        writer.sync(SyncMessage::Update(&update)).await;
        writer.receive_sync().await;
        let deletion = {
            let mut txn = source.transact_mut();
            text.remove_range(&mut txn, 4, WRITE_CHARS - 4);
            txn.encode_update_v1()
        };
        writer.sync(SyncMessage::Update(&deletion)).await;
        writer.receive_sync().await;
    }
    let expected = text.get_string(&source.transact());

    // Now it reads until it has the same text.
    let doc = Doc::new();
    let mirror = doc.get_or_insert_text("text");
    let mut received_bytes = 0;
    while mirror.get_string(&doc.transact()) != expected {
        let (_, update) = slow.receive_sync().await;
        received_bytes += update.len();
        apply(&doc, &update);
    }
    assert!(server.metrics().resyncs.get() >= 1, "it fell behind and was resynced");
    assert!(received_bytes < WRITES * WRITE_CHARS as usize / 2, "it received {received_bytes} bytes: not a diff");

    // Afterwards it receives changes like any other reader.
    let update = {
        let mut txn = source.transact_mut();
        text.insert(&mut txn, 0, "afterwards");
        txn.encode_update_v1()
    };
    writer.sync(SyncMessage::Update(&update)).await;
    loop {
        apply(&doc, &slow.receive_sync().await.1);
        if mirror.get_string(&doc.transact()).starts_with("afterwards") {
            break;
        }
    }
    server.stop().await.unwrap();
}
