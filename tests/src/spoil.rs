//! Corrupts encoded messages but keeps much of their structure: changes integers, pieces and their order, not
//! only bits.

use rand::RngExt;
use rand::rngs::StdRng;
use syncline_protocol::varint::write_var_uint;

/// Corrupts `bytes` in one to four places; some changes splice in a piece of `corpus`.
pub fn spoil(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut StdRng) {
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
