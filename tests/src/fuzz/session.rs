//! The fuzz target of a session's state machine: two hostile clients send what the input contains, valid or not, in any
//! dialect and any order, over in-memory sockets to real sessions. The input also advances the disk and the clock.
//!
//! Whatever the clients do: every message of the server can be decoded, nothing is acknowledged before it is
//! committed, a healthy client of the same document stays connected and its edit is saved, every session ends,
//! and every document is unloaded and can be loaded again.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use syncline_log::memory::MemoryStore;
use syncline_log::{Committer, Log, Store};
use syncline_protocol::hocuspocus::{self, End, HocuspocusMessage};
use syncline_protocol::ids::{DocumentName, Seq};
use syncline_protocol::native::{Proposal, ToClient, ToServer, VERSION};
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::ywebsocket::YWebsocketMessage;
use syncline_replica::HubDocument;
use syncline_server::Metrics;
use syncline_server::auth::{Handshake, OpenToAll};
use syncline_server::config::{RawLimits, SessionLimits};
use syncline_server::internals::{
    Budget, Compaction, Context, DocumentOptions, Draw, Gate, Peer, Registry, SessionId, run_session,
};
use tokio::io::AsyncWriteExt;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use super::pipe::{ClientEnd, connection};
use super::targets::pieces;

/// Longer than every timeout of a session.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// Disk commits after which no work may be pending.
const ROUNDS: usize = 200;
/// The healthy client's edit: client 0x1d5a0f3c2b71 types "h".
const HEALTHY_EDIT: [u8; 20] =
    [1, 1, 0xf1, 0xd6, 0xf0, 0xf9, 0xa0, 0xab, 0x07, 0, 4, 1, 4, b't', b'e', b'x', b't', 1, b'h', 0];

struct Client {
    socket: ClientEnd,
    session: JoinHandle<()>,
    unread: Vec<u8>,
}

struct World {
    runtime: Runtime,
    context: Arc<Context>,
    committer: Committer,
    store: Arc<MemoryStore>,
    sessions: u64,
}

/// Runs the steps encoded in the input.
pub(super) fn session(bytes: &[u8]) {
    let mut world = World::new();
    let mut healthy = world.connect();
    world.send(&mut healthy, &binary(&sync(SyncMessage::Step1(&[0]))));
    let mut hostile = [Some(world.connect()), Some(world.connect())];
    for (kind, payload) in pieces(bytes) {
        let client = &mut hostile[usize::from(kind >> 7)];
        match kind & 0x1f {
            25 => *client = None,
            26 => *client = Some(world.connect()),
            27 | 28 => _ = world.commit(),
            29 => world.advance(Duration::from_millis(1)),
            30 => world.advance(Duration::from_secs(10)),
            31 => world.settle(),
            kind => {
                if let (Some(client), Some(bytes)) = (client, client_bytes(kind, &payload)) {
                    world.send(client, &bytes);
                }
            }
        }
        for client in hostile.iter_mut().flatten() {
            world.receive(client);
        }
        world.receive(&mut healthy);
    }
    world.settle();
    world.receive(&mut healthy);
    // The second edit arrives while the first is being committed: the first commit must not acknowledge the
    // second edit.
    let mut first_edit = HEALTHY_EDIT;
    first_edit[2] += 1;
    world.send(&mut healthy, &binary(&sync(SyncMessage::Update(&first_edit))));
    world.advance(Duration::from_millis(1));
    let batch = world.committer.take().expect("the first edit is queued");
    world.send(&mut healthy, &binary(&sync(SyncMessage::Update(&HEALTHY_EDIT))));
    world.advance(Duration::from_millis(1));
    world.committer.commit(batch).report();
    world.advance(Duration::from_millis(1));
    assert!(!world.receive(&mut healthy), "the healthy client's edit is acknowledged before it is saved");
    world.settle();
    assert!(world.receive(&mut healthy), "the healthy client's edit is not acknowledged");
    drop(hostile);
    world.end(healthy);
}

