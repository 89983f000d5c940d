//! The y-websocket dialect: `ws://host/<document name>`, one message per frame (npm `y-websocket` 3.1.0).
//!
//! The first byte is the type: 0 sync, 1 awareness, 2 auth (only from the server), 3 query awareness.

use crate::sync::{SYNC, SyncError, SyncMessage};
use crate::varint::{ReadError, Reader, write_var_bytes, write_var_uint};

const AWARENESS: u64 = 1;
const AUTH: u64 = 2;
const QUERY_AWARENESS: u64 = 3;

/// One message; payloads are borrowed from the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum YWebsocketMessage<'a> {
    /// Document data.
    Sync(SyncMessage<'a>),
    /// A y-protocols awareness update.
    Awareness(&'a [u8]),
    /// The server denies access, with the reason. (`02 00 reason`)
    PermissionDenied(&'a str),
    /// Asks for the awareness states of all clients.
    QueryAwareness,
}

/// Why a frame is not a message of this dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum YWebsocketMessageError {
    /// The bytes are truncated or malformed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The sync part is malformed.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// This dialect has no such message type.
    #[error("unknown y-websocket message type {0}")]
    UnknownType(u64),
    /// A frame holds exactly one message, but more bytes follow it.
    #[error("{0} bytes follow the message in its frame")]
    TrailingBytes(usize),
}

impl YWebsocketMessageError {
    /// True for a complete message whose type this dialect does not have. Receivers ignore it, as the reference
    /// server does (npm `@y/websocket-server` 0.1.5), because applications add their own types.
    pub fn is_unknown_type(&self) -> bool {
        matches!(self, YWebsocketMessageError::UnknownType(_) | YWebsocketMessageError::Sync(SyncError::UnknownType(_)))
    }
}

/// The header of a sync step 2 with a payload of `bytes` bytes.
pub fn step2_head(bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    write_var_uint(&mut out, SYNC);
    SyncMessage::write_step2_head(bytes, &mut out);
    out
}

impl<'a> YWebsocketMessage<'a> {
    /// Decodes a frame that holds exactly one message.
    pub fn decode(frame: &'a [u8]) -> Result<Self, YWebsocketMessageError> {
        let mut reader = Reader::new(frame);
        let message = Self::read(&mut reader)?;
        match reader.remaining() {
            0 => Ok(message),
            more => Err(YWebsocketMessageError::TrailingBytes(more)),
        }
    }

    /// Reads one message and advances the reader past it. After an error the rest of the frame cannot be read.
    pub fn read(reader: &mut Reader<'a>) -> Result<Self, YWebsocketMessageError> {
        Ok(match reader.var_uint()? {
            SYNC => YWebsocketMessage::Sync(SyncMessage::read(reader)?),
            AWARENESS => YWebsocketMessage::Awareness(reader.var_bytes()?),
            AUTH => match reader.var_uint()? {
                0 => YWebsocketMessage::PermissionDenied(reader.var_str()?),
                other => return Err(YWebsocketMessageError::UnknownType(other)),
            },
            QUERY_AWARENESS => YWebsocketMessage::QueryAwareness,
            other => return Err(YWebsocketMessageError::UnknownType(other)),
        })
    }

    /// Encodes this message as a frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            YWebsocketMessage::Sync(sync) => return sync.encode_plain(),
            YWebsocketMessage::Awareness(update) => {
                write_var_uint(&mut out, AWARENESS);
                write_var_bytes(&mut out, update);
            }
            YWebsocketMessage::PermissionDenied(reason) => {
                write_var_uint(&mut out, AUTH);
                write_var_uint(&mut out, 0);
                write_var_bytes(&mut out, reason.as_bytes());
            }
            YWebsocketMessage::QueryAwareness => write_var_uint(&mut out, QUERY_AWARENESS),
        }
        out
    }
}
