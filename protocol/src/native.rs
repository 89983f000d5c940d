//! The native dialect: many documents over one socket, resumed by a cursor. SPEC.md, "The native dialect".
//!
//! A frame is a varUint type, a varUint *channel* (the client's number for one document; absent when the message is
//! about no document), then fields. The last field of a type may be the rest of the frame, which needs no length
//! prefix. Ids and epochs are 16 bytes, big-endian.

mod codec;

pub use self::codec::{begins_change, channel_of};
#[cfg(test)]
mod tests;

use crate::ids::{Epoch, Seq};
use crate::varint::ReadError;

/// The protocol version that this code implements.
pub const VERSION: u64 = 1;

/// The first bytes of every native session: the varString `"\0syncline"`. In Hocuspocus it would be an address with an
/// empty name.
pub const MAGIC: [u8; 10] = *b"\x09\0syncline";

/// True when a session's first frame is a native Hello. Check this before [`crate::detect::detect`].
pub fn is_hello(first_frame: &[u8]) -> bool {
    first_frame.starts_with(&MAGIC)
}

/// The number that the client chose for one document of its session.
pub type Channel = u64;

/// A position in a document's history: everything up to `seq` of `epoch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The history that `seq` counts in.
    pub epoch: Epoch,
    /// The last record included.
    pub seq: Seq,
}

/// The version of a register's value; a write names the version that it is based on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version {
    /// Counts accepted writes, from 1.
    pub number: u64,
    /// The id of the write that created this version. Two devices may each create a version with the same number.
    pub id: u128,
}

/// A write to a versioned register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proposal<'a> {
    /// Name of the register.
    pub register: &'a str,
    /// Identifies this write (a ULID); a retry has the same id.
    pub id: u128,
    /// The version that the author saw; `None`: the register had no value.
    pub based_on: Option<Version>,
    /// Display name of the author.
    pub author: &'a str,
    /// When the write was made, in milliseconds since the Unix epoch by the author's clock. For display only.
    pub at_ms: u64,
    /// The new value, as lib0 `Any`.
    pub value: &'a [u8],
}

/// A message from a client to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToServer<'a> {
    /// The first frame of a session.
    Hello {
        /// The newest protocol version that the client implements.
        version: u64,
        /// Identifies the device (a ULID), for logs and display.
        device: u128,
    },
    /// Opens a document and binds it to a channel. (1)
    Open {
        /// Chosen by the client; opening a channel that is in use is an error.
        channel: Channel,
        /// Name of the document.
        document: &'a str,
        /// Access token; may be empty.
        token: &'a str,
        /// The last record that the client has. `None`: the client sends a state vector instead.
        cursor: Option<Cursor>,
        /// Asks for the server's state vector, so that the client sends only what the server lacks.
        wants_state_vector: bool,
    },
    /// A v1 update. (2)
    Change {
        /// Identifies the document.
        channel: Channel,
        /// Counts this channel's changes and proposals, from 1.
        batch: u64,
        /// The v1 update.
        update: &'a [u8],
    },
    /// A write to a versioned register. (3)
    Propose {
        /// Identifies the document.
        channel: Channel,
        /// Counts this channel's changes and proposals, from 1.
        batch: u64,
        /// The proposed write.
        proposal: Proposal<'a>,
    },
    /// What the client has; answered with a [`ToClient::Diff`]. (4)
    StateVector {
        /// Identifies the document.
        channel: Channel,
        /// Encoded state vector.
        state_vector: &'a [u8],
    },
    /// A y-protocols awareness update. (5)
    Presence {
        /// Identifies the document.
        channel: Channel,
        /// Encoded awareness update.
        update: &'a [u8],
    },
    /// Closes the document and frees the channel. (6)
    Leave {
        /// Identifies the document.
        channel: Channel,
    },
    /// Answered with a [`ToClient::Pong`]. (7)
    Ping,
}

/// How a client that opened a document is brought up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// The server sends every change after the cursor; nothing if there is none.
    FromCursor,
    /// The server cannot resume from the cursor, or there was none: the client must send a state vector.
    SendStateVector,
    /// The document has another epoch than the cursor: nothing is exchanged until the client reopens it without a cursor.
    OtherHistory,
}

