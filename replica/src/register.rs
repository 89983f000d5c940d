//! PURE: versioned registers. A write names the version that it is based on, and is accepted only if that is the current
//! version.
//!
//! A register is one entry of the document's root map [`REGISTERS`], so clients of every dialect can read it, and it is
//! part of the document's history like any other edit. Unlike the last-writer-wins entries of a map, writes are decided
//! one after another by the single owner of the document.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::native::{Proposal, Version};
use syncline_protocol::varint::MAX_SAFE_INTEGER;
use yrs::Any;
use yrs::updates::decoder::DecoderV1;
use yrs::updates::encoder::{Encoder, EncoderV1};

/// The root map that holds the registers, keyed by name.
pub const REGISTERS: &str = "syncline:registers";
/// How many ids of accepted writes a register keeps, to recognise retries.
pub const MAX_REMEMBERED_WRITES: usize = 32;

/// A proposed write to a register; the owned form of [`Proposal`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterWrite {
    /// Name of the register.
    pub register: String,
    /// Identifies this write (a ULID); a retry has the same id.
    pub id: u128,
    /// The version that the author saw; `None`: the register had no value.
    pub based_on: Option<Version>,
    /// Display name of the author.
    pub author: String,
    /// When the write was made, in milliseconds since the Unix epoch by the author's clock. For display only.
    pub at_ms: u64,
    /// The new value, as (scanned) lib0 `Any`.
    pub value: Bytes,
}

impl From<Proposal<'_>> for RegisterWrite {
    fn from(proposal: Proposal<'_>) -> Self {
        Self {
            register: proposal.register.to_owned(),
            id: proposal.id,
            based_on: proposal.based_on,
            author: proposal.author.to_owned(),
            at_ms: proposal.at_ms,
            value: Bytes::copy_from_slice(proposal.value),
        }
    }
}

/// The current state of a register.
#[derive(Debug, Clone, PartialEq)]
pub struct RegisterState {
    /// The current value.
    pub value: Any,
    /// The version that the last accepted write created.
    pub version: Version,
    /// Display name of the author of that write.
    pub author: String,
    /// When that write was made, in milliseconds since the Unix epoch by the author's clock.
    pub at_ms: u64,
    /// Ids of the last accepted writes, newest last, at most [`MAX_REMEMBERED_WRITES`].
    pub ids: Vec<u128>,
}

/// The decision on a write.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// The write is accepted: the register gets this state.
    Accept(RegisterState),
    /// A retry of a write that was accepted before: nothing changes.
    AcceptedBefore,
    /// The write is not based on the current version, or its value cannot be decoded.
    Refuse,
}

/// Decides on a write. `current`: the state of the register, `None` if it has no value.
pub fn decide(current: Option<&RegisterState>, write: &RegisterWrite) -> Decision {
    if current.is_some_and(|current| current.ids.contains(&write.id)) {
        return Decision::AcceptedBefore;
    }
    if current.map(|current| current.version) != write.based_on {
        return Decision::Refuse;
    }
    let Ok(value) = Any::decode(&mut DecoderV1::from(&write.value[..])) else { return Decision::Refuse };
    let remembered = current.map_or(&[][..], |current| &current.ids);
    let oldest = remembered.len().saturating_sub(MAX_REMEMBERED_WRITES - 1);
    let mut ids = remembered[oldest..].to_vec();
    ids.push(write.id);
    Decision::Accept(RegisterState {
        value,
        version: Version { number: current.map_or(0, |current| current.version.number) + 1, id: write.id },
        author: write.author.clone(),
        at_ms: write.at_ms,
        ids,
    })
}

impl RegisterState {
    /// Encodes the map entry: `{v: value, n: number, id: ULID, by: author, at: ms, ids: [ULID]}`.
    pub fn to_any(&self) -> Any {
        let text = |text: &str| Any::String(text.into());
        let ids: Vec<Any> = self.ids.iter().map(|&id| text(&ulid_text(id))).collect();
        let fields = [
            ("v", self.value.clone()),
            ("n", Any::from(i64::try_from(self.version.number).unwrap_or(i64::MAX))),
            ("id", text(&ulid_text(self.version.id))),
            ("by", text(&self.author)),
            ("at", Any::from(i64::try_from(self.at_ms).unwrap_or(i64::MAX))),
            ("ids", Any::Array(ids.into())),
        ];
        Any::Map(Arc::new(HashMap::from(fields.map(|(key, value)| (key.to_owned(), value)))))
    }