impl World {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let store = Arc::new(MemoryStore::new());
        let (log, committer) = Log::with_committer(Arc::clone(&store) as Arc<dyn Store>);
        let metrics = Arc::new(Metrics::default());
        let compaction = Compaction { records: 5, bytes: 2_000, idle_records: 2 };
        let quiet = Duration::from_millis(5);
        let draw = Draw::by(|| 7);
        let options = DocumentOptions { quiet, compaction, draw, ..DocumentOptions::new(Duration::from_millis(5)) };
        let raw = RawLimits { messages_per_second: Some(0), bytes_per_second: Some(0), ..RawLimits::default() };
        let registry = Registry::new(log, options, Arc::clone(&metrics));
        let limits = SessionLimits { outbox_bytes: 2_000, message_bytes: 5_000, documents: 3, ..Default::default() };
        let gate = Gate::new(raw.into(), metrics);
        let context = Context::new(registry, Arc::new(OpenToAll), gate, limits, Budget::new(4_000));
        Self { runtime, context, committer, store, sessions: 0 }
    }

    fn connect(&mut self) -> Client {
        let (socket, server_end) = connection();
        self.sessions += 1;
        let handshake = Handshake::new("doc", (Ipv4Addr::LOCALHOST, 0).into());
        let peer = Peer { id: SessionId(self.sessions), handshake, user: None, unfinished: None };
        let session = run_session(server_end, Bytes::new(), peer, Arc::clone(&self.context));
        Client { socket, session: self.runtime.spawn(session), unread: Vec::new() }
    }

    /// Writes `bytes` for at most 1 ms: a session that no longer reads takes only a part of them.
    fn send(&self, client: &mut Client, bytes: &[u8]) {
        let write = client.socket.write.write_all(bytes);
        drop(self.runtime.block_on(async { tokio::time::timeout(Duration::from_millis(1), write).await }));
    }

    /// Reads all frames that have arrived. Returns whether a y-websocket echo of the healthy edit was among them.
    fn receive(&self, client: &mut Client) -> bool {
        let mut has_echo = false;
        self.advance(Duration::from_millis(1));
        client.unread.extend(client.socket.take());
        while let Some((opcode, payload)) = server_frame(&mut client.unread) {
            if opcode == 2 {
                has_echo |= self.check_message(&payload);
            } else {
                assert!([8, 9, 10].contains(&opcode) && payload.len() <= 125, "opcode {opcode}");
            }
        }
        has_echo
    }

    /// Checks that the message is valid in a dialect, and that an acknowledged native sequence number is on the disk.
    /// Returns whether it is the y-websocket echo of the healthy edit.
    fn check_message(&self, payload: &[u8]) -> bool {
        if let Ok(YWebsocketMessage::Sync(SyncMessage::Update(update))) = YWebsocketMessage::decode(payload)
            && update == HEALTHY_EDIT
        {
            return true;
        }
        match ToClient::decode(payload) {
            Ok(ToClient::Ack { seq, .. } | ToClient::Durable { seq, .. }) => {
                let documents = self.store.list().expect("a list");
                let last = documents.iter().filter_map(|name| self.store.load(name).ok().flatten());
                let last = last.map(|stored| stored.last()).max().unwrap_or(Seq::ZERO);
                // The same bytes may be a message of another dialect, without a sequence number.
                let is_other = YWebsocketMessage::decode(payload).is_ok()
                    || hocuspocus::Frame::decode(payload, End::Client).is_ok();
                assert!(is_other || seq <= last, "acknowledged too early: {seq:?}, on disk: {last:?}");
            }
            Ok(_) => {}
            Err(_) => {
                let is_other = YWebsocketMessage::decode(payload).is_ok()
                    || hocuspocus::Frame::decode(payload, End::Client).is_ok();
                assert!(is_other, "not a message of any dialect: {payload:?}");
            }
        }
        false
    }

    fn advance(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    /// Commits the queued batch. Returns false if nothing is queued.
    fn commit(&mut self) -> bool {
        let Some(batch) = self.committer.take() else { return false };
        self.committer.commit(batch).report();
        true
    }

    /// Lets the sessions and the disk finish all pending work.
    fn settle(&mut self) {
        for _ in 0..ROUNDS {
            self.advance(Duration::from_millis(1));
            if !self.commit() {
                return;
            }
        }
        panic!("the commits never end");
    }

    fn end(mut self, healthy: Client) {
        assert!(!healthy.session.is_finished(), "the healthy session ended early");
        drop(healthy.socket);
        for _ in 0..ROUNDS {
            self.settle();
            self.advance(LONGEST_WAIT / ROUNDS as u32);
            if self.context.services.registry.is_empty() && self.context.services.gate.sessions() == 0 {
                break;
            }
        }
        assert_eq!(self.context.services.gate.sessions(), 0, "a session does not end");
        assert!(self.context.services.registry.is_empty(), "a document is not unloaded");
        self.runtime.block_on(healthy.session).expect("the session did not panic");
        for name in self.store.list().expect("a list") {
            let stored = self.store.load(&name).expect("a document").expect("one that is listed");
            let snapshot = stored.snapshot.into_iter().map(|snapshot| snapshot.update);
            let updates: Vec<_> = snapshot.chain(stored.records.into_iter().map(|record| record.update)).collect();
            let loaded = HubDocument::load(0, &updates).expect("what is stored can be loaded");
            if name == DocumentName::parse("doc").expect("a name") {
                let state = loaded.encode();
                assert!(state.windows(7).any(|window| window == &HEALTHY_EDIT[2..9]), "the healthy edit is lost");
            }
        }
    }
}

