//! PURE: encoding of the journal, a device's stored form of one document. The log below ensures integrity and order.
//!
//! A journal is an optional snapshot and the notes after it. A note is one record of the log; replaying the notes in
//! order restores the document and its queue. Integers are varUint, ids are 16 bytes big-endian, the last field of a
//! note is the rest of the record.

use bytes::Bytes;
use syncline_protocol::ids::{Epoch, Seq};
use syncline_protocol::native::{Cursor, Version};
use syncline_protocol::varint::{ReadError, Reader, write_var_bytes, write_var_uint};
use thiserror::Error;

/// Version of the layout, the first byte of a snapshot.
const LAYOUT: u8 = 1;

/// One event in a document's life on this device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Note {
    /// A local edit, added to the queue.
    Edit { id: u128, at_ms: u64, update: Bytes },
    /// A local write to a versioned register, added to the queue.
    Proposal(Proposed),
    /// A remote change that was applied, with its sequence number in the document; 0 if the server is known to have it.
    Remote { seq: Seq, update: Bytes },
    /// This device and the server's disk agree up to `cursor`, at time `at_ms`.
    InStep { cursor: Cursor, at_ms: u64 },
    /// All edits of the queue up to and including this one are on the server's disk, except refused ones.
    Saved { through: u128 },
    /// The server refused this entry.
    Refused { id: u128, code: u16, reason: String },
    /// Refused entries are pending again.
    Retry,
    /// The server decided on this proposal, which leaves the queue.
    Decided { id: u128 },
    /// Written before and after a snapshot that replaces everything. In a snapshot's queue: entries before and after it
    /// must not be merged.
    StartOver,
    /// Edits after this note are stamped by the device's clock plus this offset.
    Clock { offset_ms: i64 },
    /// A local edit that moved the stamps of all queued writes to the device's clock plus `offset_ms`. Edit and offset
    /// are one note, so that the stamps are never corrected twice.
    Restamp { offset_ms: i64, id: u128, at_ms: u64, update: Bytes },
    /// The connection was lost; all queue entries up to this one have been sent at least once.
    Sent { through: u128 },
}

/// A queued write to a versioned register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proposed {
    pub(crate) id: u128,
    pub(crate) at_ms: u64,
    pub(crate) register: String,
    pub(crate) based_on: Option<Version>,
    pub(crate) author: String,
    /// The value, encoded as lib0 `Any`.
    pub(crate) value: Bytes,
}

/// The complete stored form of a document.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Snapshot {
    pub(crate) in_step: Option<(Cursor, u64)>,
    /// The state that the server is known to have, as one v1 update.
    pub(crate) base: Bytes,
    /// Notes that restore the queue, oldest first, and the updates after the base.
    pub(crate) notes: Vec<Note>,
}

/// Why a record or snapshot cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum JournalError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("unknown kind of note {0}; was it written by a newer version?")]
    UnknownKind(u8),
    #[error("unknown snapshot layout {0}; was it written by a newer version?")]
    UnknownLayout(u8),
    #[error("a field has an invalid value")]
    BadField,
}

const EDIT: u8 = 1;
const PROPOSAL: u8 = 2;
const REMOTE: u8 = 3;
const IN_STEP: u8 = 4;
const SAVED: u8 = 5;
const REFUSED: u8 = 6;
const RETRY: u8 = 7;
const DECIDED: u8 = 8;
const START_OVER: u8 = 9;
const CLOCK: u8 = 10;
const RESTAMP: u8 = 11;
const SENT: u8 = 12;

