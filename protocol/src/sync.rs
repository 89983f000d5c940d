//! y-protocols sync messages, the part that all dialects share (npm `y-protocols` 1.0.7, `sync.js`).
//!
//! `00 stateVector` asks for what the sender lacks, `01 update` answers, `02 update` announces a change. Payloads are
//! length-prefixed and opaque here; [`crate::update`] validates them.

use crate::varint::{ReadError, Reader, var_uint_len, write_var_bytes, write_var_uint};

/// The type of a sync message among y-protocols messages, in all dialects of y-protocols.
pub(crate) const SYNC: u64 = 0;

const STEP1: u64 = 0;
const STEP2: u64 = 1;
const UPDATE: u64 = 2;

/// One sync message; payloads are borrowed from the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMessage<'a> {
    /// The sender's state vector; asks for everything that the sender lacks.
    Step1(&'a [u8]),
    /// The answer to a step 1: a v1 update.
    Step2(&'a [u8]),
    /// A new change: a v1 update.
    Update(&'a [u8]),
}

/// Why bytes are not a sync message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SyncError {
    /// The bytes are truncated or malformed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A sync message type other than 0, 1 and 2.
    #[error("unknown sync message type {0}")]
    UnknownType(u64),
}

impl<'a> SyncMessage<'a> {
    /// Reads one message and advances the reader past it.
    pub fn read(reader: &mut Reader<'a>) -> Result<Self, SyncError> {
        let kind = reader.var_uint()?;
        if kind > UPDATE {
            return Err(SyncError::UnknownType(kind));
        }
        let payload = reader.var_bytes()?;
        Ok(match kind {
            STEP1 => SyncMessage::Step1(payload),
            STEP2 => SyncMessage::Step2(payload),
            _ => SyncMessage::Update(payload),
        })
    }

    /// Appends the message.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (kind, payload) = self.parts();
        out.reserve(1 + var_uint_len(payload.len() as u64) + payload.len());
        write_var_uint(out, kind);
        write_var_bytes(out, payload);
    }

    /// Encodes the message without an address: its y-protocols type, then the message.
    pub fn encode_plain(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write_var_uint(&mut out, SYNC);
        self.write(&mut out);
        out
    }

    /// Appends the header of a step 2 with a payload of `bytes` bytes.
    pub(crate) fn write_step2_head(bytes: usize, out: &mut Vec<u8>) {
        write_var_uint(out, STEP2);
        write_var_uint(out, bytes as u64);
    }

    fn parts(&self) -> (u64, &'a [u8]) {
        match self {
            SyncMessage::Step1(payload) => (STEP1, payload),
            SyncMessage::Step2(payload) => (STEP2, payload),
            SyncMessage::Update(payload) => (UPDATE, payload),
        }
    }
}
