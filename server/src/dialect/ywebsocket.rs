//! The y-websocket dialect: one session, one document, named by the path.

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::ids::Seq;
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::ywebsocket::{self, Message};

use crate::document::encoder::{Encoder, Opening, OutcomeReply, SharedEncoding};
use crate::document::event::{Acks, Outcome};
use crate::document::frame;
use crate::outbox::UpdateLength;

/// Encodes messages without an address. Acknowledges by echo; cannot express a refusal or a closed document, which
/// close the session.
#[derive(Debug, Clone, Copy)]
pub struct YWebsocketEncoder;

impl Encoder for YWebsocketEncoder {
    fn shared(&self) -> Option<SharedEncoding> {
        Some(SharedEncoding::Plain)
    }

    fn opening(&self) -> Opening {
        Opening::Sync(Acks::Each)
    }

    fn encode(&self, message: &frame::Message, _seq: Seq) -> Bytes {
        let message = match message {
            frame::Message::Step1(payload) => Message::Sync(SyncMessage::Step1(payload)),
            frame::Message::Step2(payload) => {
                return Message::Sync(SyncMessage::Step2(&payload.to_bytes())).encode().into();
            }
            frame::Message::Update(payload) => Message::Sync(SyncMessage::Update(payload)),
            frame::Message::Awareness(payload) => Message::Awareness(payload),
        };
        message.encode().into()
    }

    fn step2_head(&self, bytes: usize, _seq: Seq) -> Vec<u8> {
        ywebsocket::step2_head(bytes)
    }

    fn awareness_length(&self) -> UpdateLength {
        UpdateLength::Prefixed
    }

    /// After a refusal the unsaved edits stay with the client. After a storage failure the session ends later, or the
    /// client would reconnect four times a second.
    fn reply(&self, _batch: u64, _seq: Seq, outcome: Outcome) -> OutcomeReply {
        match outcome.refusal() {
            None if outcome == Outcome::Saved => OutcomeReply::Echo,
            None => OutcomeReply::Nothing,
            Some(Close::StorageFailed) => OutcomeReply::CloseLater(Close::StorageFailed),
            Some(close) => OutcomeReply::Close(close),
        }
    }

    fn closed(&self, _close: &Close) -> Option<Bytes> {
        None
    }
}
