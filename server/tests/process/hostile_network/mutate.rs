//! Valid frames of every dialect, mutated. A seed reproduces them.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use syncline_protocol::hocuspocus::HocuspocusMessage;
use syncline_protocol::native::{ToServer, VERSION};
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::ywebsocket::YWebsocketMessage;
use yrs::{Array, Doc, Map, OffsetKind, Options, Text, Transact};

use syncline_tests::raw_websocket::{BINARY, CONTINUATION, Frame, PING};
use syncline_tests::spoil::spoil;

const PATHS: [&str; 4] = ["/shared", "/hostile-1", "/hostile-2", "/hostile-3"];

pub(super) struct Mutator {
    rng: StdRng,
    updates: Vec<Vec<u8>>,
}

impl Mutator {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let updates = real_updates(rng.random_range(1_000..1_000_000));
        Self { rng, updates }
    }

    pub(super) fn path(&mut self) -> &'static str {
        PATHS[self.rng.random_range(0..PATHS.len())]
    }

    /// The frames of one connection: usually a valid opening, then mutated frames.
    pub(super) fn connection_frames(&mut self) -> Vec<Vec<u8>> {
        let dialect = self.rng.random_range(0..3);
        let mut frames = Vec::new();
        if self.rng.random_bool(0.8) {
            let opening = match dialect {
                0 => YWebsocketMessage::Sync(SyncMessage::Step1(&[0])).encode(),
                1 => HocuspocusMessage::Token { token: "", version: None }.encode("hostile-1"),
                _ => ToServer::Hello { version: VERSION, device: 7 }.encode(),
            };
            frames.push(Frame::new(BINARY, opening).encode());
            if dialect == 2 {
                let cursor = None;
                let open =
                    ToServer::Open { channel: 1, document: "hostile-1", token: "", cursor, wants_state_vector: true };
                frames.push(Frame::new(BINARY, open.encode()).encode());
            }
        }
        for _ in 0..self.rng.random_range(1..5) {
            let message = self.message(dialect);
            frames.push(self.frame(message));
        }
        frames
    }

    fn message(&mut self, dialect: u32) -> Vec<u8> {
        let mut update = self.updates[self.rng.random_range(0..self.updates.len())].clone();
        if self.rng.random_bool(0.7) {
            spoil(&mut update, &self.updates, &mut self.rng);
        }
        let sync = match self.rng.random_range(0..4) {
            0 => SyncMessage::Step1(&update),
            1 => SyncMessage::Step2(&update),
            _ => SyncMessage::Update(&update),
        };
        let is_presence = self.rng.random_bool(0.15);
        let mut message = match dialect {
            0 if is_presence => YWebsocketMessage::Awareness(&update).encode(),
            0 => YWebsocketMessage::Sync(sync).encode(),
            1 if is_presence => HocuspocusMessage::Awareness(&update).encode("hostile-1"),
            1 => HocuspocusMessage::Sync(sync).encode("hostile-1"),
            _ if is_presence => ToServer::Presence { channel: 1, update: &update }.encode(),
            _ => ToServer::Change { channel: 1, batch: 1, update: &update }.encode(),
        };
        if self.rng.random_bool(0.3) {
            spoil(&mut message, &self.updates, &mut self.rng);
        }
        message
    }

    /// The WebSocket frame; one in five is itself malformed.
    fn frame(&mut self, message: Vec<u8>) -> Vec<u8> {
        let frame = Frame::new(BINARY, message);
        match self.rng.random_range(0..40) {
            0 => Frame { is_masked: false, ..frame }.encode(),
            // Marked as compressed, although compression was not negotiated.
            1 => Frame { reserved: 4, ..frame }.encode(),
            2 => Frame::new(PING, vec![0; 126]).encode(),
            3 => [&[0x82, 0xff][..], &self.rng.random::<u64>().to_be_bytes(), &[1, 2, 3, 4]].concat(),
            4 => (0..self.rng.random_range(1..40)).map(|_| self.rng.random()).collect(),
            5 => {
                let mut cut = frame.encode();
                cut.truncate(self.rng.random_range(1..=cut.len()));
                cut
            }
            6 => {
                let (head, tail) = frame.payload.split_at(frame.payload.len() / 2);
                [Frame::new(BINARY, head).open().encode(), Frame::new(CONTINUATION, tail).encode()].concat()
            }
            7 => Frame { opcode: self.rng.random_range(3..8), ..frame }.encode(),
            _ => frame.encode(),
        }
    }
}

/// Updates as editors make them: texts, maps, lists, nested types, deletions.
fn real_updates(client: u64) -> Vec<Vec<u8>> {
    let client_id = yrs::block::ClientID::new(client);
    let doc = Doc::with_options(Options { client_id, offset_kind: OffsetKind::Utf16, ..Options::default() });
    let (text, map, list) =
        (doc.get_or_insert_text("text"), doc.get_or_insert_map("map"), doc.get_or_insert_array("list"));
    let mut updates = Vec::new();
    for round in 0..20u32 {
        let mut txn = doc.transact_mut();
        match round % 5 {
            0 => text.insert(&mut txn, round / 5, "héllo wörld"),
            1 => _ = map.insert(&mut txn, format!("key {round}"), f64::from(round)),
            2 => _ = list.insert(&mut txn, 0, yrs::MapPrelim::from([("nested", "deep")])),
            3 => text.remove_range(&mut txn, 1, 2),
            _ => _ = list.push_back(&mut txn, yrs::ArrayPrelim::from(["a", "b"])),
        }
        updates.push(txn.encode_update_v1());
    }
    updates
}
