//! Awareness of many people in one document: what many announce together reaches each reader in few frames.
//!
//! On one thread, so that how many messages wait when the document's turn comes does not depend on the machine: all that
//! the sockets hold is read before the document runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use syncline_log::memory::MemoryStore;
use syncline_protocol::awareness::{AwarenessEntry, AwarenessUpdate, encode};
use syncline_protocol::ywebsocket::Message;
use syncline_server::Server;
use syncline_tests::live::{Incoming, Socket, start};
use tokio::sync::Barrier;

/// People. One frame for each announcement and reader would be 90,000.
const PEOPLE: u64 = 300;
/// Awareness frames that a reader may receive for all announcements together: one for each of them if nothing were coalesced.
const MAX_FRAMES_PER_READER: u64 = PEOPLE / 20;

/// What one reader received: frames, and the newest clock and state of each client.
struct Received {
    frames: u64,
    states: BTreeMap<u64, (u64, String)>,
}

impl Received {
    async fn until(&mut self, socket: &mut Socket, wanted: impl Fn(&BTreeMap<u64, (u64, String)>) -> bool) {
        while !wanted(&self.states) {
            let Incoming::Frame(frame) = socket.receive().await else { panic!("the session ended") };
            let Ok(Message::Awareness(update)) = Message::decode(&frame) else { continue };
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
    socket.send(Message::Awareness(&update).encode()).await;
}

/// One person: joins, announces a state when all have joined, and leaves when it has the state of everybody.
async fn person(server: Arc<Server>, client: u64, all_joined: Arc<Barrier>, all_complete: Arc<Barrier>) -> u64 {
    let mut socket = Socket::open(&server, "/room").await;
    socket.join().await;
    all_joined.wait().await;
    announce(&mut socket, client, 1, &format!("{{\"name\":\"person {client}\"}}")).await;
    let mut received = Received { frames: 0, states: BTreeMap::new() };
    received.until(&mut socket, |states| states.len() as u64 == PEOPLE).await;
    all_complete.wait().await;
    received.frames
}

#[tokio::test]
async fn awareness_sent_together_reaches_each_reader_in_few_frames() {
    let server = Arc::new(start(Arc::new(MemoryStore::new())).await);
    let barriers = [0; 2].map(|_| Arc::new(Barrier::new(PEOPLE as usize)));
    let people = (0..PEOPLE).map(|client| {
        let [all_joined, all_complete] = barriers.clone();
        tokio::spawn(person(Arc::clone(&server), client, all_joined, all_complete))
    });
    let frames: u64 = join_all(people).await.into_iter().map(Result::unwrap).sum();
    println!("{frames} awareness frames for {PEOPLE} readers");
    assert!(frames <= PEOPLE * MAX_FRAMES_PER_READER, "{frames} awareness frames for {PEOPLE} readers");
    assert!(frames >= PEOPLE, "each received something");
}

#[tokio::test]
async fn clients_that_leave_together_are_removed_in_few_frames() {
    let server = Arc::new(start(Arc::new(MemoryStore::new())).await);
    let mut stays = Socket::open(&server, "/room").await;
    stays.join().await;
    let people = (1..PEOPLE).map(|client| {
        let server = Arc::clone(&server);
        async move {
            let mut socket = Socket::open(&server, "/room").await;
            socket.join().await;
            announce(&mut socket, client, 1, "{}").await;
            socket
        }
    });
    let sockets = join_all(people).await;
    let mut received = Received { frames: 0, states: BTreeMap::new() };
    received.until(&mut stays, |states| states.len() as u64 == PEOPLE - 1).await;
    received.frames = 0;
    drop(sockets);
    received.until(&mut stays, |states| states.values().all(|(_, state)| state == "null")).await;
    println!("{} frames for {} who left", received.frames, PEOPLE - 1);
    assert!(received.frames <= MAX_FRAMES_PER_READER, "{} frames for {} who left", received.frames, PEOPLE - 1);
}
