//! Queued changes are merged for their readers: every reader converges, and no author receives its own change
//! before it is on disk. The tests print their seed; `SYNCLINE_SEED=<seed>` replays the same edits.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use syncline_log::memory::MemoryStore;
use syncline_protocol::hocuspocus::{End, Frame, HocuspocusMessage};
use syncline_protocol::native::{ToClient, ToServer, VERSION};
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::update::{Merged, ScanLimits, Updates, scan_update, update_ranges};
use syncline_protocol::ywebsocket::YWebsocketMessage;
use syncline_tests::live::{Incoming, Socket, start};
use yrs::updates::decoder::Decode;
use yrs::{Array, Doc, GetString, Map, ReadTxn, StateVector, Text, Transact, Update};

const RUNS: usize = 40;
const CLIENTS: u64 = 4;
const EDITS: usize = 60;

fn seeds(runs: usize) -> Vec<u64> {
    match std::env::var("SYNCLINE_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..runs).map(|_| rand::random()).collect(),
    }
}

fn apply(doc: &Doc, update: &[u8]) {
    doc.transact_mut().apply_update(Update::decode_v1(update).unwrap()).unwrap();
}

fn state(doc: &Doc) -> String {
    let (text, map, list) =
        (doc.get_or_insert_text("text"), doc.get_or_insert_map("map"), doc.get_or_insert_array("list"));
    let txn = doc.transact();
    let mut entries: Vec<_> = map.iter(&txn).map(|(key, value)| format!("{key}={}", value.to_string(&txn))).collect();
    entries.sort();
    let list: Vec<_> = list.iter(&txn).map(|value| value.to_string(&txn)).collect();
    format!("{} {entries:?} {list:?}", text.get_string(&txn))
}

/// Makes one transaction of one to three random steps and returns its update.
fn edit(doc: &Doc, random: &mut StdRng) -> Vec<u8> {
    let (text, map, list) =
        (doc.get_or_insert_text("text"), doc.get_or_insert_map("map"), doc.get_or_insert_array("list"));
    let mut txn = doc.transact_mut();
    for _ in 0..random.random_range(1..4) {
        let len = text.len(&txn);
        match random.random_range(0..10) {
            0..=4 => {
                let at = if random.random_bool(0.6) { len } else { random.random_range(0..=len) };
                text.insert(&mut txn, at, ["a", "bc", "xyz", "d e"][random.random_range(0..4)]);
            }
            5 | 6 if len > 0 => {
                let at = random.random_range(0..len);
                text.remove_range(&mut txn, at, random.random_range(1..=(len - at).min(4)));
            }
            7 => {
                let key = ["x", "y"][random.random_range(0..2)];
                map.insert(&mut txn, key, random.random_range(0..100));
            }
            8 if list.len(&txn) > 0 => {
                let at = random.random_range(0..list.len(&txn));
                list.remove(&mut txn, at);
            }
            _ => {
                let at = random.random_range(0..=list.len(&txn));
                list.insert(&mut txn, at, i64::from(random.random_range(0..100)));
            }
        }
    }
    txn.encode_update_v1()
}

/// Random updates of several clients in the order in which a server accepts them. Each author has seen some or
/// all of the earlier ones.
fn history(random: &mut StdRng) -> Vec<(u64, Vec<u8>)> {
    let clients: Vec<_> = (0..CLIENTS).map(|client| (Doc::with_client_id(client * 1_000 + 7), 0)).collect();
    let mut seen: Vec<usize> = clients.iter().map(|(_, seen)| *seen).collect();
    let mut history: Vec<(u64, Vec<u8>)> = Vec::new();
    while history.len() < EDITS {
        let client = random.random_range(0..CLIENTS);
        let doc = &clients[client as usize].0;
        let seen = &mut seen[client as usize];
        let upto = random.random_range(*seen..=history.len());
        history[*seen..upto].iter().filter(|(author, _)| *author != client).for_each(|(_, update)| apply(doc, update));
        *seen = upto;
        let update = edit(doc, random);
        if update != [0, 0] {
            history.push((client, update));
        }
    }
    history
}

