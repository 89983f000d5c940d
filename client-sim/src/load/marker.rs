//! Updates that are recognised by their text: each appends a marker of seven characters (and padding) to what its writer
//! wrote before. A reader finds markers by searching for one byte, in relayed and in merged updates alike. Pure.
//!
//! A marker is `~`, the writer's number in its document as one digit, and the update's number as five digits, base 64.
//! Updates are v1 (npm `yjs` 13.6, `UpdateEncoderV1`), encoded here without a CRDT: one item whose left origin is the
//! writer's previous item.

use memchr::memchr_iter;
use syncline_protocol::varint::{write_var_bytes, write_var_uint};

/// Length of a marker.
pub(super) const MARKER_CHARS: usize = 7;
/// Largest number of writers of one document.
pub(super) const MAX_WRITERS: usize = DIGITS.len();
/// Largest number of updates of one writer.
pub(super) const MAX_UPDATES: u32 = 1 << 30;
/// Name of the root text.
pub(super) const ROOT: &str = "text";

const SIGN: u8 = b'~';
const PAD: u8 = b'.';
const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";
const NO_DIGIT: u8 = 0xff;
const VALUES: [u8; 256] = values();

const fn values() -> [u8; 256] {
    let mut values = [NO_DIGIT; 256];
    let mut at = 0;
    while at < DIGITS.len() {
        values[DIGITS[at] as usize] = at as u8;
        at += 1;
    }
    values
}

/// Info bits of an item: string content, and presence of a left origin.
const STRING: u8 = 4;
const LEFT_ORIGIN: u8 = 0x80;

/// The marker of update `number` by `writer`.
fn marker(writer: usize, number: u32) -> [u8; MARKER_CHARS] {
    let digit = |shift: u32| DIGITS[(number >> shift) as usize & 63];
    [SIGN, DIGITS[writer & 63], digit(24), digit(18), digit(12), digit(6), digit(0)]
}

/// Appends update `number` of a writer to `out`. `chars` is the length of the inserted text: at least that of a marker, and
/// the same for all updates of the writer.
pub(super) fn write_update(out: &mut Vec<u8>, client: u64, writer: usize, number: u32, chars: usize) {
    let clock = u64::from(number) * chars as u64;
    out.extend_from_slice(&[1, 1]);
    write_var_uint(out, client);
    write_var_uint(out, clock);
    if clock == 0 {
        out.extend_from_slice(&[STRING, 1]);
        write_var_bytes(out, ROOT.as_bytes());
    } else {
        out.push(STRING | LEFT_ORIGIN);
        write_var_uint(out, client);
        write_var_uint(out, clock - 1);
    }
    write_var_uint(out, chars as u64);
    out.extend_from_slice(&marker(writer, number));
    out.extend(std::iter::repeat_n(PAD, chars.saturating_sub(MARKER_CHARS)));
    out.push(0);
}

/// Finds the markers in `bytes`, in order; yields writer and update number. Bytes can look like a marker by chance; the
/// caller recognises these because no update with their number was sent.
pub(super) fn find(bytes: &[u8]) -> impl Iterator<Item = (usize, u32)> {
    let mut end = 0;
    memchr_iter(SIGN, bytes).filter_map(move |at| {
        if at < end {
            return None;
        }
        let digits: &[u8; MARKER_CHARS - 1] = bytes.get(at + 1..at + MARKER_CHARS)?.try_into().ok()?;
        let mut wrong = 0;
        let mut value = |digit: u8| {
            let value = VALUES[usize::from(digit)];
            wrong |= value;
            u32::from(value & 63)
        };
        let writer = value(digits[0]) as usize;
        let number = digits[1..].iter().fold(0, |number, &digit| number << 6 | value(digit));
        if wrong == NO_DIGIT {
            return None;
        }
        end = at + MARKER_CHARS;
        Some((writer, number))
    })
}

#[cfg(test)]
mod tests {
    use syncline_client::yrs::updates::decoder::Decode;
    use syncline_client::yrs::{Doc, GetString, ReadTxn, StateVector, Transact, Update};

    use super::*;

    fn updates(client: u64, writer: usize, count: u32, chars: usize) -> Vec<Vec<u8>> {
        let one = |number| {
            let mut out = Vec::new();
            write_update(&mut out, client, writer, number, chars);
            out
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn crdt_accepts_updates_and_merged_state_holds_every_marker() {
        let doc = Doc::new();
        for chars in [MARKER_CHARS, 40] {
            for (writer, client) in [(0, 1 << 31), (1, u64::from(u32::MAX))] {
                for update in updates(client + chars as u64, writer, 300, chars) {
                    doc.transact_mut().apply_update(Update::decode_v1(&update).unwrap()).unwrap();
                }
            }
        }
        let txn = doc.transact();
        assert!(!txn.has_missing_updates());
        let text = txn.get_text(ROOT).unwrap().get_string(&txn);
        assert_eq!(text.len(), 2 * 300 * (MARKER_CHARS + 40));
        for bytes in [txn.encode_diff_v1(&StateVector::default()), text.into_bytes()] {
            let mut found: Vec<_> = find(&bytes).collect();
            found.sort_unstable();
            found.dedup();
            let all: Vec<_> = (0..2).flat_map(|writer| (0..300).map(move |number| (writer, number))).collect();
            assert_eq!(found, all);
        }
    }

    #[test]
    fn find_skips_bytes_that_are_not_a_marker() {
        assert_eq!(find(b"~~0000012~0!00001~00000").collect::<Vec<_>>(), [(0, 1)]);
        assert_eq!(find(&marker(63, MAX_UPDATES - 1)).collect::<Vec<_>>(), [(63, MAX_UPDATES - 1)]);
        assert_eq!(find(b"~00000").count(), 0);
    }
}
