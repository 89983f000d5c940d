//! A message to readers, encoded at most once per dialect and shared by reference.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use syncline_protocol::ids::{DocumentName, Seq};
use syncline_protocol::native::{Channel, ToClient};
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::{hocuspocus, ywebsocket};
use syncline_replica::Pieces;

use crate::outbox::{AwarenessFrame, UpdateLength};

/// How the frames of one lease are encoded.
#[derive(Debug, Clone)]
pub enum Framing {
    /// y-websocket: messages without an address.
    YWebsocket,
    /// Hocuspocus: messages prefixed with this address (the name, or name NUL session id).
    Hocuspocus {
        /// The address as the client sent it.
        address: Arc<str>,
    },
    /// Native: messages prefixed with a channel number.
    Native {
        /// The client's number for the document.
        channel: Channel,
    },
}

/// A message about a document. Payloads are v1 updates, state vectors and awareness updates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The server's state vector: a request for what the server lacks.
    Step1(Bytes),
    /// The reply to a step 1.
    Step2(Pieces),
    /// A change.
    Update(Bytes),
    /// Awareness states.
    Awareness(Bytes),
}

/// The channel whose encoding is shared: the first document of a native client.
const SHARED_CHANNEL: Channel = 0;

/// Replies of this size or more are not copied: all readers share the payload, which may be the whole
/// document.
pub(super) const LARGE_REPLY_BYTES: usize = 32 * 1024;
/// Changes of this size or more are stored inside their y-websocket encoding. The received frame may be twice
/// as large, and with a second, separate encoding a slow reader's outbox would hold three times the bytes
/// it counts.
const LARGE_CHANGE_BYTES: usize = 4 * 1024;

/// A message and the encodings made so far.
#[derive(Debug)]
pub struct Frame {
    message: Message,
    /// The document's newest sequence number when the message was made. Sent in the native dialect only.
    seq: Seq,
    ywebsocket: OnceLock<Bytes>,
    hocuspocus: OnceLock<Bytes>,
    native: OnceLock<Bytes>,
}

impl Frame {
    /// A message without a sequence number: a step 1 or awareness.
    pub fn new(message: Message) -> Arc<Self> {
        Self::at(Seq::ZERO, message)
    }

    /// A message that brings a reader up to the record `seq`. It is encoded on first use.
    pub fn at(seq: Seq, message: Message) -> Arc<Self> {
        let (ywebsocket, hocuspocus, native) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Arc::new(Self { message, seq, ywebsocket, hocuspocus, native })
    }

    /// A change. The payload of a large one is a slice of its y-websocket encoding, so the received frame can
    /// be freed.
    pub fn change(seq: Seq, update: Bytes) -> Arc<Self> {
        if update.len() < LARGE_CHANGE_BYTES {
            return Self::at(seq, Message::Update(update));
        }
        let encoded: Bytes = ywebsocket::Message::Sync(SyncMessage::Update(&update)).encode().into();
        let message = Message::Update(encoded.slice(encoded.len() - update.len()..));
        let (ywebsocket, hocuspocus, native) = (OnceLock::from(encoded), OnceLock::new(), OnceLock::new());
        Arc::new(Self { message, seq, ywebsocket, hocuspocus, native })
    }

    /// The message to encode.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The document's newest sequence number when the message was made.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// The bytes for a reader of `document`. Hocuspocus addresses with a session id, and native channels
    /// other than the first, need an encoding of their own.
    pub fn encode(&self, document: &DocumentName, framing: &Framing) -> Bytes {
        match framing {
            Framing::YWebsocket => self.ywebsocket.get_or_init(|| self.encode_ywebsocket()).clone(),
            Framing::Hocuspocus { address } if **address == *document.as_str() => {
                self.hocuspocus.get_or_init(|| self.encode_hocuspocus(address)).clone()
            }
            Framing::Hocuspocus { address } => self.encode_hocuspocus(address),
            Framing::Native { channel: SHARED_CHANNEL } => {
                self.native.get_or_init(|| self.encode_native(SHARED_CHANNEL)).clone()
            }
            Framing::Native { channel } => self.encode_native(*channel),
        }
    }

