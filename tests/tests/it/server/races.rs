//! Outboxes under real threads: many writers, readers that fall behind at every burst, and all end with the same
//! text. A lost wake-up or a dropped diff would leave a reader waiting for ever.

use std::sync::Arc;
use std::time::Duration;

use syncline_client::{Client, ClientConfig, Dialect};
use syncline_log::memory::MemoryStore;
use syncline_server::auth::OpenToAll;
use syncline_tests::live::{settings, start_with};
use yrs::{GetString, ReadTxn, Text, WriteTxn};

/// Number of documents, one after another.
const ROUNDS: usize = 20;
const CLIENTS: usize = 6;
/// Edits of each client, as fast as it can.
const EDITS: usize = 40;
/// One in this many edits of a client has [`LONG`] characters: too long to be written to a socket without queueing.
const LONG_EVERY: usize = 20;
const LONG: usize = 20_000;
/// Characters of each client's text.
const CHARS: usize = EDITS + EDITS / LONG_EVERY * (LONG - 1);
/// Less than a few changes: a reader falls behind as soon as its session's task is delayed.
const OUTBOX_BYTES: usize = 120;
/// Time limit of every wait in the test; only a failing test reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

async fn len(client: &Client) -> usize {
    let read = |txn: &yrs::Transaction<'_>| txn.get_text("text").map_or(0, |text| text.get_string(txn).len());
    client.read(read).await.unwrap()
}

async fn type_and_wait_for_all(client: &Client) {
    let mut status = client.status();
    for edit in 0..EDITS {
        let typed = "x".repeat(if edit % LONG_EVERY == 0 { LONG } else { 1 });
        let change = move |txn: &mut yrs::TransactionMut<'_>| txn.get_or_insert_text("text").insert(txn, 0, &typed);
        client.edit(change).await.unwrap();
    }
    client.wait_until_saved().await.unwrap();
    while len(client).await < CLIENTS * CHARS {
        status.changed().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_keep_falling_behind_converge_and_see_saved_status() {
    let mut config = settings();
    config.session.outbox_bytes = OUTBOX_BYTES;
    let server = start_with(&config, Arc::new(MemoryStore::new()), Arc::new(OpenToAll)).await;
    for round in 0..ROUNDS {
        let dialects = [Dialect::YWebsocket, Dialect::Hocuspocus].into_iter().cycle();
        let tasks: Vec<_> = dialects
            .take(CLIENTS)
            .map(|dialect| {
                let url = format!("ws://{}", server.address());
                let client = Client::connect(ClientConfig::new(url, format!("doc{round}"), dialect)).unwrap();
                tokio::spawn(async move {
                    let all = type_and_wait_for_all(&client);
                    tokio::time::timeout(PATIENCE, all).await.expect("all edits arrive in time");
                    len(&client).await
                })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap(), CLIENTS * CHARS, "round {round}");
        }
    }
    assert!(server.metrics().resyncs.get() > 0, "no reader fell behind: the outbox is too large for this test");
    server.stop().await.unwrap();
}
