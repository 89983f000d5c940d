//! The y-websocket dialect: one session, one document, named by the path.

use std::borrow::Cow;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::ids::{DocumentName, Seq};
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::varint::Reader;
use syncline_protocol::ywebsocket::{self, YWebsocketMessage};

use super::document_link::{DocumentLink, Rights};
use super::grants::GrantChange;
use super::{DialectSession, SessionParts, bad_message};
use crate::auth::Dialect;
use crate::document::encoder::{Encoder, OutcomeReply, SharedEncoding};

use crate::document::message::Message;
use crate::document::outcome::{Acks, Outcome};
use crate::ids::LeaseId;
use crate::outbox::UpdateLength;

/// One y-websocket session.
pub(crate) struct YWebsocket {
    channel: DocumentLink,
}

impl YWebsocket {
    /// Checks the document name and the access rights, then opens the document.
    pub(super) async fn open(first_frame: &[u8], session: SessionParts) -> Result<Self, Close> {
        // Decoded before the document is opened, so that invalid bytes load no document.
        match YWebsocketMessage::read(&mut Reader::new(first_frame)) {
            Err(error) if !error.is_unknown_type() => return Err(bad_message(error)),
            _ => {}
        }
        let handshake = session.access.handshake();
        let document =
            DocumentName::parse(handshake.path()).map_err(|error| Close::BadDocumentName(error.to_string().into()))?;
        let token = handshake.parameter("token").map(Cow::into_owned);
        let access = session.authorize(&document, token, Dialect::YWebsocket);
        // The session opens no other document.
        session.access.forget_secrets();
        drop(handshake);
        let admission = access.await.map_err(|reason| Close::Forbidden(reason.into()))?;
        let rights = Rights::new(admission, &session)?;
        let SessionParts { services, outbox, users, .. } = session;
        users.pause_before_open().await;
        let encoder = Box::new(YWebsocketEncoder);
        Ok(Self { channel: DocumentLink::open(&services, &outbox, &document, rights, encoder, 1).await? })
    }
}

impl DialectSession for YWebsocket {
    fn dialect(&self) -> Dialect {
        Dialect::YWebsocket
    }

    fn documents<'a>(&'a self, _last: &'a [u8]) -> (Option<&'a str>, usize) {
        (Some(self.channel.lease().document().as_str()), 1)
    }

    /// An awareness update without clients: the client ignores it, but it stays connected.
    fn heartbeat(&self) -> Bytes {
        YWebsocketMessage::Awareness(&[0]).encode().into()
    }

    /// Handles one frame. Stock clients send one message per frame; other clients may send several.
    async fn frame(&mut self, frame: &Bytes) -> Result<(), Close> {
        let mut reader = Reader::new(frame);
        while !reader.is_empty() {
            let is_first = reader.remaining() == frame.len();
            match YWebsocketMessage::read(&mut reader) {
                Ok(YWebsocketMessage::Sync(message)) => self.channel.sync(frame, message).await?,
                Ok(YWebsocketMessage::Awareness(update)) => self.channel.awareness(frame, update).await?,
                Ok(YWebsocketMessage::QueryAwareness) => self.channel.query_awareness().await?,
                // Not useful from a client; the reference server ignores it, too.
                Ok(YWebsocketMessage::PermissionDenied(_)) => {}
                Err(error) if is_first && !error.is_unknown_type() => return Err(bad_message(error)),
                // An application's own message, or bytes after a message, which the reference server does
                // not read.
                Err(_) => {
                    self.channel.ignore();
                    break;
                }
            }
        }
        Ok(())
    }

    /// The session ends with its grant.
    fn change_grant(&mut self, change: GrantChange) -> Result<(), Close> {
        if self.channel.is_granted_by(change.id) {
            self.channel.set_grant(change.grant.map_err(|reason| Close::Forbidden(reason.into()))?);
        }
        Ok(())
    }

    async fn resync(&mut self, behind: &[LeaseId]) -> Result<(), Close> {
        if behind.contains(&self.channel.lease().id()) { self.channel.resync().await } else { Ok(()) }
    }
}

/// Encodes messages without an address. Acknowledges by echo; cannot express a refusal or a closed document, which
/// close the session.
#[derive(Debug, Clone, Copy)]
pub struct YWebsocketEncoder;

impl Encoder for YWebsocketEncoder {
    fn shared(&self) -> Option<SharedEncoding> {
        Some(SharedEncoding::Plain)
    }

    fn acks(&self) -> Acks {
        Acks::Each
    }

    fn encode(&self, message: &Message, _seq: Seq) -> Bytes {
        let message = match message {
            Message::Step1(payload) => YWebsocketMessage::Sync(SyncMessage::Step1(payload)),
            Message::Step2(payload) => {
                return YWebsocketMessage::Sync(SyncMessage::Step2(&payload.to_bytes())).encode().into();
            }
            Message::Update(payload) => YWebsocketMessage::Sync(SyncMessage::Update(payload)),
            Message::Awareness(payload) => YWebsocketMessage::Awareness(payload),
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
            // The client would bring the same when it returns. It sees no acknowledgement.
            Some(_) if outcome == Outcome::TooManyPending => OutcomeReply::Nothing,
            Some(Close::StorageFailed) => OutcomeReply::CloseLater(Close::StorageFailed),
            Some(close) => OutcomeReply::Close(close),
        }
    }

    fn closed(&self, _close: &Close) -> Option<Bytes> {
        None
    }
}
