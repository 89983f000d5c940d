//! The native dialect: one session, many documents by number, each authorised when it is opened.

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::ids::Seq;
use syncline_protocol::native::{self, Cursor, Resume, ToClient};

use crate::document::encoder::{Encoder, Opening, OutcomeReply, SharedEncoding};
use crate::document::event::Outcome;
use crate::document::frame::Message;
use crate::outbox::UpdateLength;

/// Encodes messages with a channel number.
#[derive(Debug)]
pub struct NativeEncoder {
    channel: native::Channel,
}

impl NativeEncoder {
    /// For the document that the client has given this number.
    pub fn new(channel: native::Channel) -> Self {
        Self { channel }
    }
}

impl Encoder for NativeEncoder {
    fn shared(&self) -> Option<SharedEncoding> {
        (self.channel == 0).then_some(SharedEncoding::FirstChannel)
    }

    fn opening(&self) -> Opening {
        Opening::Resume
    }

    fn encode(&self, message: &Message, seq: Seq) -> Bytes {
        let channel = self.channel;
        let message = match message {
            // A client asks for the state vector when it opens the document.
            Message::Step1(_) => return Bytes::new(),
            Message::Step2(update) => {
                return ToClient::Diff { channel, seq, update: &update.to_bytes() }.encode().into();
            }
            Message::Update(update) => ToClient::Change { channel, seq, update },
            Message::Awareness(update) => ToClient::Presence { channel, update },
        };
        message.encode().into()
    }

    fn step2_head(&self, _bytes: usize, seq: Seq) -> Vec<u8> {
        ToClient::Diff { channel: self.channel, seq, update: &[] }.encode()
    }

    fn awareness_length(&self) -> UpdateLength {
        UpdateLength::ToTheEnd
    }

    fn reply(&self, batch: u64, seq: Seq, outcome: Outcome) -> OutcomeReply {
        let channel = self.channel;
        if outcome == Outcome::Saved {
            return OutcomeReply::Position(ToClient::Ack { channel, batch, seq }.encode().into());
        }
        let close = outcome.refusal().unwrap_or(Close::StorageFailed);
        OutcomeReply::Frame(
            ToClient::Refused { channel, batch, code: close.code(), reason: &close.reason() }.encode().into(),
        )
    }

    fn closed(&self, close: &Close) -> Option<Bytes> {
        Some(ToClient::Closed { channel: self.channel, code: close.code(), reason: &close.reason() }.encode().into())
    }

    fn opened(&self, cursor: Cursor, read_only: bool, resume: Resume, state_vector: Option<&[u8]>) -> Option<Bytes> {
        Some(ToClient::Opened { channel: self.channel, cursor, read_only, resume, state_vector }.encode().into())
    }

    fn durable(&self, seq: Seq) -> Option<Bytes> {
        Some(ToClient::Durable { channel: self.channel, seq }.encode().into())
    }

    fn decided(&self, batch: u64, accepted: bool, register: &[u8]) -> Option<Bytes> {
        Some(ToClient::Decided { channel: self.channel, batch, accepted, register }.encode().into())
    }
}