fn sync(message: SyncMessage<'_>) -> Vec<u8> {
    YWebsocketMessage::Sync(message).encode()
}

fn binary(payload: &[u8]) -> Vec<u8> {
    frame(0x82, payload)
}

/// Encodes a frame of a client, masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | len as u8),
        len => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// Removes one complete server frame from `bytes` and returns its opcode and payload.
fn server_frame(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert!(first & 0xf0 == 0x80 && second & 0x80 == 0, "not a frame of a server: {first:x} {second:x}");
    let (head, len) = match second {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        len => (2, usize::from(len)),
    };
    if bytes.len() < head + len {
        return None;
    }
    let payload = bytes[head..head + len].to_vec();
    bytes.drain(..head + len);
    Some((first & 0xf, payload))
}

/// The bytes that a hostile client sends for one piece of the input.
fn client_bytes(kind: u8, payload: &[u8]) -> Option<Vec<u8>> {
    let channel = payload.first().map_or(0, |first| u64::from(first & 3));
    let hocuspocus = |message: HocuspocusMessage<'_>| binary(&message.encode("doc"));
    let text = String::from_utf8_lossy(&payload[..payload.len().min(100)]);
    let native = |message: ToServer<'_>| binary(&message.encode());
    Some(match kind {
        0 => payload.to_vec(),
        1 => binary(payload),
        2 => binary(&sync(SyncMessage::Step1(payload))),
        3 => binary(&sync(SyncMessage::Step2(payload))),
        4 => binary(&sync(SyncMessage::Update(payload))),
        5 => binary(&YWebsocketMessage::Awareness(payload).encode()),
        6 => binary(&YWebsocketMessage::QueryAwareness.encode()),
        7 => hocuspocus(HocuspocusMessage::Token { token: &text, version: None }),
        8 => hocuspocus(HocuspocusMessage::Sync(SyncMessage::Update(payload))),
        9 => hocuspocus(HocuspocusMessage::Sync(SyncMessage::Step1(payload))),
        10 => hocuspocus(HocuspocusMessage::Awareness(payload)),
        11 => hocuspocus(HocuspocusMessage::Close(&text)),
        12 => binary(&HocuspocusMessage::Token { token: "", version: None }.encode(&text)),
        13 => native(ToServer::Hello { version: VERSION, device: 7 }),
        14 => {
            let (document, cursor) = (if channel == 3 { &*text } else { "doc" }, None);
            native(ToServer::Open {
                channel,
                document,
                token: "",
                cursor,
                wants_state_vector: channel.is_multiple_of(2),
            })
        }
        15 => native(ToServer::Change { channel: 0, batch: 1, update: payload }),
        16 => {
            let proposal = Proposal { register: "r", id: 9, based_on: None, author: "a", at_ms: 1, value: payload };
            native(ToServer::Propose { channel: 0, batch: 1, proposal })
        }
        17 => native(ToServer::StateVector { channel: 0, state_vector: payload }),
        18 => native(ToServer::Leave { channel }),
        19 => native(ToServer::Presence { channel: 0, update: payload }),
        20 => native(ToServer::Ping),
        21 => frame(0x89, &payload[..payload.len().min(125)]),
        22 => frame(0x88, &payload[..payload.len().min(125)]),
        23 => frame(0x02, payload),
        24 => frame(0x80, payload),
        _ => return None,
    })
}
