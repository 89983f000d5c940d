//! Encodes and decodes native messages. Decoding borrows its payload and allocates nothing.

use super::{Channel, Cursor, MAGIC, NativeMessageError, Proposal, Resume, ToClient, ToServer, Version};
use crate::ids::{Epoch, Seq};
use crate::varint::{ReadError, Reader, write_var_bytes, write_var_uint};

mod kind {
    pub(super) const OPEN: u64 = 1;
    pub(super) const CHANGE: u64 = 2;
    pub(super) const PROPOSE: u64 = 3;
    pub(super) const STATE_VECTOR: u64 = 4;
    pub(super) const PRESENCE: u64 = 5;
    pub(super) const LEAVE: u64 = 6;
    pub(super) const PING: u64 = 7;
    pub(super) const WELCOME: u64 = 16;
    pub(super) const OPENED: u64 = 17;
    pub(super) const CHANGED: u64 = 18;
    pub(super) const DIFF: u64 = 19;
    pub(super) const DURABLE: u64 = 20;
    pub(super) const ACK: u64 = 21;
    pub(super) const REFUSED: u64 = 22;
    pub(super) const DECIDED: u64 = 23;
    pub(super) const PRESENT: u64 = 24;
    pub(super) const CLOSED: u64 = 25;
    pub(super) const PONG: u64 = 26;
}

const HAS_CURSOR: u64 = 1;
const WANTS_STATE_VECTOR: u64 = 2;
const READ_ONLY: u64 = 1;
const HAS_STATE_VECTOR: u64 = 2;
const RESUME_SHIFT: u32 = 2;

impl<'a> ToServer<'a> {
    /// Decodes a frame. A Hello is recognised by its magic bytes, also after the first frame.
    ///
    /// # Errors
    /// When the frame is not exactly one message.
    pub fn decode(frame: &'a [u8]) -> Result<Self, NativeMessageError> {
        if let Some(rest) = frame.strip_prefix(&MAGIC) {
            let mut reader = Reader::new(rest);
            let hello = Self::Hello { version: reader.var_uint()?, device: read_id(&mut reader)? };
            return expect_end(&reader, hello);
        }
        let mut reader = Reader::new(frame);
        let kind = reader.var_uint()?;
        if kind == kind::PING {
            return expect_end(&reader, Self::Ping);
        }
        if !(kind::OPEN..=kind::LEAVE).contains(&kind) {
            return Err(NativeMessageError::UnknownType(kind));
        }
        let channel = reader.var_uint()?;
        match kind {
            kind::OPEN => {
                let (document, token, flags) = (reader.var_str()?, reader.var_str()?, reader.var_uint()?);
                if flags > (HAS_CURSOR | WANTS_STATE_VECTOR) {
                    return Err(NativeMessageError::BadField(flags));
                }
                let cursor = if flags & HAS_CURSOR > 0 { Some(read_cursor(&mut reader)?) } else { None };
                let wants_state_vector = flags & WANTS_STATE_VECTOR > 0;
                expect_end(&reader, Self::Open { channel, document, token, cursor, wants_state_vector })
            }
            kind::CHANGE => Ok(Self::Change { channel, batch: reader.var_uint()?, update: reader.rest() }),
            kind::PROPOSE => {
                let batch = reader.var_uint()?;
                let (register, write_id) = (reader.var_str()?, read_id(&mut reader)?);
                let based_on = match reader.var_uint()? {
                    0 => None,
                    number => Some(Version { number, id: read_id(&mut reader)? }),
                };
                let (author, at_ms) = (reader.var_str()?, reader.var_uint()?);
                let proposal = Proposal { register, id: write_id, based_on, author, at_ms, value: reader.rest() };
                Ok(Self::Propose { channel, batch, proposal })
            }
            kind::STATE_VECTOR => Ok(Self::StateVector { channel, state_vector: reader.rest() }),
            kind::PRESENCE => Ok(Self::Presence { channel, update: reader.rest() }),
            _ => expect_end(&reader, Self::Leave { channel }),
        }
    }