/// A message from the server to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToClient<'a> {
    /// The answer to [`ToServer::Hello`]. (16)
    Welcome {
        /// The protocol version of this session.
        version: u64,
        /// The server's clock, in milliseconds since the Unix epoch.
        time_ms: u64,
        /// The largest message that the server accepts, in bytes.
        max_message_bytes: u64,
    },
    /// The answer to [`ToServer::Open`]. (17)
    Opened {
        /// Identifies the document.
        channel: Channel,
        /// The document's epoch and its last record.
        cursor: Cursor,
        /// The client may read the document, not change it.
        read_only: bool,
        /// How the client is brought up to date.
        resume: Resume,
        /// Encoded state vector, if the client asked for it or updates are pending.
        state_vector: Option<&'a [u8]>,
    },
    /// A change by another client, or by the server itself. (18)
    Change {
        /// Identifies the document.
        channel: Channel,
        /// The document's last record when this was sent.
        seq: Seq,
        /// The v1 update.
        update: &'a [u8],
    },
    /// Everything up to `seq` that the client lacked. (19)
    Diff {
        /// Identifies the document.
        channel: Channel,
        /// The last record included.
        seq: Seq,
        /// The v1 update.
        update: &'a [u8],
    },
    /// Everything up to `seq` is on disk, and was sent to this client or received from it. (20)
    Durable {
        /// Identifies the document.
        channel: Channel,
        /// The last durable record.
        seq: Seq,
    },
    /// Every batch up to this one that was not refused is on disk. (21)
    Ack {
        /// Identifies the document.
        channel: Channel,
        /// The last acknowledged batch.
        batch: u64,
        /// The last record that holds one of these batches.
        seq: Seq,
    },
    /// The server did not apply this batch. (22)
    Refused {
        /// Identifies the document.
        channel: Channel,
        /// The refused batch.
        batch: u64,
        /// The close code that gives the cause.
        code: u16,
        /// The cause as text.
        reason: &'a str,
    },
    /// The decision on a proposal. An accepted one is on disk. (23)
    Decided {
        /// Identifies the document.
        channel: Channel,
        /// The batch of the proposal.
        batch: u64,
        /// Whether the write was accepted.
        accepted: bool,
        /// The current state of the register (lib0 `Any`, a map); empty: the register has no value.
        register: &'a [u8],
    },
    /// A y-protocols awareness update. (24)
    Presence {
        /// Identifies the document.
        channel: Channel,
        /// Encoded awareness update.
        update: &'a [u8],
    },
    /// The document is closed for this client and the channel is free; the session stays open. (25)
    Closed {
        /// Identifies the document.
        channel: Channel,
        /// The close code that gives the cause.
        code: u16,
        /// The cause as text.
        reason: &'a str,
    },
    /// The answer to [`ToServer::Ping`]. (26)
    Pong,
}

/// Why a frame is not a message of this dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NativeMessageError {
    /// The bytes are truncated or malformed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// This dialect has no such message type.
    #[error("unknown native message type {0}")]
    UnknownType(u64),
    /// A field or flag set has an undefined value.
    #[error("invalid field value {0} in a native message")]
    BadField(u64),
    /// A frame holds exactly one message, but more bytes follow it.
    #[error("{0} bytes follow the message in its frame")]
    TrailingBytes(usize),
}

impl ToClient<'_> {
    /// The channel of the document that the message is about; `None` for messages about the session.
    pub fn channel(&self) -> Option<Channel> {
        match *self {
            Self::Welcome { .. } | Self::Pong => None,
            Self::Opened { channel, .. }
            | Self::Change { channel, .. }
            | Self::Diff { channel, .. }
            | Self::Durable { channel, .. }
            | Self::Ack { channel, .. }
            | Self::Refused { channel, .. }
            | Self::Decided { channel, .. }
            | Self::Presence { channel, .. }
            | Self::Closed { channel, .. } => Some(channel),
        }
    }
}
