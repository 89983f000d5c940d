//! Every fuzz target over real messages, and over spoilt ones for some seconds: on stable Rust, in every run.
//!
//! `SYNCLINE_FUZZ_SECONDS=<n>` goes on for longer, `SYNCLINE_SEED=<seed>` begins with the same ones. A failure prints the
//! target, the seed and the bytes.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "support/fuzz_targets.rs"]
mod fuzz_targets;
#[path = "support/scanner_fixtures.rs"]
mod scanner_fixtures;

use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use fuzz_targets::TARGETS;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use syncline_protocol::hocuspocus;
use syncline_protocol::native::ToServer;
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::varint::write_var_uint;
use syncline_protocol::ywebsocket;

const DEFAULT_SECONDS: u64 = 20;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Real messages of every kind.
fn corpus() -> Vec<Vec<u8>> {
    let mut corpus = Vec::new();
    for vector in scanner_fixtures::yjs_vectors().into_iter().take(20) {
        for update in vector.updates.iter().take(20) {
            corpus.push(ywebsocket::Message::Sync(SyncMessage::Update(update)).encode());
            corpus.push(hocuspocus::Message::Sync(SyncMessage::Update(update)).encode("a name"));
            corpus.push(ToServer::Change { channel: 1, batch: 2, update }.encode());
        }
        // A session's worth of events: a kind, a length, a payload.
        let pieces = vector.updates.iter().take(8).enumerate().flat_map(|(number, update)| {
            let len = (update.len() as u16).to_be_bytes();
            [
                &[8 + (number as u8 & 3) + ((number as u8 & 3) << 5)][..],
                &len,
                &update[..update.len().min(0xffff)],
                &[23, 0, 0],
            ]
            .concat()
        });
        corpus.push(pieces.collect());
        corpus.extend(vector.updates.into_iter().take(20));
        corpus.extend(vector.state_vectors);
    }
    corpus.retain(|bytes| bytes.len() < 4_096);
    corpus.push(vec![1, 7, 1, 2, b'{', b'}']);
    for more in ["", "Sec-WebSocket-Protocol: yjs, other\r\n", "Content-Length: 4\r\n"] {
        let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let head =
            format!("GET /doc HTTP/1.1\r\nHost: x\r\n{more}Connection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n");
        corpus.push(head.into_bytes());
    }
    corpus
}

fn spoil(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut StdRng) {
    for _ in 0..rng.random_range(1..5) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.random_range(0..bytes.len());
        let end = rng.random_range(at..=bytes.len().min(at + 32));
        match rng.random_range(0..8) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => bytes.truncate(at),
            3 => _ = bytes.drain(at..end),
            4 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => {
                let mut number = Vec::new();
                write_var_uint(&mut number, rng.random::<u64>() >> rng.random_range(11..63));
                bytes.splice(at..at + 1, number);
            }
            6 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
            _ => {
                let other = &corpus[rng.random_range(0..corpus.len())];
                let from = rng.random_range(0..=other.len());
                bytes.splice(at..end, other[from..].iter().take(64).copied());
            }
        }
    }
}

fn run(name: &str, target: fn(&[u8]), bytes: &[u8], seed: u64) {
    assert!(
        catch_unwind(|| target(bytes)).is_ok(),
        "target {name} failed; SYNCLINE_SEED={seed}, bytes {}",
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    );
}

#[test]
fn no_decoder_and_no_document_panics_and_each_keeps_its_promises() {
    let seed = from_environment("SYNCLINE_SEED").unwrap_or_else(rand::random);
    let seconds = from_environment("SYNCLINE_FUZZ_SECONDS").unwrap_or(DEFAULT_SECONDS);
    println!("SYNCLINE_SEED={seed}");
    let corpus = corpus();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut runs = 0_u64;
    for (name, target) in TARGETS {
        for bytes in &corpus {
            run(name, *target, bytes, seed);
        }
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(seconds) / TARGETS.len() as u32 {
            let mut bytes = corpus[rng.random_range(0..corpus.len())].clone();
            spoil(&mut bytes, &corpus, &mut rng);
            run(name, *target, &bytes, seed);
            runs += 1;
        }
    }
    println!("{runs} spoilt inputs, {} real ones for each of {} targets", corpus.len(), TARGETS.len());
}
