//! Encodes what a document sends to one lease, as frames of the client's dialect. The document calls it; each
//! dialect implements it (`dialect/`).

use std::fmt;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::ids::Seq;
use syncline_protocol::native::{Cursor, Resume};

use super::message::Message;
use super::outcome::{Acks, Outcome};
use crate::outbox::UpdateLength;

/// An encoding of messages that is the same for many leases, so a [`super::frame::Frame`] keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedEncoding {
    /// y-protocols messages without an address.
    Plain,
    /// Messages that begin with the document's name.
    Named,
    /// Messages that contain channel number 0: the first document of a session.
    FirstChannel,
}

impl SharedEncoding {
    /// Number of variants.
    pub(super) const COUNT: usize = Self::FirstChannel as usize + 1;
}

/// How the result of an update is sent to its author.
#[derive(Debug)]
pub enum OutcomeReply {
    /// The dialect has no message for it.
    Nothing,
    /// A frame for each result.
    Frame(Bytes),
    /// A frame that stands for all before it: a newer one may replace it in the queue.
    Position(Bytes),
    /// The change itself, as an update message.
    Echo,
    /// The session is closed.
    Close(Close),
    /// The session is closed after a pause (`Outbox::close_later`).
    CloseLater(Close),
}

/// Encodes everything that a document sends to one lease.
pub trait Encoder: fmt::Debug + Send + Sync {
    /// The encoding of messages that this lease shares with others; `None` if it has its own.
    fn shared(&self) -> Option<SharedEncoding>;

    /// How the client is informed that its updates are on disk.
    fn acks(&self) -> Acks;

    /// Encodes a message. `seq` is the document's newest sequence number when the message was made. Empty if the
    /// dialect has no such message. All encoders with the same [`Encoder::shared`] return the same bytes.
    fn encode(&self, message: &Message, seq: Seq) -> Bytes;

    /// Everything in front of the payload of a step 2 with `bytes` bytes.
    fn step2_head(&self, bytes: usize, seq: Seq) -> Vec<u8>;

    /// How its awareness messages delimit the update at their end.
    fn awareness_length(&self) -> UpdateLength;

    /// How the result of update `batch` is sent. `seq` is the document's newest sequence number when the update was
    /// accepted.
    fn reply(&self, batch: u64, seq: Seq, outcome: Outcome) -> OutcomeReply;

    /// The last frame for the document, after which the session continues; `None` if the session must be closed.
    fn closed(&self, close: &Close) -> Option<Bytes>;

    /// The reply to `SessionEvent::Resume`; `None` for dialects without it.
    fn opened(
        &self,
        _cursor: Cursor,
        _read_only: bool,
        _resume: Resume,
        _state_vector: Option<&[u8]>,
    ) -> Option<Bytes> {
        None
    }

    /// The position up to which the document is durable; `None` if the dialect does not announce it.
    fn durable(&self, _seq: Seq) -> Option<Bytes> {
        None
    }

    /// The decision on a proposed write to a register; `None` for dialects without proposals.
    fn decided(&self, _batch: u64, _accepted: bool, _register: &[u8]) -> Option<Bytes> {
        None
    }
}
