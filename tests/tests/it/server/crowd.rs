//! Awareness of many clients in one document: states sent at the same time are coalesced into few frames for each
//! reader.
//!
//! The tests run on one thread, so the number of queued messages does not depend on the machine: all sockets are
//! read before the document's task runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use syncline_log::memory::MemoryStore;
use syncline_protocol::awareness::{AwarenessEntry, AwarenessUpdate, encode};
use syncline_protocol::ywebsocket::YWebsocketMessage;
use syncline_server::Server;
use syncline_tests::live::{Incoming, Socket, start};
use tokio::sync::Barrier;

/// Number of clients. One frame for each state and reader would be 90,000.
const CLIENTS: u64 = 300;
/// Upper bound of awareness frames for one reader. Without coalescing it would be one for each state.
const MAX_FRAMES_PER_READER: u64 = CLIENTS / 20;

/// What one reader received: the number of frames, and the latest clock and state of each client.
struct ReceivedAwareness {
    frames: u64,
    states: BTreeMap<u64, (u64, String)>,
}

impl ReceivedAwareness {
    async fn until(&mut self, socket: &mut Socket, wanted: impl Fn(&BTreeMap<u64, (u64, String)>) -> bool) {
        while !wanted(&self.states) {
            let Incoming::Frame(frame) = socket.receive().await else { panic!("the session ended") };
            let Ok(YWebsocketMessage::Awareness(update)) = YWebsocketMessage::decode(&frame) else { continue };
            let update = AwarenessUpdate::scan(update, &Default::default()).unwrap();
            self.frames += u64::from(!update.is_empty());
            for AwarenessEntry { client, clock, state } in update.iter() {
                self.states.insert(client, (clock, state.to_owned()));
            }
        }
    }
}

async fn announce(socket: &mut Socket, client: u64, clock: u64, state: &str) {
    let update = encode([AwarenessEntry { client, clock, state }].into_iter());
    socket.send(YWebsocketMessage::Awareness(&update).encode()).await;
}

/// One client: joins, announces a state when all have joined, and leaves when it has the states of all. Returns
/// the number of awareness frames it received.
async fn run_client(server: Arc<Server>, client: u64, all_joined: Arc<Barrier>, all_complete: Arc<Barrier>) -> u64 {
    let mut socket = Socket::open(&server, "/room").await;
    socket.join().await;
    all_joined.wait().await;
    announce(&mut socket, client, 1, &format!("{{\"name\":\"client {client}\"}}")).await;
    let mut received = ReceivedAwareness { frames: 0, states: BTreeMap::new() };
    received.until(&mut socket, |states| states.len() as u64 == CLIENTS).await;
    all_complete.wait().await;
    received.frames
}

#[tokio::test]
async fn awareness_sent_together_reaches_each_reader_in_few_frames() {
    let server = Arc::new(start(Arc::new(MemoryStore::new())).await);
    let barriers = [0; 2].map(|_| Arc::new(Barrier::new(CLIENTS as usize)));
    let clients = (0..CLIENTS).map(|client| {
        let [all_joined, all_complete] = barriers.clone();
        tokio::spawn(run_client(Arc::clone(&server), client, all_joined, all_complete))
    });
    let frames: u64 = join_all(clients).await.into_iter().map(Result::unwrap).sum();
    println!("{frames} awareness frames for {CLIENTS} readers");
    assert!(frames <= CLIENTS * MAX_FRAMES_PER_READER, "{frames} awareness frames for {CLIENTS} readers");
    assert!(frames >= CLIENTS, "each reader received a frame");
}

#[tokio::test]
async fn clients_that_leave_together_are_removed_in_few_frames() {
    let server = Arc::new(start(Arc::new(MemoryStore::new())).await);
    let mut reader = Socket::open(&server, "/room").await;
    reader.join().await;
    let clients = (1..CLIENTS).map(|client| {
        let server = Arc::clone(&server);
        async move {
            let mut socket = Socket::open(&server, "/room").await;
            socket.join().await;
            announce(&mut socket, client, 1, "{}").await;
            socket
        }
    });
    let sockets = join_all(clients).await;
    let mut received = ReceivedAwareness { frames: 0, states: BTreeMap::new() };
    received.until(&mut reader, |states| states.len() as u64 == CLIENTS - 1).await;
    received.frames = 0;
    drop(sockets);
    received.until(&mut reader, |states| states.values().all(|(_, state)| state == "null")).await;
    println!("{} frames for {} that left", received.frames, CLIENTS - 1);
    assert!(received.frames <= MAX_FRAMES_PER_READER, "{} frames for {} that left", received.frames, CLIENTS - 1);
}