    /// Encodes this message as a frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match *self {
            Self::Hello { version, device } => {
                out.extend(MAGIC);
                write_var_uint(&mut out, version);
                out.extend(device.to_be_bytes());
            }
            Self::Open { channel, document, token, cursor, wants_state_vector } => {
                write_header(&mut out, kind::OPEN, channel);
                write_var_bytes(&mut out, document.as_bytes());
                write_var_bytes(&mut out, token.as_bytes());
                let flags = u64::from(cursor.is_some()) * HAS_CURSOR;
                write_var_uint(&mut out, flags | (u64::from(wants_state_vector) * WANTS_STATE_VECTOR));
                if let Some(cursor) = cursor {
                    write_cursor(&mut out, cursor);
                }
            }
            Self::Change { channel, batch, update } => {
                write_header(&mut out, kind::CHANGE, channel);
                write_var_uint(&mut out, batch);
                out.extend(update);
            }
            Self::Propose { channel, batch, proposal } => {
                write_header(&mut out, kind::PROPOSE, channel);
                write_var_uint(&mut out, batch);
                write_var_bytes(&mut out, proposal.register.as_bytes());
                out.extend(proposal.id.to_be_bytes());
                match proposal.based_on {
                    None => write_var_uint(&mut out, 0),
                    Some(version) => {
                        write_var_uint(&mut out, version.number);
                        out.extend(version.id.to_be_bytes());
                    }
                }
                write_var_bytes(&mut out, proposal.author.as_bytes());
                write_var_uint(&mut out, proposal.at_ms);
                out.extend(proposal.value);
            }
            Self::StateVector { channel, state_vector } => {
                write_header(&mut out, kind::STATE_VECTOR, channel);
                out.extend(state_vector);
            }
            Self::Presence { channel, update } => {
                write_header(&mut out, kind::PRESENCE, channel);
                out.extend(update);
            }
            Self::Leave { channel } => write_header(&mut out, kind::LEAVE, channel),
            Self::Ping => write_var_uint(&mut out, kind::PING),
        }
        out
    }
}

impl<'a> ToClient<'a> {
    /// Decodes a frame.
    ///
    /// # Errors
    /// When the frame is not exactly one message. A newer server may send an unknown type.
    pub fn decode(frame: &'a [u8]) -> Result<Self, NativeMessageError> {
        let mut reader = Reader::new(frame);
        let kind = reader.var_uint()?;
        match kind {
            kind::WELCOME => {
                let (version, time_ms, max_message_bytes) =
                    (reader.var_uint()?, reader.var_uint()?, reader.var_uint()?);
                return expect_end(&reader, Self::Welcome { version, time_ms, max_message_bytes });
            }
            kind::PONG => return expect_end(&reader, Self::Pong),
            kind::OPENED..=kind::CLOSED => {}
            _ => return Err(NativeMessageError::UnknownType(kind)),
        }
        let channel = reader.var_uint()?;
        match kind {
            kind::OPENED => read_opened(&mut reader, channel),
            kind::CHANGED => Ok(Self::Change { channel, seq: Seq(reader.var_uint()?), update: reader.rest() }),
            kind::DIFF => Ok(Self::Diff { channel, seq: Seq(reader.var_uint()?), update: reader.rest() }),
            kind::DURABLE => {
                let seq = Seq(reader.var_uint()?);
                expect_end(&reader, Self::Durable { channel, seq })
            }
            kind::ACK => {
                let (batch, seq) = (reader.var_uint()?, Seq(reader.var_uint()?));
                expect_end(&reader, Self::Ack { channel, batch, seq })
            }
            kind::REFUSED => {
                let (batch, code, reason) = (reader.var_uint()?, read_code(&mut reader)?, reader.var_str()?);
                expect_end(&reader, Self::Refused { channel, batch, code, reason })
            }
            kind::DECIDED => {
                let (batch, accepted) = (reader.var_uint()?, reader.var_uint()?);
                if accepted > 1 {
                    return Err(NativeMessageError::BadField(accepted));
                }
                Ok(Self::Decided { channel, batch, accepted: accepted == 1, register: reader.rest() })
            }
            kind::PRESENT => Ok(Self::Presence { channel, update: reader.rest() }),
            _ => {
                let (code, reason) = (read_code(&mut reader)?, reader.var_str()?);
                expect_end(&reader, Self::Closed { channel, code, reason })
            }
        }
    }

