//! The seed inputs of fuzzing: real messages of every kind, and real contents of every file format that is read.

use std::path::PathBuf;

use bytes::Bytes;
use syncline_client::Ulid;
use syncline_client::document::driver::{JournalWrite, Machine};
use syncline_client::yrs::{Any, Text, WriteTxn};
use syncline_log::backup::{self, Pace};
use syncline_log::store::Write;
use syncline_log::{Record, SledStore, Store};
use syncline_protocol::hocuspocus::HocuspocusMessage;
use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use syncline_protocol::native::ToServer;
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::ywebsocket::YWebsocketMessage;

use crate::fixtures;

/// Longer seeds are left out: a mutation changes too small a part of them.
const MAX_SEED_BYTES: usize = 4_096;

/// Real messages, the seeds of every target.
pub fn messages() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for vector in fixtures::yjs_vectors().into_iter().take(20) {
        for update in vector.updates.iter().take(20) {
            seeds.push(YWebsocketMessage::Sync(SyncMessage::Update(update)).encode());
            seeds.push(HocuspocusMessage::Sync(SyncMessage::Update(update)).encode("a name"));
            seeds.push(ToServer::Change { channel: 1, batch: 2, update }.encode());
        }
        // The events of one document.
        let events = vector.updates.iter().take(8).enumerate();
        seeds.push(encode_pieces(events.flat_map(|(number, update)| {
            let lease = number as u8 & 3;
            [(8 + lease + (lease << 5), &update[..]), (23, &[])]
        })));
        seeds.extend(vector.updates.into_iter().take(20));
        seeds.extend(vector.state_vectors);
    }
    seeds.push(vec![1, 7, 1, 2, b'{', b'}']);
    seeds.retain(|bytes| bytes.len() < MAX_SEED_BYTES);
    seeds
}

/// The seeds of one target alone, in addition to [`messages`].
pub fn of(target: &str) -> Vec<Vec<u8>> {
    let mut seeds = match target {
        "session" => sessions(),
        "websocket" => frames(),
        "layout" => store_values(),
        "texts" => texts(),
        "journal" => journals(),
        "admin" => admin(),
        "config" => vec![
            b"listen = \"127.0.0.1:1\"\nmessage_bytes = 2048\nlog_format = \"json\"\n".to_vec(),
            b"outbox_bytes = 1\nuser_header = \"x-user\"\n[limits]\nmax_connections = 7\n".to_vec(),
        ],
        "handshake" => handshakes(),
        "portable" => vec![b"{\"text\": [\"a\", {\"b\": null}], \"n\": 1.5}".to_vec()],
        _ => Vec::new(),
    };
    seeds.retain(|bytes| bytes.len() < MAX_SEED_BYTES);
    seeds
}

fn handshakes() -> Vec<Vec<u8>> {
    let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let head = |more| {
        format!("GET /doc HTTP/1.1\r\nHost: x\r\n{more}Connection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n").into()
    };
    ["", "Sec-WebSocket-Protocol: yjs, other\r\n", "Content-Length: 4\r\n"].map(head).into()
}

/// The committed corpus of one target: inputs that fuzzers found, or that were made from the seeds.
pub fn committed(target: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = std::fs::read_dir(directory(target))
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
        .unwrap_or_default();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a file of the corpus")).collect()
}

/// The directory of the committed corpus of one target.
pub fn directory(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target)
}

/// Encodes pieces for `targets::pieces`.
fn encode_pieces<'a>(pieces: impl IntoIterator<Item = (u8, &'a [u8])>) -> Vec<u8> {
    let mut encoded = Vec::new();
    for (kind, piece) in pieces {
        let piece = &piece[..piece.len().min(0xffff)];
        encoded.push(kind);
        encoded.extend((piece.len() as u16).to_be_bytes());
        encoded.extend(piece);
    }
    encoded
}

fn updates() -> Vec<Vec<u8>> {
    fixtures::yjs_vectors().into_iter().next().expect("a vector").updates
}

/// Complete conversations in each dialect: two clients side by side, and disk commits in between.
fn sessions() -> Vec<Vec<u8>> {
    let presence: &[u8] = &[1, 7, 1, 2, b'{', b'}'];
    let mut conversations = Vec::new();
    for vector in fixtures::yjs_vectors().into_iter().take(6) {
        let some: Vec<&[u8]> = vector.updates.iter().take(6).map(Vec::as_slice).collect();
        for (opening, change, state_vector) in [(&[][..], 4, 2), (&[7][..], 8, 9), (&[13, 14][..], 15, 17)] {
            let mut conversation: Vec<(u8, &[u8])> = opening.iter().map(|&kind| (kind, &[0][..])).collect();
            conversation.push((state_vector, &[0]));
            conversation.push((0x80 | 2, &[0]));
            for update in &some {
                conversation.extend([(change, *update), (0x80 | 4, *update), (27, &[][..]), (29, &[][..])]);
            }
            conversation.extend([
                (5, presence),
                (10, presence),
                (19, presence),
                (31, &[][..]),
                (25, &[][..]),
                (30, &[][..]),
            ]);
            conversations.push(encode_pieces(conversation));
        }
        conversations.push(encode_pieces([
            (23, some[0]),
            (21, b"ping"),
            (24, some[0]),
            (13, &[]),
            (14, &[3]),
            (16, &[119, 1, b'a']),
        ]));
    }
    conversations
}

