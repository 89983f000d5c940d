//! Valid updates that would make a document too large are refused with a reason; updates that would be expensive
//! for a tree are accepted without delay.

use std::sync::Arc;

use bytes::Bytes;
use syncline_log::memory::MemoryStore;
use syncline_protocol::hocuspocus::HocuspocusMessage;
use syncline_protocol::native::ToServer;
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::ywebsocket::YWebsocketMessage;
use syncline_replica::{HubDocument, HubLimits, WeighOutcome};
use syncline_server::Server;
use syncline_server::auth::OpenToAll;
use syncline_server::config::Limits;
use syncline_tests::hostile_updates::{by_turns, holes, letters, line, passing, spread};
use syncline_tests::live::{self, Socket, settings, start, start_with, typed};
use syncline_tests::native_client::{Native, ServerMessage};

async fn limited(change: impl FnOnce(&mut Limits)) -> Server {
    let mut config = settings();
    change(&mut config.limits);
    start_with(&config, Arc::new(MemoryStore::new()), Arc::new(OpenToAll)).await
}

/// An update that deletes the first `count` letters of `client`.
fn deletion(client: u8, count: u8) -> Vec<u8> {
    vec![0, 1, client, 1, 0, count]
}

#[tokio::test]
async fn full_document_allows_reads_and_deletions_but_no_insertions() {
    let server = limited(|limits| limits.document_bytes = 200).await;
    let mut writer = Socket::open(&server, "/doc").await;
    writer.join().await;
    let text = line(7, 100);
    writer.sync(SyncMessage::Update(&text)).await;
    assert_eq!(writer.receive_sync().await, (2, text));
    // y-websocket has no message for a refusal, so the session closes.
    writer.sync(SyncMessage::Update(&line(8, 100))).await;
    let (code, reason) = writer.receive_close().await;
    assert_eq!((code, reason.contains("size limit")), (4414, true), "{reason}");
    // Hocuspocus and native refuse the single update.
    let mut hocuspocus = Socket::open(&server, "/").await;
    hocuspocus.send_to("doc", HocuspocusMessage::Token { token: "", version: None }).await;
    hocuspocus.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&line(9, 100)))).await;
    hocuspocus.receive_until(|_, message| matches!(message, HocuspocusMessage::SyncStatus(false))).await;
    let mut native = Native::connect(&server).await;
    native.join(1, "doc").await;
    native.send(ToServer::Change { channel: 1, batch: 1, update: &line(10, 100) }).await;
    native.receive_until(|message| matches!(message, ServerMessage::Refused { batch: 1, code: 4414, .. })).await;
    // A full document can be read, and deleting makes room again.
    let mut reader = Socket::open(&server, "/doc").await;
    assert!(reader.join().await.len() > 100);
    reader.sync(SyncMessage::Update(&deletion(7, 90))).await;
    assert_eq!(reader.receive_sync().await, (2, deletion(7, 90)));
    let more = line(11, 60);
    reader.sync(SyncMessage::Update(&more)).await;
    assert_eq!(reader.receive_sync().await, (2, more));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn document_limits_the_number_of_client_ids() {
    let server = limited(|limits| limits.document_clients = 10).await;
    let mut writer = Socket::open(&server, "/doc").await;
    writer.join().await;
    for client in 1..=10 {
        writer.sync(SyncMessage::Update(&typed(client, "x"))).await;
        assert_eq!(writer.receive_sync().await.0, 2);
    }
    writer.sync(SyncMessage::Update(&typed(11, "x"))).await;
    let (code, reason) = writer.receive_close().await;
    assert_eq!((code, reason.contains("limit on clients")), (4414, true), "{reason}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn applications_may_choose_client_ids_by_any_scheme() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut writer = Socket::open(&server, "/doc").await;
    writer.join().await;
    for client in 0..1_000u64 {
        // The ids differ only in their upper bits.
        let update = letters(&[(client << 21, 0, None, None)]);
        writer.sync(SyncMessage::Update(&update)).await;
        assert_eq!(writer.receive_sync().await, (2, update));
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn awareness_of_one_connection_is_bounded() {
    let server = limited(|limits| limits.presence_bytes = 100_000).await;
    let mut healthy = Socket::open(&server, "/doc").await;
    healthy.join().await;
    let mut greedy = Socket::open(&server, "/doc").await;
    greedy.join().await;
    let state = format!("\"{}\"", "x".repeat(40_000));
    let awareness = |client: u64, clock: u64, state: &str| {
        let entry = syncline_protocol::awareness::AwarenessEntry { client, clock, state };
        let update = syncline_protocol::awareness::encode([entry].into_iter());
        YWebsocketMessage::Awareness(&update).encode()
    };
    for client in 0..3u64 {
        greedy.send(awareness(client, 1, &state)).await;
    }
    // A state that grows over the limit is removed for the others, and returns when it is small again.
    greedy.send(awareness(1, 2, &format!("\"{}\"", "y".repeat(70_000)))).await;
    greedy.send(awareness(1, 3, "\"small\"")).await;
    let update = typed(10, "x");
    greedy.sync(SyncMessage::Update(&update)).await;
    let mut shown = Vec::new();
    let mut is_delivered = false;
    while !is_delivered || shown.last() != Some(&(1, 3, 7)) {
        let live::Incoming::Frame(frame) = healthy.receive().await else { panic!("closed") };
        match YWebsocketMessage::decode(&frame).unwrap() {
            YWebsocketMessage::Awareness(update) => {
                let update = syncline_protocol::awareness::AwarenessUpdate::scan(update, &Default::default()).unwrap();
                shown.extend(update.iter().map(|entry| (entry.client, entry.clock, entry.state.len())));
            }
            YWebsocketMessage::Sync(SyncMessage::Update(sent)) => {
                assert_eq!(sent, update, "the update is delivered");
                is_delivered = true;
            }
            _ => {}
        }
    }
    let last = |client: u64| shown.iter().rev().find(|(of, ..)| *of == client).copied();
    assert_eq!(last(0), Some((0, 1, 40_002)));
    assert_eq!(last(1), Some((1, 3, 7)), "the latest of {shown:?}");
    assert_eq!(last(2), None, "the state is over the connection's limit");
    assert!(server.metrics().awareness_dropped.get() >= 2);
    server.stop().await.unwrap();
}

/// 10,000 letters in one gap (60 KB) take a tree 27 s; 300 letters that scan a large document take about as long,
/// and so do 100,000 deletions that split a long text.
#[tokio::test]
async fn updates_expensive_for_a_tree_are_accepted_by_the_hub() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut writer = Socket::open(&server, "/doc").await;
    writer.join().await;
    let updates =
        [line(7, 20_000), spread(8, 0, 10_000, 7), by_turns((1, 2), 60_000), passing(9, 300, 1), holes(7, 10_000)];
    for update in updates {
        writer.sync(SyncMessage::Update(&update)).await;
        assert_eq!(writer.receive_sync().await, (2, update));
    }
    server.stop().await.unwrap();
}

/// A thousand updates arrive in reverse order. Each is indexed by the dependency it is missing, so releasing them
/// visits none twice.
#[test]
fn pending_updates_in_reverse_order_are_released_in_one_pass() {
    let mut document = HubDocument::default();
    document.take(&line(1, 9).into()).unwrap();
    document.limit(HubLimits::default());
    let letter = |number: u64| {
        let left = if number == 0 { (1, 0) } else { (9, number - 1) };
        Bytes::from(letters(&[(9, number, Some(left), None)]))
    };
    for number in (1..1_000).rev() {
        assert_eq!(document.take(&letter(number)), Ok(WeighOutcome::Pending));
        assert_eq!(document.take(&letter(number)), Ok(WeighOutcome::Known), "it is already pending");
    }
    assert_eq!(document.take(&letter(0)), Ok(WeighOutcome::Changed));
    assert_eq!(document.pending().len(), 0);
    let released: Vec<Bytes> = document.take_released().into_iter().map(|released| released.update).collect();
    let expected: Vec<Bytes> = (1..1_000).map(letter).collect();
    assert_eq!(released, expected, "in the order in which they become applicable");
}