    /// Like [`Frame::encode`], for replies: a large payload is shared instead of copied.
    pub fn encode_reply(&self, document: &DocumentName, framing: &Framing) -> Pieces {
        match &self.message {
            Message::Step2(diff) if diff.len() >= LARGE_REPLY_BYTES => {
                diff.clone().prepend(self.answer_head(diff.len(), framing).into())
            }
            _ => self.encode(document, framing).into(),
        }
    }

    /// Everything in front of the payload of a reply.
    fn answer_head(&self, bytes: usize, framing: &Framing) -> Vec<u8> {
        match framing {
            Framing::YWebsocket => ywebsocket::step2_head(bytes),
            Framing::Hocuspocus { address } => hocuspocus::step2_head(address, bytes),
            Framing::Native { channel } => ToClient::Diff { channel: *channel, seq: self.seq, update: &[] }.encode(),
        }
    }

    /// Like [`Frame::encode`], for an awareness update that the outbox can coalesce with others. `None` for
    /// other messages.
    pub fn awareness(&self, document: &DocumentName, framing: &Framing) -> Option<AwarenessFrame> {
        let Message::Awareness(update) = &self.message else { return None };
        let length = match framing {
            Framing::YWebsocket | Framing::Hocuspocus { .. } => UpdateLength::Prefixed,
            Framing::Native { .. } => UpdateLength::ToTheEnd,
        };
        Some(AwarenessFrame { bytes: self.encode(document, framing), update_bytes: update.len(), length })
    }

    fn encode_ywebsocket(&self) -> Bytes {
        let diff;
        let message = match &self.message {
            Message::Step1(payload) => ywebsocket::Message::Sync(SyncMessage::Step1(payload)),
            Message::Step2(payload) => {
                diff = payload.to_bytes();
                ywebsocket::Message::Sync(SyncMessage::Step2(&diff))
            }
            Message::Update(payload) => ywebsocket::Message::Sync(SyncMessage::Update(payload)),
            Message::Awareness(payload) => ywebsocket::Message::Awareness(payload),
        };
        message.encode().into()
    }

    fn encode_hocuspocus(&self, address: &str) -> Bytes {
        let diff;
        let message = match &self.message {
            Message::Step1(payload) => hocuspocus::Message::Sync(SyncMessage::Step1(payload)),
            Message::Step2(payload) => {
                diff = payload.to_bytes();
                hocuspocus::Message::Sync(SyncMessage::Step2(&diff))
            }
            Message::Update(payload) => hocuspocus::Message::Sync(SyncMessage::Update(payload)),
            Message::Awareness(payload) => hocuspocus::Message::Awareness(payload),
        };
        message.encode(address).into()
    }

    fn encode_native(&self, channel: Channel) -> Bytes {
        let seq = self.seq;
        let diff;
        let message = match &self.message {
            // Not used in the native dialect: a client asks for the state vector when it opens the document.
            Message::Step1(_) => return Bytes::new(),
            Message::Step2(update) => {
                diff = update.to_bytes();
                ToClient::Diff { channel, seq, update: &diff }
            }
            Message::Update(update) => ToClient::Change { channel, seq, update },
            Message::Awareness(update) => ToClient::Presence { channel, update },
        };
        message.encode().into()
    }
}

#[cfg(test)]
mod tests {
    use syncline_protocol::awareness::{AwarenessEntry, encode};

    use super::*;
    use crate::ids::LeaseId;
    use crate::outbox::Outbox;

