//! The native dialect: many documents over one socket, resumed by a cursor. SPEC.md, "The native dialect".
//!
//! A frame is a varUint type, a varUint *channel* (the client's number for one document; absent where no document is
//! meant), then fields; the last field of a type may be "the rest of the frame", which saves its length. Ids and epochs
//! are 16 bytes, big-endian.

mod codec;

pub use self::codec::{begins_change, channel_of};
#[cfg(test)]
mod tests;

use crate::ids::{Epoch, Seq};
use crate::varint::ReadError;

/// The version this code speaks.
pub const VERSION: u64 = 1;

/// How every native session begins: the varString `"\0syncline"`. In Hocuspocus it would be an address without a name.
pub const MAGIC: [u8; 10] = *b"\x09\0syncline";

/// True when a session's first frame says that it is native. Asked before [`crate::detect::detect`].
pub fn is_hello(first_frame: &[u8]) -> bool {
    first_frame.starts_with(&MAGIC)
}

/// The client's number for one document of its session.
pub type Channel = u64;

/// A point in a document's history: everything up to `seq` of `epoch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// Which history.
    pub epoch: Epoch,
    /// How far.
    pub seq: Seq,
}

/// What a register's write is based on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version {
    /// Counts accepted writes, from 1.
    pub number: u64,
    /// The id of the write that made it: two devices may both speak of "version 11".
    pub id: u128,
}

/// A write to a versioned register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proposal<'a> {
    /// The register.
    pub register: &'a str,
    /// This write (a ULID): a retry has the same.
    pub id: u128,
    /// What its author saw; `None`: never written.
    pub based_on: Option<Version>,
    /// Who, for people.
    pub author: &'a str,
    /// When, in milliseconds since the Unix epoch by the author's clock. For people.
    pub at_ms: u64,
    /// The new value, as lib0 `Any`.
    pub value: &'a [u8],
}

/// What a client says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToServer<'a> {
    /// The first frame of a session.
    Hello {
        /// The newest version the client speaks.
        version: u64,
        /// The device (a ULID), for people and logs.
        device: u128,
    },
    /// "This channel is that document." (1)
    Open {
        /// Chosen by the client; one that is in use is an error.
        channel: Channel,
        /// The document's name.
        document: &'a str,
        /// The right to it; may be empty.
        token: &'a str,
        /// How far the client has come. `None`: it will send a state vector.
        cursor: Option<Cursor>,
        /// "Send me your state vector, so that I send only what you lack."
        wants_state_vector: bool,
    },
    /// A v1 update. (2)
    Change {
        /// The document.
        channel: Channel,
        /// Counts this channel's changes and proposals, from 1.
        batch: u64,
        /// The update.
        update: &'a [u8],
    },
    /// A write to a versioned register. (3)
    Propose {
        /// The document.
        channel: Channel,
        /// Counts this channel's changes and proposals, from 1.
        batch: u64,
        /// The write.
        proposal: Proposal<'a>,
    },
    /// "This is what I have": answered with a [`ToClient::Diff`]. (4)
    StateVector {
        /// The document.
        channel: Channel,
        /// Encoded.
        state_vector: &'a [u8],
    },
    /// A y-protocols awareness update. (5)
    Presence {
        /// The document.
        channel: Channel,
        /// The update.
        update: &'a [u8],
    },
    /// The client needs this document no more; the channel is free. (6)
    Leave {
        /// The document.
        channel: Channel,
    },
    /// Answered with a pong. (7)
    Ping,
}

/// How a document goes on for a client that opened it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// What came after the cursor follows as changes; nothing follows if nothing came.
    FromCursor,
    /// The server cannot tell from the cursor, or there was none: send a state vector.
    SendStateVector,
    /// The document has another history than the cursor's: nothing is exchanged until the client opens it without one.
    OtherHistory,
}

/// What the server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToClient<'a> {
    /// The answer to hello. (16)
    Welcome {
        /// The version spoken from now on.
        version: u64,
        /// The server's clock, in milliseconds since the Unix epoch.
        time_ms: u64,
        /// The largest message it takes, in bytes.
        max_message_bytes: u64,
    },
    /// The answer to open. (17)
    Opened {
        /// The document.
        channel: Channel,
        /// Its history, and its last record.
        cursor: Cursor,
        /// The client may look, not change.
        read_only: bool,
        /// How it goes on.
        resume: Resume,
        /// If it was asked for.
        state_vector: Option<&'a [u8]>,
    },
    /// A change by somebody else. (18)
    Change {
        /// The document.
        channel: Channel,
        /// The document's last record when it was sent.
        seq: Seq,
        /// A v1 update.
        update: &'a [u8],
    },
    /// Everything up to `seq` that the client lacked. (19)
    Diff {
        /// The document.
        channel: Channel,
        /// Up to here.
        seq: Seq,
        /// A v1 update.
        update: &'a [u8],
    },
    /// Everything up to `seq` is on disk, and has been sent to this client or came from it. (20)
    Durable {
        /// The document.
        channel: Channel,
        /// Up to here.
        seq: Seq,
    },
    /// Every batch up to this one that was not refused is on disk. (21)
    Ack {
        /// The document.
        channel: Channel,
        /// Up to here.
        batch: u64,
        /// They are in the records up to this one.
        seq: Seq,
    },
    /// This batch was not taken. (22)
    Refused {
        /// The document.
        channel: Channel,
        /// Which.
        batch: u64,
        /// Why, from the table of close codes.
        code: u16,
        /// Why, in words.
        reason: &'a str,
    },
    /// What became of a proposal; when accepted, it is on disk. (23)
    Decided {
        /// The document.
        channel: Channel,
        /// Which.
        batch: u64,
        /// Whether the register took it.
        accepted: bool,
        /// The register as it is now (lib0 `Any`, a map); empty: never written.
        register: &'a [u8],
    },
    /// A y-protocols awareness update. (24)
    Presence {
        /// The document.
        channel: Channel,
        /// The update.
        update: &'a [u8],
    },
    /// The document is closed for this client; the session goes on and the channel is free. (25)
    Closed {
        /// The document.
        channel: Channel,
        /// Why, from the table of close codes.
        code: u16,
        /// Why, in words.
        reason: &'a str,
    },
    /// The answer to ping. (26)
    Pong,
}

/// Why a frame is not a message of this dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The bytes are cut short or malformed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A message type this dialect does not have.
    #[error("unknown native message type {0}")]
    UnknownType(u64),
    /// Flags or a field with a value that means nothing.
    #[error("a field has the value {0}, which means nothing here")]
    BadField(u64),
    /// Bytes follow the message: a frame holds exactly one.
    #[error("{0} bytes follow the message in its frame")]
    TrailingBytes(usize),
}

impl ToClient<'_> {
    /// The document it is about.
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
