//! What a Hocuspocus client is sent about an open document.

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::hocuspocus::{self, HocuspocusMessage};
use syncline_protocol::ids::{DocumentName, Seq};
use syncline_protocol::sync::SyncMessage;

use crate::document::encoder::{Encoder, OutcomeReply, SharedEncoding};

use crate::document::message::Message;
use crate::document::outcome::{Acks, Outcome};
use crate::outbox::UpdateLength;

/// Encodes messages with an address. Acknowledges and refuses with a status.
#[derive(Debug)]
pub(crate) struct HocuspocusEncoder {
    /// The address as the client sent it: the name, or name NUL session id.
    address: Box<str>,
    /// The address is the document's name.
    is_name: bool,
}

impl HocuspocusEncoder {
    /// For a client that addresses `document` like this.
    pub(crate) fn new(address: &str, document: &DocumentName) -> Self {
        Self { address: address.into(), is_name: address == document.as_str() }
    }
}

impl Encoder for HocuspocusEncoder {
    fn shared(&self) -> Option<SharedEncoding> {
        self.is_name.then_some(SharedEncoding::Named)
    }

    fn acks(&self) -> Acks {
        Acks::Counted
    }

    fn encode(&self, message: &Message, _seq: Seq) -> Bytes {
        let message = match message {
            Message::Step1(payload) => HocuspocusMessage::Sync(SyncMessage::Step1(payload)),
            Message::Step2(payload) => {
                return HocuspocusMessage::Sync(SyncMessage::Step2(&payload.to_bytes())).encode(&self.address).into();
            }
            Message::Update(payload) => HocuspocusMessage::Sync(SyncMessage::Update(payload)),
            Message::Awareness(payload) => HocuspocusMessage::Awareness(payload),
        };
        message.encode(&self.address).into()
    }

    fn step2_head(&self, bytes: usize, _seq: Seq) -> Vec<u8> {
        hocuspocus::step2_head(&self.address, bytes)
    }

    fn awareness_length(&self) -> UpdateLength {
        UpdateLength::Prefixed
    }

    fn reply(&self, _batch: u64, _seq: Seq, outcome: Outcome) -> OutcomeReply {
        OutcomeReply::Frame(HocuspocusMessage::SyncStatus(outcome == Outcome::Saved).encode(&self.address).into())
    }

    /// The client reconnects to a document only with a new session, so the session ends when its document reloads.
    fn closed(&self, close: &Close) -> Option<Bytes> {
        let denied = || HocuspocusMessage::PermissionDenied(&close.reason()).encode(&self.address).into();
        (*close != Close::DocumentReloading).then(denied)
    }
}
