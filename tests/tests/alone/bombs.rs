//! Frames that claim or nest far more than they contain, sent beside a healthy client: each ends its own session, no other client
//! is delayed, and the memory of the process (server and clients together) does not grow.

use std::sync::Arc;
use std::time::{Duration, Instant};

use syncline_log::memory::MemoryStore;
use syncline_log::store::Store;
use syncline_protocol::ids::DocumentName;
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::varint::{write_var_bytes, write_var_uint};
use syncline_tests::live::{Socket, start, typed};
use syncline_tests::process::{alone, memory_bytes};
use tokio::runtime::Builder;

/// Memory by which this process (server and clients together) may grow while the same hostile messages are repeated.
const MAX_GROWTH_BYTES: usize = 4 * 1024 * 1024;

/// The bytes as a y-websocket update frame, without validation.
fn raw_update(update: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 2];
    write_var_bytes(&mut frame, update);
    frame
}

/// One struct: an item in the root map "m" under key "k" whose content is arrays nested `depth` deep.
fn nested_any(depth: usize) -> Vec<u8> {
    let mut update = vec![1, 1, 1, 0, 0x28, 1, 1, b'm', 1, b'k', 1];
    update.extend(std::iter::repeat_n([117, 1], depth).flatten());
    update.extend([126, 0]);
    update
}

fn empty_sections(clients: u64) -> Vec<u8> {
    let mut update = Vec::new();
    write_var_uint(&mut update, clients);
    for client in 0..clients {
        write_var_uint(&mut update, 0);
        write_var_uint(&mut update, client + 1);
        write_var_uint(&mut update, 0);
    }
    update.push(0);
    update
}

fn state_vector_of(clients: &[u64]) -> Vec<u8> {
    let mut state_vector = Vec::new();
    write_var_uint(&mut state_vector, clients.len() as u64);
    for &client in clients {
        write_var_uint(&mut state_vector, client);
        write_var_uint(&mut state_vector, 1);
    }
    state_vector
}

fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let mut step1_bomb = vec![0, 0];
    write_var_bytes(&mut step1_bomb, &[0xff, 0xff, 0xff, 0x7f]);
    let mut many_entries = vec![0, 0];
    write_var_bytes(&mut many_entries, &state_vector_of(&(0..1_000_000).collect::<Vec<_>>()));
    vec![
        ("a length beyond the frame", vec![0, 2, 200, 1]),
        ("an update of four bytes that claims 268 million clients", raw_update(&[0xff, 0xff, 0xff, 0x7f])),
        ("a state vector that claims 268 million clients", step1_bomb),
        ("values nested 8,000 deep", raw_update(&nested_any(8_000))),
        ("values nested 100,000 deep", raw_update(&nested_any(100_000))),
        ("100,000 empty client sections", raw_update(&empty_sections(100_000))),
        ("1,000,000 client sections", raw_update(&empty_sections(1_000_000))),
        ("a state vector of 1,000,000 clients", many_entries),
        (
            "an id next to the largest clock",
            raw_update(&[
                0x01, 0x01, 0xb1, 0x02, 0xff, 0xff, 0xff, 0xff, 0x0f, 0xc4, 0x0a, 0x03, 0x0a, 0x0f, 0x01, 0x61, 0x00,
            ]),
        ),
    ]
}

#[test]
fn bombs_end_only_their_own_session() {
    let _alone = alone();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(bombs_beside_a_healthy_session());
}

async fn bombs_beside_a_healthy_session() {
    let store = Arc::new(MemoryStore::new());
    let server = start(store.clone()).await;
    let mut healthy = Socket::open(&server, "/doc").await;
    healthy.join().await;
    let mut texts = 0;
    let mut resident = Vec::new();
    // The first round fills the allocator's pools, mostly with messages that the clients build here.
    for _ in 0..3 {
        for (what, bomb) in bombs() {
            texts += 1;
            survive(&server, &mut healthy, what, bomb, typed(1_000 + texts, "x")).await;
        }
        resident.push(memory_bytes("VmRSS"));
    }
    let growth = resident[2].saturating_sub(resident[0]);
    assert!(growth < MAX_GROWTH_BYTES, "grew by {growth} bytes: {resident:?}");
    server.stop().await.unwrap();
    let stored = store.load(&DocumentName::parse("doc").unwrap()).unwrap().unwrap();
    assert_eq!(stored.last().0, texts, "only the updates of the healthy client are stored");
}

/// Sends `bomb` in a session of its own while the healthy client sends `update` and waits for the echo.
async fn survive(server: &syncline_server::Server, healthy: &mut Socket, what: &str, bomb: Vec<u8>, update: Vec<u8>) {
    let mut bad = Socket::open(server, "/doc").await;
    bad.sync(SyncMessage::Step1(&[0])).await;
    bad.send(bomb).await;
    let began = Instant::now();
    healthy.sync(SyncMessage::Update(&update)).await;
    assert_eq!(healthy.receive_sync().await, (2, update), "{what}: the healthy client gets its echo");
    assert!(began.elapsed() < Duration::from_secs(2), "{what}: the healthy client waited {:?}", began.elapsed());
    let (code, reason) = bad.receive_close().await;
    assert_eq!(code, 4400, "{what}: {reason}");
    assert!(!reason.is_empty(), "{what}");
}
