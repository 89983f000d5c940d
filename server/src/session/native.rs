//! Handler of the native dialect: one session, many documents by number, each authorised when it is opened.
//!
//! A refusal by a document, the access rights or the scanner ends that document for the session (`Closed`);
//! invalid messages end the session. Messages for a number without a document are ignored: they were sent
//! before the client received `Closed`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::ids::DocumentName;
use syncline_protocol::limits::MAX_TOKEN_BYTES;
use syncline_protocol::native::{self, Cursor, MessageError, ToClient, ToServer, begins_change, channel_of};
use tracing::debug;

use super::document_link::{DocumentLink, Rights};
use super::grants::GrantChange;
use super::identity::log_refused;
use super::users::SessionUsers;
use super::{Context, bad_message};
use crate::auth::{Dialect, Grant};
use crate::document::frame::Framing;
use crate::ids::LeaseId;
use crate::outbox::Outbox;

/// One native session.
pub(super) struct Native {
    context: Arc<Context>,
    outbox: Arc<Outbox>,
    users: Arc<SessionUsers>,
    channels: BTreeMap<native::Channel, DocumentLink>,
    is_welcomed: bool,
}

impl Native {
    pub(super) fn new(context: Arc<Context>, outbox: Arc<Outbox>, users: Arc<SessionUsers>) -> Self {
        Self { context, outbox, users, channels: BTreeMap::new(), is_welcomed: false }
    }

    /// The heartbeat for clients that receive nothing else: the smallest message.
    pub(super) fn heartbeat() -> Bytes {
        ToClient::Pong.encode().into()
    }

    /// The name of the document if exactly one is open, and the number of open documents.
    pub(super) fn documents(&self) -> (Option<&str>, usize) {
        let mut documents = self.channels.values().map(|channel| channel.lease().document().as_str());
        let only = documents.next().filter(|_| self.channels.len() == 1);
        (only, self.channels.len())
    }

    /// Handles one frame.
    pub(super) async fn frame(&mut self, frame: &Bytes) -> Result<(), Close> {
        let message = match ToServer::decode(frame) {
            // From a newer client: Welcome named the version in use, so this message is optional.
            Err(MessageError::UnknownType(_)) => {
                self.context.metrics.messages_ignored.inc();
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

    /// True if a message with this beginning should be read into memory: if its document is open.
    pub(super) fn wants(&self, prefix: &[u8]) -> bool {
        channel_of(prefix).is_some_and(|number| self.channels.contains_key(&number))
    }

    /// Handles a message over the limit, of which only the beginning was read. A change is refused on its
    /// own, any other message closes its document.
    pub(super) fn too_large(&mut self, prefix: &[u8], limit_bytes: usize) -> Result<(), Close> {
        let close = Close::MessageTooLarge { limit_bytes };
        let number = channel_of(prefix).ok_or_else(|| close.clone())?;
        let Some(channel) = self.channels.get(&number) else { return Ok(()) };
        if let Some(batch) = begins_change(prefix) {
            self.context.metrics.edits_refused.count(&close);
            let (code, reason) = (close.code(), close.reason());
            let refused = ToClient::Refused { channel: number, batch, code, reason: &reason }.encode();
            self.outbox.push_control_of(channel.lease().id(), refused.into());
            self.outbox.send();
            return Ok(());
        }
        self.close(number, close);
        Ok(())
    }

    /// Asks the documents for what this reader missed.
    pub(super) async fn resync(&mut self, behind: &[LeaseId]) -> Result<(), Close> {
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

    /// Applies a change of a grant. This dialect has no message for another grant: an edit beyond it is refused.
    pub(super) fn change_grant(&mut self, change: GrantChange) {
        let changed = self.channels.iter_mut().find(|(_, channel)| channel.is_granted_by(change.id));
        let Some((&number, channel)) = changed else { return };
        match change.grant {
            Ok(grant) => channel.set_grant(grant),
            Err(reason) => self.close(number, Close::Forbidden(reason.into())),
        }
    }

    /// Removes leases that documents have ended; the documents have informed the client.
    pub(super) fn remove_ended(&mut self, leases: &[LeaseId]) {
        self.channels.retain(|_, channel| !leases.contains(&channel.lease().id()));
    }

    fn welcome(&mut self, version: u64, device: u128) -> Result<(), Close> {
        if std::mem::replace(&mut self.is_welcomed, true) {
            return Err(bad_message("a second Hello in one session"));
        }
        debug!(version, device = %syncline_replica::ulid_text(device), "native session");
        let max_message_bytes = self.context.limits.message_bytes as u64;
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
        if self.channels.len() >= self.context.limits.documents {
            let reason = format!("one connection may open at most {} documents", self.context.limits.documents);
            return Err(Close::TooMany(reason.into()));
        }
        let request = self.users.request(&document, Some(token.to_owned()), Dialect::Native);
        let admission = self.context.auth.authorize(request).await.map_err(|reason| Close::Forbidden(reason.into()))?;
        let rights = Rights::new(admission, &self.users)?;
        let read_only = rights.grant == Grant::Read;
        let (registry, scan) = (&self.context.registry, self.context.limits.scan);
        let (framing, documents) = (Framing::Native { channel: number }, self.channels.len() + 1);
        self.users.pause_before_open().await;
        let channel = DocumentLink::open(registry, &document, rights, &self.outbox, framing, documents, scan).await?;
        let resumed = channel.resume(cursor, wants_state_vector, read_only).await;
        self.channels.insert(number, channel);
        if let Err(close) = resumed {
            self.close(number, close);
        }
        Ok(())
    }

    /// Refuses a document that was not opened.
    fn refuse(&self, channel: native::Channel, document: &str, close: Close) -> Result<(), Close> {
        log_refused(&self.context, &self.users, "native", document, &close);
        self.context.metrics.documents_closed.count(&close);
        self.send(&ToClient::Closed { channel, code: close.code(), reason: &close.reason() });
        Ok(())
    }

    /// Closes one document of the session, because of an invalid message or because the document's task has
    /// ended.
    fn close(&mut self, number: native::Channel, close: Close) {
        if let Some(channel) = self.channels.remove(&number) {
            log_refused(&self.context, &self.users, "native", channel.lease().document().as_str(), &close);
            self.context.metrics.documents_closed.count(&close);
            let last_frame = ToClient::Closed { channel: number, code: close.code(), reason: &close.reason() };
            // Skipped if the document's task has closed it already, with a more specific reason.
            self.outbox.end_from_session(channel.lease().id(), last_frame.encode().into());
        }
    }

    fn leave(&mut self, number: native::Channel) {
        if let Some(channel) = self.channels.remove(&number) {
            self.outbox.leave(channel.lease().id());
        }
    }

    fn send(&self, message: &ToClient<'_>) {
        self.outbox.push_control(message.encode().into());
        self.outbox.send();
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
