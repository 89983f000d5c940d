//! The native dialect: one session, many documents by number, each authorised when it is opened.
//!
//! A refusal by a document, the access rights or the scanner ends that document for the session (`Closed`);
//! invalid messages end the session. Messages for a number without a document are ignored: they were sent
//! before the client received `Closed`.

use std::collections::BTreeMap;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::ids::{DocumentName, Seq};
use syncline_protocol::limits::MAX_TOKEN_BYTES;
use syncline_protocol::native::{
    self, Cursor, NativeMessageError, Resume, ToClient, ToServer, begins_change, channel_of,
};
use tracing::debug;

use super::document_link::{DocumentLink, Rights};
use super::grants::GrantChange;
use super::{DialectSession, SessionParts, bad_message, documents_of};
use crate::auth::{Dialect, Grant};
use crate::document::encoder::{Encoder, OutcomeReply, SharedEncoding};
use crate::document::message::Message;
use crate::document::outcome::{Acks, Outcome};
use crate::ids::LeaseId;
use crate::outbox::UpdateLength;
use crate::unix_time::now_ms;

/// One native session.
pub(crate) struct Native {
    session: SessionParts,
    channels: BTreeMap<native::Channel, DocumentLink>,
    is_welcomed: bool,
}

impl Native {
    pub(super) fn new(session: SessionParts) -> Self {
        Self { session, channels: BTreeMap::new(), is_welcomed: false }
    }
}

impl DialectSession for Native {
    fn dialect(&self) -> Dialect {
        Dialect::Native
    }

    fn documents<'a>(&'a self, _last: &'a [u8]) -> (Option<&'a str>, usize) {
        documents_of(self.channels.values())
    }

    /// The smallest message.
    fn heartbeat(&self) -> Bytes {
        ToClient::Pong.encode().into()
    }

    async fn frame(&mut self, frame: &Bytes) -> Result<(), Close> {
        let message = match ToServer::decode(frame) {
            // From a newer client: Welcome named the version in use, so this message is optional.
            Err(NativeMessageError::UnknownType(_)) => {
                self.session.services.metrics.messages_ignored.inc();
                return Ok(());
            }
            message => message.map_err(bad_message)?,
        };
        let (number, message) = match message {
            ToServer::Hello { version, device } => return self.welcome(version, device),
            ToServer::Ping => {
                self.send(&ToClient::Pong);
                return Ok(());
            }
            ToServer::Open { channel, document, token, cursor, wants_state_vector } => {
                if self.channels.contains_key(&channel) {
                    return Err(bad_message(format_args!("channel {channel} is in use")));
                }
                let opened = self.open(channel, document, token, cursor, wants_state_vector).await;
                return opened.or_else(|close| self.refuse(channel, document, close));
            }
            ToServer::Leave { channel } => {
                self.leave(channel);
                return Ok(());
            }
            message @ (ToServer::Change { channel, .. }
            | ToServer::Propose { channel, .. }
            | ToServer::StateVector { channel, .. }
            | ToServer::Presence { channel, .. }) => (channel, message),
        };
        let Some(channel) = self.channels.get(&number) else { return Ok(()) };
        let taken = match message {
            ToServer::Change { batch, update, .. } => channel.change(frame, batch, update).await,
            ToServer::Propose { batch, proposal, .. } => channel.propose(batch, proposal).await,
            ToServer::StateVector { state_vector, .. } => channel.state_vector(state_vector).await,
            ToServer::Presence { update, .. } => channel.awareness(frame, update).await,
            _ => Ok(()),
        };
        if let Err(close) = taken {
            self.close(number, close);
        }
        Ok(())
    }

    /// True if its document is open.
    fn wants(&self, prefix: &[u8]) -> bool {
        channel_of(prefix).is_some_and(|number| self.channels.contains_key(&number))
    }

    /// A change is refused on its own, any other message closes its document.
    fn too_large(&mut self, prefix: &[u8], limit_bytes: usize) -> Result<(), Close> {
        let close = Close::MessageTooLarge { limit_bytes };
        let number = channel_of(prefix).ok_or_else(|| close.clone())?;
        let Some(channel) = self.channels.get(&number) else { return Ok(()) };
        if let Some(batch) = begins_change(prefix) {
            self.session.services.metrics.edits_refused.count(&close);
            let (code, reason) = (close.code(), close.reason());
            let refused = ToClient::Refused { channel: number, batch, code, reason: &reason }.encode();
            self.session.outbox.push_control_of(channel.lease().id(), refused.into());
            self.session.outbox.send();
            return Ok(());
        }
        self.close(number, close);
        Ok(())
    }

    async fn resync(&mut self, behind: &[LeaseId]) -> Result<(), Close> {
        let numbers = self.channels.iter().filter(|(_, channel)| behind.contains(&channel.lease().id()));
        for number in numbers.map(|(&number, _)| number).collect::<Vec<_>>() {
            if let Some(channel) = self.channels.get(&number)
                && let Err(close) = channel.resync().await
            {
                self.close(number, close);
            }
        }
        Ok(())
    }

    /// There is no message for another grant: an edit beyond it is refused.
    fn change_grant(&mut self, change: GrantChange) -> Result<(), Close> {
        let changed = self.channels.iter_mut().find(|(_, channel)| channel.is_granted_by(change.id));
        let Some((&number, channel)) = changed else { return Ok(()) };
        match change.grant {
            Ok(grant) => channel.set_grant(grant),
            Err(reason) => self.close(number, Close::Forbidden(reason.into())),
        }
        Ok(())
    }

    fn remove_ended(&mut self, leases: &[LeaseId]) -> Result<(), Close> {
        self.channels.retain(|_, channel| !leases.contains(&channel.lease().id()));
        Ok(())
    }
}

