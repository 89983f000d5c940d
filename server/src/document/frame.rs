//! A message to readers, encoded at most once for all leases with the same encoding, and shared by reference.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use syncline_protocol::ids::Seq;
use syncline_protocol::sync::SyncMessage;
use syncline_replica::Pieces;

use super::encoder::{Encoder, SharedEncoding};
use super::message::Message;
use crate::outbox::AwarenessFrame;

/// Replies of this size or more are not copied: all readers share the payload, which may be the whole
/// document.
pub(crate) const LARGE_REPLY_BYTES: usize = 32 * 1024;
/// Changes of this size or more are stored inside their plain encoding. The received frame may be twice
/// as large, and with a second, separate encoding a slow reader's outbox would hold three times the bytes
/// it counts.
pub(crate) const LARGE_CHANGE_BYTES: usize = 4 * 1024;

/// A message and the shared encodings made so far.
#[derive(Debug)]
pub struct Frame {
    message: Message,
    /// The document's newest sequence number when the message was made.
    seq: Seq,
    /// By [`SharedEncoding`].
    encodings: [OnceLock<Bytes>; SharedEncoding::COUNT],
}

impl Frame {
    /// A message without a sequence number: a step 1 or awareness.
    pub fn new(message: Message) -> Arc<Self> {
        Self::at(Seq::ZERO, message)
    }

    /// A message that brings a reader up to the record `seq`. It is encoded on first use.
    pub fn at(seq: Seq, message: Message) -> Arc<Self> {
        Arc::new(Self { message, seq, encodings: Default::default() })
    }

    /// A change. The payload of a large one is a slice of its plain encoding, so the received frame can be
    /// freed.
    pub fn change(seq: Seq, update: Bytes) -> Arc<Self> {
        if update.len() < LARGE_CHANGE_BYTES {
            return Self::at(seq, Message::Update(update));
        }
        let plain = Bytes::from(SyncMessage::Update(&update).encode_plain());
        let message = Message::Update(plain.slice(plain.len() - update.len()..));
        let mut encodings: [OnceLock<Bytes>; SharedEncoding::COUNT] = Default::default();
        encodings[SharedEncoding::Plain as usize] = plain.into();
        Arc::new(Self { message, seq, encodings })
    }

    /// The message to encode.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The document's newest sequence number when the message was made.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// The bytes for a lease. Leases with a shared encoding get the same bytes by reference.
    pub fn encode(&self, encoder: &dyn Encoder) -> Bytes {
        let encode = || encoder.encode(&self.message, self.seq);
        match encoder.shared() {
            Some(shared) => self.encodings[shared as usize].get_or_init(encode).clone(),
            None => encode(),
        }
    }

    /// Like [`Frame::encode`], for replies: a large payload is shared instead of copied.
    pub fn encode_reply(&self, encoder: &dyn Encoder) -> Pieces {
        match &self.message {
            Message::Step2(diff) if diff.len() >= LARGE_REPLY_BYTES => {
                diff.clone().prepend(encoder.step2_head(diff.len(), self.seq).into())
            }
            _ => self.encode(encoder).into(),
        }
    }

    /// Like [`Frame::encode`], for an awareness update that the outbox can coalesce with others. `None` for
    /// other messages.
    pub fn awareness(&self, encoder: &dyn Encoder) -> Option<AwarenessFrame> {
        let Message::Awareness(update) = &self.message else { return None };
        let (bytes, length) = (self.encode(encoder), encoder.awareness_length());
        Some(AwarenessFrame { bytes, update_bytes: update.len(), length })
    }
}
