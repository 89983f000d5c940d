//! The Hocuspocus 4 dialect: many documents on one socket (npm `@hocuspocus/provider` 4.8.0, `@hocuspocus/common`).
//!
//! Every frame consists of an address (the document name, or name NUL session id), a type and a payload. Ping and pong
//! are a single byte without an address.

use crate::limits::{MAX_ADDRESS_BYTES, MAX_TOKEN_BYTES};
use crate::sync::{SYNC, SyncError, SyncMessage};
use crate::varint::{ReadError, Reader, write_var_bytes, write_var_uint};

const AWARENESS: u64 = 1;
const AUTH: u64 = 2;
const QUERY_AWARENESS: u64 = 3;
const SYNC_REPLY: u64 = 4;
const STATELESS: u64 = 5;
const BROADCAST_STATELESS: u64 = 6;
const CLOSE: u64 = 7;
const SYNC_STATUS: u64 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A ping: a single byte. Providers 2.15 and 3.4 throw on it, so a server sends [`HEARTBEAT_FRAME`] instead.
pub const PING_FRAME: [u8; 1] = [PING];
/// The answer to a ping: a single byte.
pub const PONG_FRAME: [u8; 1] = [PONG];
/// An awareness update of no clients for a document with an empty name. Every provider from 2.9 to 4.8 reads the
/// address, finds no such document, and counts the message as proof that the connection is alive.
pub const HEARTBEAT_FRAME: [u8; 4] = [0, AWARENESS as u8, 1, 0];

/// One decoded frame; every field borrows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// [`PING_FRAME`].
    Ping,
    /// [`PONG_FRAME`].
    Pong,
    /// A message for one document.
    Addressed {
        /// The address as received; answers carry the same bytes.
        address: &'a str,
        /// The message for the addressed document.
        message: HocuspocusMessage<'a>,
    },
}

/// What a client may do with a document, as announced by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Changes are refused.
    ReadOnly,
    /// Changes are accepted.
    ReadWrite,
}

impl Scope {
    /// The string on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::ReadOnly => "readonly",
            Scope::ReadWrite => "read-write",
        }
    }
}