#[test]
fn merged_update_holds_its_inputs_and_passes_the_scanner() {
    for seed in seeds(RUNS) {
        println!("SYNCLINE_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let history = history(&mut random);
        let (plain, merged) = (Doc::with_client_id(1), Doc::with_client_id(2));
        // A reader that is one of the authors receives only the updates of the others.
        let author = random.random_range(0..CLIENTS);
        let of_author = Doc::with_client_id(3);
        let mut at = 0;
        let mut joined = 0;
        while at < history.len() {
            let upto = (at + random.random_range(1..20)).min(history.len());
            let batch = &history[at..upto];
            let updates = Updates::new(batch.iter().map(|(_, update)| &update[..]));
            let bytes = |merged: &Merged| match merged {
                Merged::Single(number) => batch[*number].1.clone(),
                Merged::Joined { update, .. } => update.clone(),
            };
            batch.iter().for_each(|(_, update)| apply(&plain, update));
            let all = updates.merge(|_| true);
            assert_eq!(count(&all), batch.len());
            joined += batch.len() - all.len();
            for update in all.iter().map(bytes) {
                scan_update(&update, &ScanLimits::default()).unwrap();
                apply(&merged, &update);
                assert!(!merged.transact().has_missing_updates(), "SYNCLINE_SEED={seed}");
            }
            batch.iter().filter(|(of, _)| *of == author).for_each(|(_, update)| apply(&of_author, update));
            let others = updates.merge(|number| batch[number].0 != author);
            for update in others.iter().map(bytes) {
                assert!(update_ranges(&update).all(|range| range.client != author * 1_000 + 7));
                apply(&of_author, &update);
            }
            // With gaps: the merged update must not cover the clocks that are left out.
            let kept: Vec<bool> = batch.iter().map(|_| random.random_bool(0.7)).collect();
            let merged_with_gaps: Vec<_> = updates.merge(|number| kept[number]).iter().map(bytes).collect();
            let wanted = batch.iter().zip(&kept).filter(|(_, kept)| **kept).map(|((_, update), _)| update);
            assert_eq!(elements(merged_with_gaps.iter()), elements(wanted), "SYNCLINE_SEED={seed}");
            at = upto;
        }
        assert_eq!(state(&merged), state(&plain), "SYNCLINE_SEED={seed}");
        assert_eq!(state(&of_author), state(&plain), "SYNCLINE_SEED={seed}");
        assert!(joined > EDITS / 3, "only {joined} were merged, SYNCLINE_SEED={seed}");
        assert_eq!(merged.transact().state_vector(), plain.transact().state_vector(), "SYNCLINE_SEED={seed}");
    }
}

/// The client and clock of every element in these updates.
fn elements<'a>(updates: impl Iterator<Item = &'a Vec<u8>>) -> BTreeSet<(u64, u64)> {
    let ranges = updates.flat_map(|update| update_ranges(update));
    ranges.flat_map(|range| (range.start..range.end).map(move |clock| (range.client, clock))).collect()
}

fn count(merged: &[Merged]) -> usize {
    merged.iter().map(|merged| if let Merged::Joined { count, .. } = merged { *count } else { 1 }).sum()
}

/// A client with a document and a socket, in one of the dialects.
struct Editor {
    socket: Socket,
    dialect: Dialect,
    doc: Doc,
    batch: u64,
    /// The updates received, one for each frame.
    received: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Dialect {
    YWebsocket,
    Hocuspocus,
    Native,
}

impl Editor {
    async fn join(server: &syncline_server::Server, dialect: Dialect, client: u64) -> Self {
        let mut socket = Socket::open(server, "/doc").await;
        match dialect {
            Dialect::YWebsocket => socket.sync(SyncMessage::Step1(&[0])).await,
            Dialect::Hocuspocus => {
                socket.send_to("doc", HocuspocusMessage::Token { token: "", version: None }).await;
                socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step1(&[0]))).await;
            }
            Dialect::Native => {
                socket.send(ToServer::Hello { version: VERSION, device: 1 }.encode()).await;
                let (document, cursor) = ("doc", None);
                let open = ToServer::Open { channel: 0, document, token: "", cursor, wants_state_vector: false };
                socket.send(open.encode()).await;
                socket.send(ToServer::StateVector { channel: 0, state_vector: &[0] }.encode()).await;
            }
        }
        let doc = Doc::with_client_id(client);
        let mut editor = Self { socket, dialect, doc, batch: 0, received: Vec::new() };
        while !editor.receive().await {}
        editor
    }

    async fn edit(&mut self, random: &mut StdRng) -> usize {
        let update = edit(&self.doc, random);
        if update == [0, 0] {
            return 0;
        }
        self.batch += 1;
        let message = SyncMessage::Update(&update);
        match self.dialect {
            Dialect::YWebsocket => self.socket.sync(message).await,
            Dialect::Hocuspocus => self.socket.send_to("doc", HocuspocusMessage::Sync(message)).await,
            Dialect::Native => {
                let change = ToServer::Change { channel: 0, batch: self.batch, update: &update };
                self.socket.send(change.encode()).await;
            }
        }
        1
    }

    /// Receives one frame and applies its update. Returns true for the diff that completes the join.
    async fn receive(&mut self) -> bool {
        let Incoming::Frame(frame) = self.socket.receive().await else { panic!("closed") };
        let (update, is_diff) = match self.dialect {
            Dialect::YWebsocket => match YWebsocketMessage::decode(&frame).unwrap() {
                YWebsocketMessage::Sync(SyncMessage::Update(update)) => (update, false),
                YWebsocketMessage::Sync(SyncMessage::Step2(update)) => (update, true),
                _ => return false,
            },
            Dialect::Hocuspocus => match Frame::decode(&frame, End::Client).unwrap() {
                Frame::Addressed { message: HocuspocusMessage::Sync(SyncMessage::Update(update)), .. } => {
                    (update, false)
                }
                Frame::Addressed { message: HocuspocusMessage::Sync(SyncMessage::Step2(update)), .. } => (update, true),
                _ => return false,
            },
            Dialect::Native => match ToClient::decode(&frame).unwrap() {
                ToClient::Change { update, .. } => (update, false),
                ToClient::Diff { update, .. } => (update, true),
                _ => return false,
            },
        };
        if !is_diff {
            self.received.push(update.to_vec());
        }
        apply(&self.doc, update);
        is_diff
    }
}

