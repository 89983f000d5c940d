//! A slow native reader falls behind and is resynced. It never receives a Durable for changes that it was not sent: its
//! cursor would skip them for ever.

use std::sync::Arc;

use syncline_log::memory::MemoryStore;
use syncline_protocol::ids::Seq;
use syncline_server::auth::OpenToAll;
use syncline_tests::live::{Socket, settings, start_with};
use syncline_tests::native_client::{Native, ServerMessage};
use tokio::net::TcpSocket;
use yrs::block::ClientID;
use yrs::updates::decoder::Decode;
use yrs::{Doc, GetString, ReadTxn, Text, Transact, Update};

const OUTBOX_BYTES: usize = 64 * 1024;
const ROUNDS: usize = 3;
const WRITES: usize = 150;
const WRITE_CHARS: usize = 50_000;
const WRITER: u64 = 7;

fn clock(doc: &Doc) -> u64 {
    u64::from(doc.transact().state_vector().get(&ClientID::new(WRITER)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn durable_never_covers_changes_that_were_not_sent() {
    let mut config = settings();
    config.session.outbox_bytes = OUTBOX_BYTES;
    let server = start_with(&config, Arc::new(MemoryStore::new()), Arc::new(OpenToAll)).await;
    let narrow = TcpSocket::new_v4().unwrap();
    narrow.set_recv_buffer_size(4096).unwrap();
    let narrow = narrow.connect(server.address()).await.unwrap();
    let mut slow = Native::over(Socket::over(narrow, &server, "/").await).await;
    slow.join(0, "doc").await;
    let mut writer = Native::connect(&server).await;
    writer.join(0, "doc").await;

    let source = Doc::with_client_id(WRITER);
    let text = source.get_or_insert_text("text");
    let mirror = Doc::new();
    let copy = mirror.get_or_insert_text("text");
    // The writer's clock after each record.
    let mut clocks = vec![0];
    let (mut batch, mut positions) = (0, 0);
    for _ in 0..ROUNDS {
        for number in 0..2 * WRITES {
            let update = {
                let mut txn = source.transact_mut();
                if number % 2 == 0 {
                    text.insert(&mut txn, 0, &"x".repeat(WRITE_CHARS));
                } else {
                    text.remove_range(&mut txn, 1, WRITE_CHARS as u32 - 1);
                }
                txn.encode_update_v1()
            };
            batch += 1;
            let seq = writer.save_change(0, batch, &update).await;
            assert_eq!(seq, Seq(clocks.len() as u64));
            clocks.push(clock(&source));
        }
        // Now it reads until a Durable covers all changes.
        let last = Seq(clocks.len() as u64 - 1);
        loop {
            match slow.receive().await {
                ServerMessage::Change { update, .. } | ServerMessage::Diff { update, .. } => {
                    mirror.transact_mut().apply_update(Update::decode_v1(&update).unwrap()).unwrap();
                }
                ServerMessage::Durable { seq, .. } => {
                    positions += 1;
                    assert!(
                        clock(&mirror) >= clocks[seq.0 as usize],
                        "Durable {seq}, but the reader's clock is {}",
                        clock(&mirror)
                    );
                    if seq == last {
                        break;
                    }
                }
                _ => {}
            }
        }
        assert_eq!(copy.get_string(&mirror.transact()), text.get_string(&source.transact()));
    }
    assert!(server.metrics().resyncs.get() >= 1, "it fell behind and was resynced");
    assert!(positions < batch as usize, "{positions} Durables for {batch} changes: a newer one replaces a queued one");
    server.stop().await.unwrap();
}