    #[test]
    fn payload_of_large_answer_is_shared_and_the_same_in_pieces() {
        let document = DocumentName::parse("doc").unwrap();
        let hocuspocus = |address: &str| Framing::Hocuspocus { address: address.into() };
        let native = |channel| Framing::Native { channel };
        for len in [LARGE_REPLY_BYTES - 1, LARGE_REPLY_BYTES] {
            let diff = Bytes::from(vec![7; len]);
            let frame = Frame::at(Seq(9), Message::Step2(diff.clone().into()));
            for framing in [Framing::YWebsocket, hocuspocus("doc"), hocuspocus("doc\0tab"), native(0), native(300)] {
                let answer = frame.encode_reply(&document, &framing);
                let is_shared = answer.iter().any(|piece| piece.as_ptr() == diff.as_ptr());
                assert_eq!(is_shared, len == LARGE_REPLY_BYTES, "{framing:?}");
                assert_eq!(answer.to_bytes(), frame.encode(&document, &framing), "{framing:?}");
            }
        }
    }

    #[test]
    fn large_change_is_a_slice_of_its_encoding() {
        let document = DocumentName::parse("doc").unwrap();
        for len in [LARGE_CHANGE_BYTES - 1, LARGE_CHANGE_BYTES] {
            let update = Bytes::from(vec![7; len]);
            let frame = Frame::change(Seq(9), update.clone());
            assert_eq!((frame.message(), frame.seq()), (&Message::Update(update.clone()), Seq(9)));
            let encoded = frame.encode(&document, &Framing::YWebsocket);
            assert_eq!(encoded, Frame::at(Seq(9), Message::Update(update)).encode(&document, &Framing::YWebsocket));
            let Message::Update(payload) = frame.message() else { panic!("not a change") };
            assert_eq!(encoded.as_ptr_range().end == payload.as_ptr_range().end, len == LARGE_CHANGE_BYTES);
        }
    }

    #[test]
    fn coalesced_awareness_is_the_message_that_the_dialect_would_have_written() {
        let document = DocumentName::parse("doc").unwrap();
        let entry = |client, clock, state| AwarenessEntry { client, clock, state };
        let message = |entries: &[_]| Frame::new(Message::Awareness(encode(entries.iter().copied()).into()));
        let long = format!("\"{}\"", "x".repeat(200));
        let older = message(&[entry(1, 1, "{}"), entry(2, 7, "{}")]);
        let newer = message(&[entry(1, 2, &long)]);
        let both = message(&[entry(1, 2, &long), entry(2, 7, "{}")]);
        let hocuspocus = |address: &str| Framing::Hocuspocus { address: address.into() };
        let native = |channel| Framing::Native { channel };
        for framing in [Framing::YWebsocket, hocuspocus("doc"), hocuspocus("doc\0tab"), native(0), native(300)] {
            let frames = [&older, &newer].map(|frame| frame.awareness(&document, &framing).unwrap());
            let outbox = Outbox::new(1_000);
            frames.into_iter().for_each(|frame| _ = outbox.push_awareness(LeaseId(1), frame));
            assert_eq!(outbox.try_frames(), Ok(vec![both.encode(&document, &framing)]), "{framing:?}");
        }
        assert!(Frame::new(Message::Step1(Bytes::new())).awareness(&document, &Framing::YWebsocket).is_none());
    }

    #[test]
    fn readers_of_a_dialect_share_one_encoding_native_ones_for_their_first_document() {
        let document = DocumentName::parse("doc").unwrap();
        let frame = Frame::at(Seq(9), Message::Update(Bytes::from_static(&[0, 0])));
        let address: Arc<str> = "doc".into();
        for framing in [Framing::YWebsocket, Framing::Hocuspocus { address }, Framing::Native { channel: 0 }] {
            let encoded = [frame.encode(&document, &framing), frame.encode(&document, &framing)];
            assert_eq!(encoded[0].as_ptr(), encoded[1].as_ptr(), "{framing:?}");
        }
        assert_eq!(frame.encode(&document, &Framing::Native { channel: 0 })[..], [18, 0, 9, 0, 0]);
        assert_eq!(frame.encode(&document, &Framing::Native { channel: 3 })[..], [18, 3, 9, 0, 0]);
    }
}