#[tokio::test]
async fn concurrent_editors_of_all_dialects_converge() {
    for seed in seeds(3) {
        println!("SYNCLINE_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let server = start(Arc::new(MemoryStore::new())).await;
        let mut editors = Vec::new();
        for (at, dialect) in
            [Dialect::YWebsocket, Dialect::Hocuspocus, Dialect::Native].into_iter().cycle().take(9).enumerate()
        {
            editors.push(Editor::join(&server, dialect, 100 + at as u64).await);
        }
        // The last three only read.
        let mut edits = 0;
        for _ in 0..40 {
            for editor in &mut editors[..6] {
                for _ in 0..random.random_range(1..6) {
                    edits += editor.edit(&mut random).await;
                }
            }
        }
        let all = Doc::with_client_id(1);
        let mut fresh = Editor::join(&server, Dialect::YWebsocket, 99).await;
        let vector_of = |doc: &Doc| doc.transact().state_vector();
        // The edits of all editors, which are still in flight to the others.
        for editor in &editors {
            let update = editor.doc.transact().encode_state_as_update_v1(&StateVector::default());
            apply(&all, &update);
        }
        for editor in editors.iter_mut().chain([&mut fresh]) {
            while vector_of(&editor.doc) != vector_of(&all) {
                editor.receive().await;
            }
        }
        // Deletions do not advance a state vector: a final marker shows that everything has arrived.
        let text = editors[0].doc.get_or_insert_text("text");
        text.insert(&mut editors[0].doc.transact_mut(), 0, "END");
        let mark = editors[0].doc.transact().encode_state_as_update_v1(&vector_of(&all));
        editors[0].socket.sync(SyncMessage::Update(&mark)).await;
        for editor in editors[1..].iter_mut().chain([&mut fresh]) {
            while !state(&editor.doc).contains("END") {
                editor.receive().await;
            }
        }
        // The author receives the echo of the marker after everything else.
        while editors[0].received.last() != Some(&mark) {
            editors[0].receive().await;
        }
        let expected = state(&editors[0].doc);
        for editor in editors.iter().chain([&fresh]) {
            assert_eq!(state(&editor.doc), expected, "SYNCLINE_SEED={seed}");
        }
        let frames = editors[8].received.len();
        println!("{edits} edits reached a reader in {frames} frames");
        server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn author_receives_its_own_change_only_after_it_is_on_disk() {
    let store = Arc::new(MemoryStore::new());
    let server = start(Arc::clone(&store) as _).await;
    let mut random = StdRng::seed_from_u64(1);
    let mut author = Editor::join(&server, Dialect::YWebsocket, 7).await;
    let mut other = Editor::join(&server, Dialect::YWebsocket, 8).await;
    store.hold();
    for _ in 0..30 {
        author.edit(&mut random).await;
        other.edit(&mut random).await;
    }
    // The other client's changes arrive in any number of frames; the author's own wait for the disk.
    let other_clock = other.doc.transact().state_vector().get(&yrs::block::ClientID::new(8));
    while author.doc.transact().state_vector().get(&yrs::block::ClientID::new(8)) < other_clock {
        author.receive().await;
    }
    for update in &author.received {
        assert!(update_ranges(update).all(|range| range.client == 8), "received its own change: {update:?}");
    }
    store.release();
    let echoes = author.received.len();
    while author.received[echoes..].iter().filter(|update| update_ranges(update).any(|range| range.client == 7)).count()
        < 1
    {
        author.receive().await;
    }
    server.stop().await.unwrap();
}