/// One addressed message. Types 2 and 7 have a different layout in each direction, so decoding takes the [`End`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HocuspocusMessage<'a> {
    /// Type 0: document data.
    Sync(SyncMessage<'a>),
    /// Type 1: a y-protocols awareness update.
    Awareness(&'a [u8]),
    /// Type 2, client: authentication.
    Token {
        /// Opaque to this crate.
        token: &'a str,
        /// Provider version, for logs. `None` from providers that are too old to send it.
        version: Option<&'a str>,
    },
    /// Type 2 0, server: asks the client to send its token again.
    TokenWanted,
    /// Type 2 1, server: access denied, with the reason.
    PermissionDenied(&'a str),
    /// Type 2 2, server: access granted.
    Authenticated(Scope),
    /// Type 3: asks for the awareness states of all clients.
    QueryAwareness,
    /// Type 4: a sync message that the receiver does not answer with its own step 1.
    SyncReply(SyncMessage<'a>),
    /// Type 5: a string for the application at the other end.
    Stateless(&'a str),
    /// Type 6: a string for the applications of all clients. Never sent by clients.
    BroadcastStateless(&'a str),
    /// Type 7: closes this document; the socket stays open. The server sends a reason, the client an empty string or
    /// nothing.
    Close(&'a str),
    /// Type 8, server: the preceding update was saved (true) or refused (false).
    SyncStatus(bool),
}

/// Which end of the connection decodes the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The frame came from a client.
    Server,
    /// The frame came from a server.
    Client,
}

/// Why a frame is not a message of this dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HocuspocusMessageError {
    /// The bytes are truncated or malformed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The sync part is malformed.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// This dialect has no such message type.
    #[error("unknown Hocuspocus message type {0}")]
    UnknownType(u64),
    /// The address is longer than [`MAX_ADDRESS_BYTES`].
    #[error("the document address is longer than {MAX_ADDRESS_BYTES} bytes")]
    AddressTooLong,
    /// The token is longer than [`MAX_TOKEN_BYTES`].
    #[error("the token is longer than {MAX_TOKEN_BYTES} bytes")]
    TokenTooLong,
    /// A frame holds exactly one message, but more bytes follow it.
    #[error("{0} bytes follow the message in its frame")]
    TrailingBytes(usize),
}

impl HocuspocusMessageError {
    /// True for a complete message whose type this dialect does not have. Receivers ignore it, as the reference server
    /// does (npm `@hocuspocus/server` 4.7.0).
    pub fn is_unknown_type(&self) -> bool {
        matches!(self, HocuspocusMessageError::UnknownType(_) | HocuspocusMessageError::Sync(SyncError::UnknownType(_)))
    }
}

impl<'a> Frame<'a> {
    /// Decodes a frame that holds exactly one message.
    pub fn decode(frame: &'a [u8], end: End) -> Result<Self, HocuspocusMessageError> {
        match Self::decode_prefix(frame, end)? {
            (frame, 0) => Ok(frame),
            (_, more) => Err(HocuspocusMessageError::TrailingBytes(more)),
        }
    }

    /// Decodes the message at the start of a frame. Returns it and the number of bytes that follow it; the reference
    /// server and providers ignore those bytes.
    pub fn decode_prefix(frame: &'a [u8], end: End) -> Result<(Self, usize), HocuspocusMessageError> {
        match frame {
            [PING] => return Ok((Frame::Ping, 0)),
            [PONG] => return Ok((Frame::Pong, 0)),
            _ => {}
        }
        let mut reader = Reader::new(frame);
        let address = read_address(&mut reader)?;
        let message = HocuspocusMessage::read(&mut reader, end)?;
        Ok((Frame::Addressed { address, message }, reader.remaining()))
    }
}

fn read_address<'a>(reader: &mut Reader<'a>) -> Result<&'a str, HocuspocusMessageError> {
    let address = reader.var_str()?;
    if address.len() > MAX_ADDRESS_BYTES { Err(HocuspocusMessageError::AddressTooLong) } else { Ok(address) }
}

/// Reads the address from the first bytes of a frame. Fails when `prefix` ends before the address does.
pub fn address_of(prefix: &[u8]) -> Result<&str, HocuspocusMessageError> {
    read_address(&mut Reader::new(prefix))
}

/// True when a frame that starts with `prefix` is a sync step 1.
pub fn begins_step1(prefix: &[u8]) -> bool {
    let mut reader = Reader::new(prefix);
    read_address(&mut reader).is_ok() && reader.rest().starts_with(&[SYNC as u8, 0])
}

/// The header of a sync step 2 with a payload of `bytes` bytes.
pub fn step2_head(address: &str, bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    write_var_bytes(&mut out, address.as_bytes());
    write_var_uint(&mut out, SYNC);
    SyncMessage::write_step2_head(bytes, &mut out);
    out
}

impl<'a> HocuspocusMessage<'a> {
    fn read(reader: &mut Reader<'a>, end: End) -> Result<Self, HocuspocusMessageError> {
        Ok(match reader.var_uint()? {
            SYNC => HocuspocusMessage::Sync(SyncMessage::read(reader)?),
            AWARENESS => HocuspocusMessage::Awareness(reader.var_bytes()?),
            AUTH => HocuspocusMessage::read_auth(reader, end)?,
            QUERY_AWARENESS => HocuspocusMessage::QueryAwareness,
            SYNC_REPLY => HocuspocusMessage::SyncReply(SyncMessage::read(reader)?),
            STATELESS => HocuspocusMessage::Stateless(reader.var_str()?),
            BROADCAST_STATELESS => HocuspocusMessage::BroadcastStateless(reader.var_str()?),
            CLOSE if end == End::Server => {
                HocuspocusMessage::Close(if reader.is_empty() { "" } else { reader.var_str()? })
            }
            CLOSE => HocuspocusMessage::Close(reader.var_str()?),
            // lib0 writes 0 and 1 as a signed integer: the same single byte.
            SYNC_STATUS => HocuspocusMessage::SyncStatus(reader.u8()? == 1),
            other => return Err(HocuspocusMessageError::UnknownType(other)),
        })
    }

    fn read_auth(reader: &mut Reader<'a>, end: End) -> Result<Self, HocuspocusMessageError> {
        match (reader.var_uint()?, end) {
            (0, End::Server) => {
                let token = reader.var_str()?;
                if token.len() > MAX_TOKEN_BYTES {
                    return Err(HocuspocusMessageError::TokenTooLong);
                }
                let version = if reader.is_empty() { None } else { Some(reader.var_str()?) };
                Ok(HocuspocusMessage::Token { token, version })
            }
            (0, End::Client) => Ok(HocuspocusMessage::TokenWanted),
            (1, End::Client) => Ok(HocuspocusMessage::PermissionDenied(reader.var_str()?)),
            (2, End::Client) => Ok(HocuspocusMessage::Authenticated(match reader.var_str()? {
                "readonly" => Scope::ReadOnly,
                _ => Scope::ReadWrite,
            })),
            (other, _) => Err(HocuspocusMessageError::UnknownType(other)),
        }
    }

    /// Encodes this message as a frame for `address`.
    pub fn encode(&self, address: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(address.len() + 16);
        write_var_bytes(&mut out, address.as_bytes());
        match self {
            HocuspocusMessage::Sync(sync) => {
                write_var_uint(&mut out, SYNC);
                sync.write(&mut out);
            }
            HocuspocusMessage::Awareness(update) => {
                write_var_uint(&mut out, AWARENESS);
                write_var_bytes(&mut out, update);
            }
            HocuspocusMessage::Token { token, version } => {
                out.extend_from_slice(&[AUTH as u8, 0]);
                write_var_bytes(&mut out, token.as_bytes());
                if let Some(version) = version {
                    write_var_bytes(&mut out, version.as_bytes());
                }
            }
            HocuspocusMessage::TokenWanted => out.extend_from_slice(&[AUTH as u8, 0]),
            HocuspocusMessage::PermissionDenied(reason) => {
                out.extend_from_slice(&[AUTH as u8, 1]);
                write_var_bytes(&mut out, reason.as_bytes());
            }
            HocuspocusMessage::Authenticated(scope) => {
                out.extend_from_slice(&[AUTH as u8, 2]);
                write_var_bytes(&mut out, scope.as_str().as_bytes());
            }
            HocuspocusMessage::QueryAwareness => write_var_uint(&mut out, QUERY_AWARENESS),
            HocuspocusMessage::SyncReply(sync) => {
                write_var_uint(&mut out, SYNC_REPLY);
                sync.write(&mut out);
            }
            HocuspocusMessage::Stateless(text) => {
                write_var_uint(&mut out, STATELESS);
                write_var_bytes(&mut out, text.as_bytes());
            }
            HocuspocusMessage::BroadcastStateless(text) => {
                write_var_uint(&mut out, BROADCAST_STATELESS);
                write_var_bytes(&mut out, text.as_bytes());
            }
            HocuspocusMessage::Close(reason) => {
                write_var_uint(&mut out, CLOSE);
                write_var_bytes(&mut out, reason.as_bytes());
            }
            HocuspocusMessage::SyncStatus(saved) => out.extend_from_slice(&[SYNC_STATUS as u8, u8::from(*saved)]),
        }
        out
    }
}

/// Splits an address into the document name and the session id after NUL, if present
/// (`parseRoutingKey` in `@hocuspocus/common`).
pub fn split_address(address: &str) -> (&str, Option<&str>) {
    match address.split_once('\0') {
        Some((name, session)) => (name, Some(session)),
        None => (address, None),
    }
}
