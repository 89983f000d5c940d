//! The fixtures as lists of v1 updates, and helpers that build hostile updates.

use std::io::{Cursor, Read};
use std::path::PathBuf;

use serde_json::Value;
use syncline_protocol::varint::{Reader, write_var_uint};

fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// One document of a fixture.
pub struct Vector {
    /// Which fixture and which document in it, for assertion messages.
    pub name: String,
    /// Incremental updates in the order in which to apply them.
    pub updates: Vec<Vec<u8>>,
    /// Full document states and diffs; none of them is in `updates`.
    pub others: Vec<Vec<u8>>,
    /// Encoded state vectors.
    pub state_vectors: Vec<Vec<u8>>,
}

/// Returns the hundred documents made with Yjs 13.6.33.
pub fn yjs_vectors() -> Vec<Vector> {
    let packed = fixture("yjs-vectors/seeds-1-100.jsonl.gz");
    let mut lines = String::new();
    flate2::read::GzDecoder::new(Cursor::new(packed)).read_to_string(&mut lines).expect("gzip");
    lines
        .lines()
        .map(|line| {
            let document: Value = serde_json::from_str(line).expect("JSON");
            let partial = &document["partial"];
            Vector {
                name: format!("seed {}", document["seed"]),
                updates: document["updates"].as_array().expect("updates").iter().map(base64).collect(),
                others: vec![base64(&document["v1"]), base64(&partial["update"]), base64(&partial["diff"])],
                state_vectors: vec![base64(&document["stateVector"]), base64(&partial["stateVector"])],
            }
        })
        .collect()
}

/// Returns the documents of Yjs 13.2 and the large one of y-crdt, each as a single update.
pub fn whole_documents() -> Vec<Vector> {
    let compat: Value = serde_json::from_slice(&fixture("yjs-public/yjs-13-compat.json")).expect("JSON");
    let single = |name: String, update| Vector { name, updates: vec![update], others: vec![], state_vectors: vec![] };
    let mut all = vec![single("b4".into(), fixture("yjs-public/ycrdt-b4-update.bin"))];
    for document in compat.as_array().expect("documents") {
        all.push(single(document["name"].to_string(), base64(&document["update"])));
    }
    all
}

/// Returns the 5,320 random documents of y-crdt.
pub fn ycrdt_dataset() -> Vec<Vector> {
    let bytes = fixture("yjs-public/ycrdt-small-test-dataset.bin");
    let mut reader = Reader::new(&bytes);
    let documents = reader.var_uint().expect("count");
    (0..documents)
        .map(|number| {
            let count = reader.var_uint().expect("count");
            let updates = (0..count).map(|_| reader.var_bytes().expect("update").to_vec()).collect();
            reader.var_str().expect("text");
            for _ in 0..2 {
                let mut rest = yrs::encoding::read::Cursor::new(reader.rest());
                yrs::Any::decode(&mut rest).expect("any");
                let read = rest.next;
                reader.bytes(read as u64).expect("the bytes that yrs read");
            }
            Vector { name: format!("dataset {number}"), updates, others: vec![], state_vectors: vec![] }
        })
        .collect()
}

fn base64(value: &Value) -> Vec<u8> {
    let (mut out, mut bits, mut bit_count) = (Vec::new(), 0u32, 0);
    for byte in value.as_str().expect("base64").bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = bits << 6 | u32::from(six);
        bit_count += 6;
        if bit_count >= 8 {
            bit_count -= 8;
            out.push((bits >> bit_count) as u8);
        }
    }
    out
}

/// Encodes `values` as consecutive lib0 integers.
pub fn numbers(values: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    values.iter().for_each(|&value| write_var_uint(&mut out, value));
    out
}

/// An update in which each of `clients` inserts one letter into the root `t`, without a left origin.
pub fn one_letter_each(clients: impl ExactSizeIterator<Item = u64>) -> Vec<u8> {
    let mut out = numbers(&[clients.len() as u64]);
    for client in clients {
        out.extend(numbers(&[1, client, 0]));
        out.extend_from_slice(&[4, 1, 1, b't', 1, b'x']);
    }
    out.push(0);
    out
}

/// A state vector that holds each of `clients` at clock 1.
pub fn state_vector(clients: impl ExactSizeIterator<Item = u64>) -> Vec<u8> {
    let mut out = numbers(&[clients.len() as u64]);
    clients.for_each(|client| out.extend(numbers(&[client, 1])));
    out
}

/// An update of `count` nested maps of client 1. The first is in the map at clock `from`, or in the root `t` if
/// `from` is `None`. `delete_first` also deletes the map at clock 0.
pub fn tower(from: Option<u64>, count: u64, delete_first: bool) -> Vec<u8> {
    let first = from.map_or(0, |clock| clock + 1);
    let mut out = numbers(&[1, count, 1, first]);
    for clock in first..first + count {
        match clock {
            0 => out.extend_from_slice(&[7, 1, 1, b't', 1]),
            _ => {
                out.extend_from_slice(&[0x27, 0]);
                out.extend(numbers(&[1, clock - 1]));
                out.extend_from_slice(&[1, b'k', 1]);
            }
        }
    }
    out.extend_from_slice(if delete_first { &[1, 1, 1, 0, 1] } else { &[0] });
    out
}