impl Note {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Note::Edit { id, at_ms, update } => {
                out.push(EDIT);
                out.extend(id.to_be_bytes());
                write_var_uint(&mut out, *at_ms);
                out.extend(update);
            }
            Note::Proposal(proposed) => {
                out.push(PROPOSAL);
                out.extend(proposed.id.to_be_bytes());
                write_var_uint(&mut out, proposed.at_ms);
                write_var_bytes(&mut out, proposed.register.as_bytes());
                write_var_uint(&mut out, proposed.based_on.map_or(0, |version| version.number));
                out.extend(proposed.based_on.map_or(0, |version| version.id).to_be_bytes());
                write_var_bytes(&mut out, proposed.author.as_bytes());
                out.extend(&proposed.value);
            }
            Note::Remote { seq, update } => {
                out.push(REMOTE);
                write_var_uint(&mut out, seq.0);
                out.extend(update);
            }
            Note::InStep { cursor, at_ms } => {
                out.push(IN_STEP);
                write_in_step(&mut out, *cursor, *at_ms);
            }
            Note::Saved { through: id } => {
                out.push(SAVED);
                out.extend(id.to_be_bytes());
            }
            Note::Sent { through: id } => {
                out.push(SENT);
                out.extend(id.to_be_bytes());
            }
            Note::Decided { id } => {
                out.push(DECIDED);
                out.extend(id.to_be_bytes());
            }
            Note::Refused { id, code, reason } => {
                out.push(REFUSED);
                out.extend(id.to_be_bytes());
                write_var_uint(&mut out, u64::from(*code));
                out.extend(reason.as_bytes());
            }
            Note::Retry => out.push(RETRY),
            Note::StartOver => out.push(START_OVER),
            Note::Clock { offset_ms } => {
                out.push(CLOCK);
                out.extend(offset_ms.to_be_bytes());
            }
            Note::Restamp { offset_ms, id, at_ms, update } => {
                out.push(RESTAMP);
                out.extend(offset_ms.to_be_bytes());
                out.extend(id.to_be_bytes());
                write_var_uint(&mut out, *at_ms);
                out.extend(update);
            }
        }
        out.into()
    }

    pub(crate) fn decode(record: &Bytes) -> Result<Self, JournalError> {
        let mut reader = Reader::new(record);
        let rest = |reader: &Reader<'_>| record.slice_ref(reader.rest());
        Ok(match reader.u8()? {
            EDIT => {
                let (id, at_ms) = (id(&mut reader)?, reader.var_uint()?);
                Note::Edit { id, at_ms, update: rest(&reader) }
            }
            PROPOSAL => {
                let (own, at_ms, register) = (id(&mut reader)?, reader.var_uint()?, reader.var_str()?.to_owned());
                let (number, base) = (reader.var_uint()?, id(&mut reader)?);
                let based_on = (number > 0).then_some(Version { number, id: base });
                let author = reader.var_str()?.to_owned();
                Note::Proposal(Proposed { id: own, at_ms, register, based_on, author, value: rest(&reader) })
            }
            REMOTE => {
                let seq = Seq(reader.var_uint()?);
                Note::Remote { seq, update: rest(&reader) }
            }
            IN_STEP => {
                let (cursor, at_ms) = read_in_step(&mut reader)?;
                Note::InStep { cursor, at_ms }
            }
            SAVED => Note::Saved { through: id(&mut reader)? },
            SENT => Note::Sent { through: id(&mut reader)? },
            DECIDED => Note::Decided { id: id(&mut reader)? },
            REFUSED => {
                let (id, code) = (id(&mut reader)?, reader.var_uint()?);
                let code = u16::try_from(code).map_err(|_| JournalError::BadField)?;
                let reason = std::str::from_utf8(reader.rest()).map_err(|_| ReadError::NotUtf8)?.to_owned();
                Note::Refused { id, code, reason }
            }
            RETRY => Note::Retry,
            START_OVER => Note::StartOver,
            CLOCK => Note::Clock { offset_ms: offset(&mut reader)? },
            RESTAMP => {
                let (offset_ms, id, at_ms) = (offset(&mut reader)?, id(&mut reader)?, reader.var_uint()?);
                Note::Restamp { offset_ms, id, at_ms, update: rest(&reader) }
            }
            other => return Err(JournalError::UnknownKind(other)),
        })
    }
}