    /// Decodes a map entry. `None` for an entry that no accepted write has set.
    pub fn from_any(any: &Any) -> Option<Self> {
        let Any::Map(fields) = any else { return None };
        let text = |key| if let Some(Any::String(text)) = fields.get(key) { Some(&**text) } else { None };
        let number = |key| match fields.get(key) {
            Some(Any::Number(number)) => u64::try_from(number.as_i64()?).ok(),
            _ => None,
        };
        let Some(Any::Array(ids)) = fields.get("ids") else { return None };
        let id_of = |id: &Any| if let Any::String(text) = id { parse_ulid(text) } else { None };
        let version = Version { number: number("n")?, id: parse_ulid(text("id")?)? };
        if version.number == 0 || version.number >= MAX_SAFE_INTEGER || ids.len() > MAX_REMEMBERED_WRITES {
            return None;
        }
        Some(Self {
            value: fields.get("v")?.clone(),
            version,
            author: text("by")?.to_owned(),
            at_ms: number("at")?,
            ids: ids.iter().map(id_of).collect::<Option<_>>()?,
        })
    }

    /// The map entry as lib0 `Any`.
    pub fn encode(&self) -> Bytes {
        let mut encoder = EncoderV1::new();
        self.to_any().encode(&mut encoder);
        // Drops the spare capacity of the encoder's buffer.
        encoder.to_vec().into_boxed_slice().into()
    }

    /// Decodes what [`RegisterState::encode`] wrote. `None` for an entry that no accepted write has set.
    pub fn decode(entry: &[u8]) -> Option<Self> {
        Self::from_any(&Any::decode(&mut DecoderV1::from(entry)).ok()?)
    }
}

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const ULID_CHARS: u32 = 26;

/// The text form of a ULID: 26 characters of Crockford's base 32.
pub fn ulid_text(id: u128) -> String {
    (0..ULID_CHARS).rev().map(|place| char::from(CROCKFORD[(id >> (5 * place)) as usize & 31])).collect()
}

/// Parses the text form of a ULID.
pub fn parse_ulid(text: &str) -> Option<u128> {
    if text.len() != ULID_CHARS as usize {
        return None;
    }
    text.bytes().try_fold(0_u128, |id, char| {
        let digit = CROCKFORD.iter().position(|&known| known == char)? as u128;
        id.checked_mul(32)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(id: u128, based_on: Option<Version>) -> RegisterWrite {
        let value = Bytes::from_static(&[125, 7]);
        RegisterWrite { register: "r".into(), id, based_on, author: "Ana".into(), at_ms: 1 << 41, value }
    }

    fn accepted(current: Option<&RegisterState>, write: &RegisterWrite) -> RegisterState {
        match decide(current, write) {
            Decision::Accept(state) => state,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn write_is_accepted_only_if_based_on_the_current_version() {
        let first = accepted(None, &write(1, None));
        assert_eq!(first.version, Version { number: 1, id: 1 });
        assert_eq!(decide(Some(&first), &write(2, None)), Decision::Refuse);
        assert_eq!(decide(Some(&first), &write(2, Some(Version { number: 1, id: 9 }))), Decision::Refuse, "other id");
        assert_eq!(decide(Some(&first), &write(2, Some(Version { number: 2, id: 1 }))), Decision::Refuse);
        assert_eq!(decide(None, &write(2, Some(first.version))), Decision::Refuse);
        let second = accepted(Some(&first), &write(2, Some(first.version)));
        assert_eq!((second.version, second.ids.clone()), (Version { number: 2, id: 2 }, vec![1, 2]));
        assert_eq!(decide(Some(&second), &write(1, None)), Decision::AcceptedBefore);
    }

    #[test]
    fn register_keeps_the_ids_of_the_newest_writes() {
        let mut state = accepted(None, &write(1, None));
        for id in 2..=100 {
            state = accepted(Some(&state), &write(id, Some(state.version)));
        }
        assert_eq!(state.ids, (69..=100).collect::<Vec<_>>());
    }

    #[test]
    fn entry_survives_a_round_trip_and_foreign_values_are_none() {
        let state = accepted(None, &write(u128::MAX, None));
        assert_eq!(RegisterState::from_any(&state.to_any()), Some(state.clone()));
        let decoded = Any::decode(&mut DecoderV1::from(&state.encode()[..])).unwrap();
        assert_eq!(RegisterState::from_any(&decoded), Some(state));
        assert_eq!(RegisterState::from_any(&Any::from("x")), None);
        assert_eq!(RegisterState::from_any(&Any::Map(Arc::default())), None);
    }

    #[test]
    fn ulids_use_crockford_base32() {
        assert_eq!(ulid_text(0), "0".repeat(26));
        assert_eq!(ulid_text(u128::MAX), "7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
        for id in [0, 1, 31, 1 << 64, u128::MAX, 0x0191_2345_6789_abcd_ef01_2345_6789_abcd] {
            assert_eq!(parse_ulid(&ulid_text(id)), Some(id));
        }
        assert_eq!(parse_ulid("8ZZZZZZZZZZZZZZZZZZZZZZZZZ"), None, "129 bits");
        assert_eq!(parse_ulid("I0000000000000000000000000"), None);
    }
}