    /// Encodes this message as a frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match *self {
            Self::Welcome { version, time_ms, max_message_bytes } => {
                write_var_uint(&mut out, kind::WELCOME);
                write_var_uint(&mut out, version);
                write_var_uint(&mut out, time_ms);
                write_var_uint(&mut out, max_message_bytes);
            }
            Self::Opened { channel, cursor, read_only, resume, state_vector } => {
                write_header(&mut out, kind::OPENED, channel);
                write_cursor(&mut out, cursor);
                let resume = match resume {
                    Resume::FromCursor => 0,
                    Resume::SendStateVector => 1,
                    Resume::OtherHistory => 2,
                };
                let flags = (u64::from(read_only) * READ_ONLY) | (u64::from(state_vector.is_some()) * HAS_STATE_VECTOR);
                write_var_uint(&mut out, flags | resume << RESUME_SHIFT);
                out.extend(state_vector.unwrap_or_default());
            }
            Self::Change { channel, seq, update } => write_sequenced(&mut out, kind::CHANGED, channel, seq, update),
            Self::Diff { channel, seq, update } => write_sequenced(&mut out, kind::DIFF, channel, seq, update),
            Self::Durable { channel, seq } => write_sequenced(&mut out, kind::DURABLE, channel, seq, &[]),
            Self::Ack { channel, batch, seq } => {
                write_header(&mut out, kind::ACK, channel);
                write_var_uint(&mut out, batch);
                write_var_uint(&mut out, seq.0);
            }
            Self::Refused { channel, batch, code, reason } => {
                write_header(&mut out, kind::REFUSED, channel);
                write_var_uint(&mut out, batch);
                write_var_uint(&mut out, code.into());
                write_var_bytes(&mut out, reason.as_bytes());
            }
            Self::Decided { channel, batch, accepted, register } => {
                write_header(&mut out, kind::DECIDED, channel);
                write_var_uint(&mut out, batch);
                write_var_uint(&mut out, accepted.into());
                out.extend(register);
            }
            Self::Presence { channel, update } => {
                write_header(&mut out, kind::PRESENT, channel);
                out.extend(update);
            }
            Self::Closed { channel, code, reason } => {
                write_header(&mut out, kind::CLOSED, channel);
                write_var_uint(&mut out, code.into());
                write_var_bytes(&mut out, reason.as_bytes());
            }
            Self::Pong => write_var_uint(&mut out, kind::PONG),
        }
        out
    }
}

fn read_opened<'a>(reader: &mut Reader<'a>, channel: Channel) -> Result<ToClient<'a>, NativeMessageError> {
    let (cursor, flags) = (read_cursor(reader)?, reader.var_uint()?);
    let resume = match flags >> RESUME_SHIFT {
        0 => Resume::FromCursor,
        1 => Resume::SendStateVector,
        2 => Resume::OtherHistory,
        _ => return Err(NativeMessageError::BadField(flags)),
    };
    let state_vector = (flags & HAS_STATE_VECTOR > 0).then(|| reader.rest());
    if state_vector.is_none() && !reader.is_empty() {
        return Err(NativeMessageError::TrailingBytes(reader.remaining()));
    }
    Ok(ToClient::Opened { channel, cursor, read_only: flags & READ_ONLY > 0, resume, state_vector })
}

/// Reads the channel from the first bytes of a message to the server. `None` for messages about no document, and for
/// unknown types.
pub fn channel_of(prefix: &[u8]) -> Option<Channel> {
    let mut reader = Reader::new(prefix);
    let kind = reader.var_uint().ok()?;
    if (kind::OPEN..=kind::LEAVE).contains(&kind) { reader.var_uint().ok() } else { None }
}

/// Reads the batch from the first bytes of a [`ToServer::Change`]. `None` for every other message.
pub fn begins_change(prefix: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(prefix);
    let is_change = reader.var_uint().ok()? == kind::CHANGE;
    reader.var_uint().ok()?;
    if is_change { reader.var_uint().ok() } else { None }
}

fn write_header(out: &mut Vec<u8>, kind: u64, channel: Channel) {
    write_var_uint(out, kind);
    write_var_uint(out, channel);
}

fn write_sequenced(out: &mut Vec<u8>, kind: u64, channel: Channel, seq: Seq, rest: &[u8]) {
    out.reserve(16 + rest.len());
    write_header(out, kind, channel);
    write_var_uint(out, seq.0);
    out.extend(rest);
}

fn write_cursor(out: &mut Vec<u8>, cursor: Cursor) {
    out.extend(cursor.epoch.0.to_be_bytes());
    write_var_uint(out, cursor.seq.0);
}

fn read_cursor(reader: &mut Reader<'_>) -> Result<Cursor, ReadError> {
    Ok(Cursor { epoch: Epoch(read_id(reader)?), seq: Seq(reader.var_uint()?) })
}

fn read_id(reader: &mut Reader<'_>) -> Result<u128, ReadError> {
    let bytes = reader.bytes(16)?;
    Ok(bytes.iter().fold(0, |id, &byte| id << 8 | u128::from(byte)))
}

fn read_code(reader: &mut Reader<'_>) -> Result<u16, NativeMessageError> {
    let code = reader.var_uint()?;
    u16::try_from(code).map_err(|_| NativeMessageError::BadField(code))
}

fn expect_end<T>(reader: &Reader<'_>, message: T) -> Result<T, NativeMessageError> {
    match reader.remaining() {
        0 => Ok(message),
        more => Err(NativeMessageError::TrailingBytes(more)),
    }
}
