//! Loading and unloading of documents: an unused document is unloaded when all of it is on disk, and sessions
//! that race with the unload never see two owners or lose an acknowledged edit.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use syncline_log::SledStore;
use syncline_log::memory::MemoryStore;
use syncline_protocol::sync::SyncMessage;
use syncline_server::auth::OpenToAll;
use syncline_tests::live::{Socket, settings, start_with, typed};
use yrs::updates::decoder::Decode;
use yrs::{Doc, GetString, Transact, Update};

/// Few documents, so that visitors share them; many visits, so that unloading and opening overlap.
const DOCUMENTS: usize = 4;
const VISITORS: u64 = 8;
const VISITS: u64 = 60;

fn text_of(update: &[u8]) -> String {
    let doc = Doc::new();
    let text = doc.get_or_insert_text("text");
    doc.transact_mut().apply_update(Update::decode_v1(update).unwrap()).unwrap();
    text.get_string(&doc.transact())
}

#[tokio::test]
async fn unused_document_is_unloaded_and_reloads_completely() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = settings();
    config.idle_unload = Duration::ZERO;
    let server = start_with(&config, Arc::new(SledStore::open(dir.path()).unwrap()), Arc::new(OpenToAll)).await;
    let mut socket = Socket::open(&server, "/doc").await;
    socket.join().await;
    let update = typed(1, "kept");
    socket.sync(SyncMessage::Update(&update)).await;
    assert_eq!(socket.receive_sync().await, (2, update), "it is on disk");
    drop(socket);
    while server.open_documents() > 0 {
        tokio::task::yield_now().await;
    }
    let mut again = Socket::open(&server, "/doc").await;
    assert_eq!(text_of(&again.join().await), "kept");
    drop(again);
    server.stop().await.unwrap();
}

/// Lets the server's tasks, which run on this thread, make progress until they wait.
async fn run_server_tasks() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn document_unloading_behind_the_disk_stays_open_for_a_new_session() {
    let store = Arc::new(MemoryStore::new());
    let mut config = settings();
    config.idle_unload = Duration::ZERO;
    let server = start_with(&config, store.clone(), Arc::new(OpenToAll)).await;
    let mut author = Socket::open(&server, "/doc").await;
    author.join().await;
    store.hold();
    let update = typed(1, "kept");
    author.sync(SyncMessage::Update(&update)).await;
    let waiting = store.clone();
    tokio::task::spawn_blocking(move || waiting.wait_until_held()).await.unwrap();
    drop(author);
    while server.gate().sessions() > 0 {
        tokio::task::yield_now().await;
    }
    run_server_tasks().await;
    assert_eq!(server.open_documents(), 1, "it is unloaded only when all of it is on disk");
    // A visitor opens it before the unload.
    let mut visitor = Socket::open(&server, "/doc").await;
    visitor.sync(SyncMessage::Step1(&[0])).await;
    run_server_tasks().await;
    store.release();
    assert_eq!(text_of(&visitor.join().await), "kept");
    visitor.sync(SyncMessage::Update(&typed(2, "more"))).await;
    while visitor.receive_sync().await != (2, typed(2, "more")) {}
    assert_eq!(server.open_documents(), 1, "a lease keeps it loaded");
    server.stop().await.unwrap();
}

/// One visit: joins, types a marker, waits for the acknowledgement, and drops the connection. Returns the marker.
async fn visit(server: &syncline_server::Server, document: usize, client: u64) -> String {
    let marker = format!("<{client}>");
    let mut socket = Socket::open(server, &format!("/doc{document}")).await;
    socket.join().await;
    let update = typed(client, &marker);
    socket.sync(SyncMessage::Update(&update)).await;
    while socket.receive_sync().await != (2, update.clone()) {}
    marker
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_racing_with_a_document_unload_lose_nothing() {
    let seed: u64 = std::env::var("SYNCLINE_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("SYNCLINE_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let mut config = settings();
    // Every document is unloaded as soon as it has no session.
    config.idle_unload = Duration::ZERO;
    let store = Arc::new(SledStore::open(dir.path()).unwrap());
    let server = Arc::new(start_with(&config, store, Arc::new(OpenToAll)).await);
    let visitors: Vec<_> = (0..VISITORS)
        .map(|visitor| {
            let server = Arc::clone(&server);
            let mut random = StdRng::seed_from_u64(seed ^ visitor);
            tokio::spawn(async move {
                let mut markers = vec![Vec::new(); DOCUMENTS];
                for number in 0..VISITS {
                    let document = random.random_range(0..DOCUMENTS);
                    markers[document].push(visit(&server, document, 1 + visitor * VISITS + number).await);
                }
                markers
            })
        })
        .collect();
    let mut acknowledged = vec![Vec::new(); DOCUMENTS];
    for visitor in visitors {
        for (all, mine) in acknowledged.iter_mut().zip(visitor.await.unwrap()) {
            all.extend(mine);
        }
    }
    for (document, markers) in acknowledged.iter().enumerate() {
        let mut reader = Socket::open(&server, &format!("/doc{document}")).await;
        let text = text_of(&reader.join().await);
        for marker in markers {
            assert_eq!(text.matches(marker.as_str()).count(), 1, "document {document}, {marker}, SYNCLINE_SEED={seed}");
        }
    }
    Arc::into_inner(server).unwrap().stop().await.unwrap();
}