impl Native {
    fn welcome(&mut self, version: u64, device: u128) -> Result<(), Close> {
        if std::mem::replace(&mut self.is_welcomed, true) {
            return Err(bad_message("a second Hello in one session"));
        }
        debug!(version, device = %syncline_replica::ulid_text(device), "native session");
        let max_message_bytes = self.session.services.limits.message_bytes as u64;
        self.send(&ToClient::Welcome { version: native::VERSION, time_ms: now_ms(), max_message_bytes });
        Ok(())
    }

    async fn open(
        &mut self,
        number: native::Channel,
        document: &str,
        token: &str,
        cursor: Option<Cursor>,
        wants_state_vector: bool,
    ) -> Result<(), Close> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(bad_message(format_args!("the token is longer than {MAX_TOKEN_BYTES} bytes")));
        }
        let document =
            DocumentName::parse(document).map_err(|error| Close::BadDocumentName(error.to_string().into()))?;
        let SessionParts { services, outbox, users, .. } = &self.session;
        services.check_document_limit(self.channels.len())?;
        let access = self.session.authorize(&document, Some(token.to_owned()), self.dialect());
        let admission = access.await.map_err(|reason| Close::Forbidden(reason.into()))?;
        let rights = Rights::new(admission, &self.session)?;
        let read_only = rights.grant == Grant::Read;
        let (encoder, documents) = (Box::new(NativeEncoder::new(number)), self.channels.len() + 1);
        users.pause_before_open().await;
        let channel = DocumentLink::open(services, outbox, &document, rights, encoder, documents).await?;
        let resumed = channel.resume(cursor, wants_state_vector, read_only).await;
        self.channels.insert(number, channel);
        if let Err(close) = resumed {
            self.close(number, close);
        }
        Ok(())
    }

    /// Refuses a document that was not opened.
    fn refuse(&self, channel: native::Channel, document: &str, close: Close) -> Result<(), Close> {
        self.session.log_refused(self.dialect(), document, &close);
        self.session.services.metrics.documents_closed.count(&close);
        self.send(&ToClient::Closed { channel, code: close.code(), reason: &close.reason() });
        Ok(())
    }

    /// Closes one document of the session, because of an invalid message or because the document's task has
    /// ended.
    fn close(&mut self, number: native::Channel, close: Close) {
        if let Some(channel) = self.channels.remove(&number) {
            self.session.log_refused(self.dialect(), channel.lease().document().as_str(), &close);
            self.session.services.metrics.documents_closed.count(&close);
            let last_frame = ToClient::Closed { channel: number, code: close.code(), reason: &close.reason() };
            // Skipped if the document's task has closed it already, with a more specific reason.
            self.session.outbox.end_from_session(channel.lease().id(), last_frame.encode().into());
        }
    }

    fn leave(&mut self, number: native::Channel) {
        if let Some(channel) = self.channels.remove(&number) {
            self.session.outbox.leave(channel.lease().id());
        }
    }

    fn send(&self, message: &ToClient<'_>) {
        self.session.outbox.push_control(message.encode().into());
        self.session.outbox.send();
    }
}

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

    fn acks(&self) -> Acks {
        Acks::Batches
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