fn frames() -> Vec<Vec<u8>> {
    let masked = |first: u8, payload: &[u8]| {
        let mut bytes = vec![first, 0x80 | payload.len() as u8, 1, 2, 3, 4];
        bytes.extend(payload.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    };
    let long = [&[0x82, 0xfe, 1, 0, 0, 0, 0, 0][..], &[7; 256]].concat();
    let pieces = [masked(0x02, b"begins"), masked(0x89, b"ping"), masked(0x80, b"ends"), masked(0x88, &[3, 0xe8])];
    vec![
        [&[200][..], &masked(0x82, b"whole"), &long].concat(),
        [&[3][..], &pieces.concat()].concat(),
        [&[1][..], &masked(0x81, b"text")].concat(),
    ]
}

/// Values in the format of the sled store, without their seal.
fn store_values() -> Vec<Vec<u8>> {
    let record = |number: u64, update: &[u8]| {
        let mut out = number.to_le_bytes().to_vec();
        out.extend((update.len() as u32).to_le_bytes());
        out
    };
    let mut values = Vec::new();
    for some in updates().chunks(3).take(8) {
        let heads: Vec<u8> = some.iter().enumerate().flat_map(|(at, update)| record(at as u64, update)).collect();
        let total = 12 + heads.len() + some.concat().len();
        let count = some.len() as u32;
        values.push([&(total as u64).to_le_bytes()[..], &count.to_le_bytes(), &heads, &some.concat()].concat());
    }
    // A store's description, a head, a part's key.
    values.push((0..60).collect());
    values.push((0..76).collect());
    values.push([&b"d\0\0\0\0\0\0\0\x07\x01"[..], &[0; 12]].concat());
    values
}

/// The description file of a real store, and the manifest of a real backup of it.
fn texts() -> Vec<Vec<u8>> {
    let home = tempfile::tempdir().expect("a directory");
    let (data, copy) = (home.path().join("data"), home.path().join("copy"));
    let store = SledStore::open(&data).expect("a store");
    for (number, update) in updates().into_iter().take(3).enumerate() {
        let document = DocumentName::parse(&format!("document {number}")).expect("a name");
        let record = Record { seq: Seq(1), time_ms: 1, update: update.into() };
        let epoch = Epoch(number as u128 + 1);
        store.commit(&[Write::Append { document, epoch, records: vec![record] }]).expect("a commit");
    }
    backup::take(&store, &copy, Pace::Full, &backup::Cancel::default(), &mut |_| {}).expect("a backup");
    let manifest = std::fs::read_to_string(copy.join("manifest.jsonl")).expect("a manifest");
    let body = manifest.trim_end().rsplit_once('\n').map_or("", |(body, _)| body);
    vec![
        std::fs::read(data.join("syncline.store")).expect("the description file"),
        manifest.clone().into_bytes(),
        format!("{body}\n").into_bytes(),
    ]
}

/// The journal of a device: each record alone, all records in order, and a snapshot with the records after it.
fn journals() -> Vec<Vec<u8>> {
    let (mut machine, _) = Machine::load(None);
    machine.compact_after(6);
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    let mut all: Vec<(u8, Bytes)> = Vec::new();
    for number in 1..=12_u128 {
        let id = Ulid(number << 80 | 7);
        let edited = machine.edit(id, number as u64, |txn| {
            let text = txn.get_or_insert_text("text");
            text.insert(txn, 0, "word ");
        });
        edited.expect("an edit");
        if number % 4 == 0 {
            machine.propose(Ulid(number << 80 | 8), 1, "status", &Any::from("done")).expect("a proposal");
        }
        if number == 5 {
            machine.connected(0, "doc", 1);
            machine.disconnected(2);
        }
        for write in machine.take(number as u64).writes {
            match write {
                JournalWrite::Append(record) => all.push((0, record.update)),
                JournalWrite::Compact(snapshot) => all.push((0xff, snapshot.update)),
            }
        }
    }
    seeds.extend(all.iter().map(|(_, record)| record.to_vec()));
    seeds.push(encode_pieces(all.iter().filter(|(kind, _)| *kind == 0).map(|(kind, record)| (*kind, &record[..]))));
    // The last snapshot and the records after it.
    if let Some(at) = all.iter().rposition(|(kind, _)| *kind == 0xff) {
        seeds.push(encode_pieces(all[at..].iter().map(|(kind, record)| (*kind, &record[..]))));
    }
    seeds
}

/// Requests for a document: the rest of the path, a line end, and the file to import.
fn admin() -> Vec<Vec<u8>> {
    let json = &b"{\"text\": \"hello\"}"[..];
    let update = &fixtures::yjs_vectors()[0].updates[0];
    [
        ("notes?format=json&only_new=true", json),
        ("a%2F%2E%2E%20b%E2%82%AC", update),
        ("%00?format=update&only_new=false", update),
        ("%ff/x?format=other", b""),
    ]
    .map(|(target, file)| [target.as_bytes(), b"\n", file].concat())
    .into()
}