impl Snapshot {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![LAYOUT, u8::from(self.in_step.is_some())];
        if let Some((cursor, at_ms)) = self.in_step {
            write_in_step(&mut out, cursor, at_ms);
        }
        write_var_bytes(&mut out, &self.base);
        write_var_uint(&mut out, self.notes.len() as u64);
        for note in &self.notes {
            write_var_bytes(&mut out, &note.encode());
        }
        out.into()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, JournalError> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            LAYOUT => {}
            other => return Err(JournalError::UnknownLayout(other)),
        }
        let in_step = match reader.u8()? {
            0 => None,
            1 => Some(read_in_step(&mut reader)?),
            _ => return Err(JournalError::BadField),
        };
        let base = bytes.slice_ref(reader.var_bytes()?);
        let mut notes = Vec::new();
        for _ in 0..reader.var_uint()? {
            notes.push(Note::decode(&bytes.slice_ref(reader.var_bytes()?))?);
        }
        Ok(Self { in_step, base, notes })
    }
}

fn write_in_step(out: &mut Vec<u8>, cursor: Cursor, at_ms: u64) {
    out.extend(cursor.epoch.0.to_be_bytes());
    write_var_uint(out, cursor.seq.0);
    write_var_uint(out, at_ms);
}

fn read_in_step(reader: &mut Reader<'_>) -> Result<(Cursor, u64), ReadError> {
    let cursor = Cursor { epoch: Epoch(id(reader)?), seq: Seq(reader.var_uint()?) };
    Ok((cursor, reader.var_uint()?))
}

fn id(reader: &mut Reader<'_>) -> Result<u128, ReadError> {
    Ok(reader.bytes(16)?.iter().fold(0, |id, &byte| id << 8 | u128::from(byte)))
}

fn offset(reader: &mut Reader<'_>) -> Result<i64, ReadError> {
    Ok(reader.bytes(8)?.iter().fold(0, |offset, &byte| offset << 8 | i64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes() -> Vec<Note> {
        let proposed = Proposed {
            id: 5,
            at_ms: 6,
            register: "status".into(),
            based_on: Some(Version { number: 10, id: u128::MAX }),
            author: "Ana".into(),
            value: Bytes::from_static(&[119, 1, b'a']),
        };
        vec![
            Note::Edit { id: 1 << 100, at_ms: 1 << 41, update: Bytes::from_static(&[0, 0]) },
            Note::Proposal(proposed.clone()),
            Note::Proposal(Proposed { based_on: None, ..proposed }),
            Note::Remote { seq: Seq(4), update: Bytes::from_static(&[0, 0]) },
            Note::InStep { cursor: Cursor { epoch: Epoch(9), seq: Seq(300) }, at_ms: 7 },
            Note::Saved { through: 3 },
            Note::Sent { through: 4 },
            Note::Refused { id: 3, code: 4403, reason: "no".into() },
            Note::Retry,
            Note::Decided { id: 3 },
            Note::StartOver,
            Note::Clock { offset_ms: -5 },
            Note::Restamp { offset_ms: i64::MIN, id: 4, at_ms: 7, update: Bytes::from_static(&[0, 0]) },
        ]
    }

    #[test]
    fn notes_roundtrip() {
        for note in notes() {
            assert_eq!(Note::decode(&note.encode()), Ok(note));
        }
    }

    #[test]
    fn snapshot_roundtrips_and_truncated_snapshot_is_rejected() {
        let in_step = Some((Cursor { epoch: Epoch(1), seq: Seq(2) }, 3));
        let snapshot = Snapshot { in_step, base: Bytes::from_static(&[0, 0]), notes: notes() };
        let bytes = snapshot.encode();
        assert_eq!(Snapshot::decode(&bytes), Ok(snapshot));
        for len in 0..bytes.len() {
            assert!(Snapshot::decode(&bytes.slice(..len)).is_err(), "cut at {len}");
        }
    }
}
