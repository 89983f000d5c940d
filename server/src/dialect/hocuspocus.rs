//! The Hocuspocus dialect: one session, many documents, each authorised before it is opened.
//!
//! The provider sends token, step 1 and awareness without waiting for replies. While a token is being checked
//! the session is not read, so the messages after it stay in the socket; only messages received *before*
//! their token are stored (`early_messages.rs`).
//!
//! A refusal affects one document: its address is sent PermissionDenied, and further messages for it are
//! dropped unread until the client sends a token again. The provider ignores close codes and would send the
//! same bytes after each reconnect.

mod closed_documents;
mod early_messages;
mod encoder;
mod offline_queue;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use syncline_protocol::awareness::AwarenessUpdate;
use syncline_protocol::close::Close;
use syncline_protocol::hocuspocus::{
    End, Frame, HEARTBEAT_FRAME, HocuspocusMessage, PONG_FRAME, Scope, address_of, begins_step1, split_address,
};
use syncline_protocol::ids::DocumentName;
use syncline_protocol::limits::MAX_SESSION_ID_BYTES;
use syncline_protocol::sync::SyncMessage;

use self::closed_documents::{DeniedAddresses, LeftDocuments};
use self::early_messages::EarlyMessages;
pub(crate) use self::encoder::HocuspocusEncoder;
use self::offline_queue::OfflineQueue;
use super::document_link::{DocumentLink, Rights};
use super::grants::GrantChange;
use super::{DialectSession, SessionParts, bad_message, documents_of};
use crate::auth::{Dialect, Grant};
use crate::ids::LeaseId;

/// One Hocuspocus session.
pub(crate) struct Hocuspocus {
    session: SessionParts,
    channels: BTreeMap<Box<str>, DocumentLink>,
    left_documents: LeftDocuments,
    denied: DeniedAddresses,
    early: EarlyMessages,
    queue: OfflineQueue,
    /// The ping before the first message was queued: see `offline_queue.rs`.
    has_pinged: bool,
    /// A token was received, or a document was opened without one.
    is_authenticated: bool,
}

impl Hocuspocus {
    pub(super) fn new(session: SessionParts) -> Self {
        Self {
            early: EarlyMessages::new(&session.services.gate),
            session,
            channels: BTreeMap::new(),
            left_documents: LeftDocuments::default(),
            denied: DeniedAddresses::default(),
            queue: OfflineQueue::default(),
            has_pinged: false,
            is_authenticated: false,
        }
    }
}

impl DialectSession for Hocuspocus {
    fn dialect(&self) -> Dialect {
        Dialect::Hocuspocus
    }

    fn documents<'a>(&'a self, last: &'a [u8]) -> (Option<&'a str>, usize) {
        let (only, count) = documents_of(self.channels.values());
        (address_of(last).ok().map(|address| split_address(address).0).or(only), count)
    }

    fn heartbeat(&self) -> Bytes {
        Bytes::from_static(&HEARTBEAT_FRAME)
    }

    fn has_tokens(&self) -> bool {
        true
    }

    async fn frame(&mut self, frame: &Bytes) -> Result<(), Close> {
        let (address, message) = match Frame::decode_prefix(frame, End::Server) {
            Ok((Frame::Ping, _)) => {
                self.ping_first();
                self.session.outbox.push_control(Bytes::from_static(&PONG_FRAME));
                self.session.outbox.send();
                return Ok(());
            }
            Ok((Frame::Pong, _)) => return Ok(()),
            Ok((Frame::Addressed { address, message }, _)) => (address, message),
            Err(error) if error.is_unknown_type() => return self.ignore(),
            Err(error) => {
                let address = address_of(frame).map_err(bad_message)?;
                if self.denied.contains(address) {
                    return self.ignore();
                }
                return self.refuse(address, bad_message(error));
            }
        };
        match message {
            HocuspocusMessage::Token { token, .. } => self.authorize(address, token).await,
            HocuspocusMessage::Close(_) => {
                self.leave(address);
                Ok(())
            }
            message if self.channels.contains_key(address) => self.handle_message(address, frame, message).await,
            message if self.left_documents.contains(address) && shows_use(&message) => {
                self.reopen(address, frame, message).await
            }
            _ if self.left_documents.contains(address) || self.denied.contains(address) => self.ignore(),
            HocuspocusMessage::Sync(SyncMessage::Step1(_)) => self.open_without_token(address, frame, message).await,
            _ => self.store_early(address, frame),
        }
    }

    fn note_pong(&mut self) {
        self.queue.note_pong();
    }

    /// Not if its document was refused, and not before its token.
    fn wants(&self, prefix: &[u8]) -> bool {
        let Ok(address) = address_of(prefix) else { return false };
        let is_open = self.channels.contains_key(address) || self.left_documents.contains(address);
        is_open || (!self.denied.contains(address) && begins_step1(prefix))
    }

    fn too_large(&mut self, prefix: &[u8], limit_bytes: usize) -> Result<(), Close> {
        let address = address_of(prefix).map_err(bad_message)?;
        if self.denied.contains(address) {
            return self.ignore();
        }
        self.refuse(address, Close::MessageTooLarge { limit_bytes })
    }

    async fn resync(&mut self, behind: &[LeaseId]) -> Result<(), Close> {
        for channel in self.channels.values().filter(|channel| behind.contains(&channel.lease().id())) {
            channel.resync().await?;
        }
        Ok(())
    }

    /// Its client is sent the new scope, or the document is refused.
    fn change_grant(&mut self, change: GrantChange) -> Result<(), Close> {
        let changed = self.channels.iter_mut().find(|(_, channel)| channel.is_granted_by(change.id));
        let Some((address, channel)) = changed else { return Ok(()) };
        let address = address.clone();
        match change.grant {
            Ok(grant) => {
                channel.set_grant(grant);
                self.send(&address, &HocuspocusMessage::Authenticated(scope_of(grant)));
                Ok(())
            }
            Err(reason) => self.refuse(&address, Close::Forbidden(reason.into())),
        }
    }

    fn remove_ended(&mut self, leases: &[LeaseId]) -> Result<(), Close> {
        let is_over = |channel: &DocumentLink| leases.contains(&channel.lease().id());
        let over: Vec<_> =
            self.channels.iter().filter(|(_, channel)| is_over(channel)).map(|(at, _)| at.clone()).collect();
        over.into_iter().try_for_each(|address| {
            self.channels.remove(&address);
            self.deny(&address)
        })
    }

    fn check_authenticated(&mut self) -> Result<(), Close> {
        if self.is_authenticated {
            return Ok(());
        }
        let close = Close::NotAuthenticated;
        self.ping_first();
        for address in self.early.addresses() {
            let denied = HocuspocusMessage::PermissionDenied(&close.reason()).encode(address);
            self.session.outbox.push_control(denied.into());
        }
        self.session.outbox.send();
        Err(close)
    }
}

impl Hocuspocus {
    /// Queues a WebSocket ping if no message has been queued yet: see `offline_queue.rs`.
    fn ping_first(&mut self) {
        if !std::mem::replace(&mut self.has_pinged, true) {
            self.session.outbox.push_ping();
        }
    }

    async fn authorize(&mut self, address: &str, token: &str) -> Result<(), Close> {
        self.is_authenticated = true;
        self.denied.remove(address);
        let document = match parse_address(address) {
            Ok(document) => document,
            Err(close) => return self.refuse(address, close),
        };
        let rights = match self.session.authorize(&document, Some(token.to_owned()), self.dialect()).await {
            Ok(admission) => Rights::new(admission, &self.session),
            Err(reason) => Err(Close::Forbidden(reason.into())),
        };
        let rights = match rights {
            Ok(rights) => rights,
            Err(close) => return self.refuse(address, close),
        };
        let scope = scope_of(rights.grant);
        if let Some(channel) = self.channels.get_mut(address) {
            channel.set_rights(rights);
            self.send(address, &HocuspocusMessage::Authenticated(scope));
            return Ok(());
        }
        if let Err(close) = self.check_document_limit() {
            return self.refuse(address, close);
        }
        self.send(address, &HocuspocusMessage::Authenticated(scope));
        if !self.open(address, &document, rights).await? {
            return Ok(());
        }
        self.replay_early(address).await
    }

    /// A 2.x provider without a token sends no token message. It needs none if everyone may write; otherwise
    /// its messages are stored until a token arrives.
    async fn open_without_token(
        &mut self,
        address: &str,
        frame: &Bytes,
        step1: HocuspocusMessage<'_>,
    ) -> Result<(), Close> {
        let document = match parse_address(address) {
            Ok(document) => document,
            Err(close) => return self.refuse(address, close),
        };
        let admission = match self.session.authorize(&document, None, self.dialect()).await {
            Ok(admission) if admission.grant == Grant::ReadWrite => admission,
            _ => return self.store_early(address, frame),
        };
        match self.check_document_limit().and_then(|()| Rights::new(admission, &self.session)) {
            Ok(rights) => _ = self.open(address, &document, rights).await?,
            Err(close) => return self.refuse(address, close),
        }
        self.replay_early(address).await?;
        self.handle_message(address, frame, step1).await
    }

    /// Reopens a document that was left, for another provider on this socket that still uses it. If it does not
    /// begin with a step 1, its state vector was lost with the lease, so it is sent the whole state.
    async fn reopen(&mut self, address: &str, frame: &Bytes, message: HocuspocusMessage<'_>) -> Result<(), Close> {
        let Some(admission) = self.left_documents.remove(address) else { return Ok(()) };
        let opened = parse_address(address).and_then(|document| {
            self.check_document_limit()?;
            Ok((document, Rights::new(admission, &self.session)?))
        });
        match opened {
            Ok((document, rights)) => _ = self.open(address, &document, rights).await?,
            Err(close) => return self.refuse(address, close),
        }
        if let Some(channel) = self.channels.get(address)
            && !matches!(message, HocuspocusMessage::Sync(SyncMessage::Step1(_)))
        {
            channel.resync().await?;
        }
        self.handle_message(address, frame, message).await
    }

    /// Opens an authorised document. Returns false if it was refused.
    async fn open(&mut self, address: &str, document: &DocumentName, rights: Rights) -> Result<bool, Close> {
        let encoder = Box::new(HocuspocusEncoder::new(address, document));
        let documents = self.channels.len() + 1;
        self.session.users.pause_before_open().await;
        self.ping_first();
        self.session.outbox.send();
        let SessionParts { services, outbox, .. } = &self.session;
        match DocumentLink::open(services, outbox, document, rights, encoder, documents).await {
            Ok(channel) => {
                self.left_documents.remove(address);
                self.channels.insert(address.into(), channel);
                self.is_authenticated = true;
                Ok(true)
            }
            Err(Close::DocumentReloading) => Err(Close::DocumentReloading),
            Err(close) => self.refuse(address, close).map(|()| false),
        }
    }

    fn check_document_limit(&self) -> Result<(), Close> {
        self.session.services.check_document_limit(self.channels.len())
    }

    fn store_early(&mut self, address: &str, frame: &Bytes) -> Result<(), Close> {
        if let Err(close) = parse_address(address) {
            return self.refuse(address, close);
        }
        if self.early.store(address, frame) { Ok(()) } else { self.ignore() }
    }

    async fn replay_early(&mut self, address: &str) -> Result<(), Close> {
        for frame in self.early.take(address) {
            if let Ok((Frame::Addressed { message, .. }, _)) = Frame::decode_prefix(&frame, End::Server) {
                self.handle_message(address, &frame, message).await?;
            }
        }
        Ok(())
    }

    /// Handles a message for an open document. An invalid one refuses the document, not the session.
    async fn handle_message(
        &mut self,
        address: &str,
        frame: &Bytes,
        message: HocuspocusMessage<'_>,
    ) -> Result<(), Close> {
        let Some(channel) = self.channels.get(address) else { return Ok(()) };
        let taken = match message {
            HocuspocusMessage::Sync(message) | HocuspocusMessage::SyncReply(message) => match message {
                SyncMessage::Update(update) => channel.sync_update(frame, update, self.queue.change()).await,
                SyncMessage::Step2(update) => channel.sync_update(frame, update, self.queue.step2()).await,
                SyncMessage::Step1(_) => channel.sync(frame, message).await,
            },
            HocuspocusMessage::Awareness(update) => channel.awareness(frame, update).await,
            HocuspocusMessage::QueryAwareness => channel.query_awareness().await,
            // For server hooks of applications, which this server does not have.
            HocuspocusMessage::Stateless(_) | HocuspocusMessage::BroadcastStateless(_) => return self.ignore(),
            // Sent by servers only, or handled before.
            HocuspocusMessage::SyncStatus(_)
            | HocuspocusMessage::Close(_)
            | HocuspocusMessage::Token { .. }
            | HocuspocusMessage::TokenWanted
            | HocuspocusMessage::PermissionDenied(_)
            | HocuspocusMessage::Authenticated(_) => Ok(()),
        };
        match taken {
            // The document's task has ended. The client reconnects only if the session ends.
            Err(Close::DocumentReloading) => Err(Close::DocumentReloading),
            Err(close) => self.refuse(address, close),
            Ok(()) => Ok(()),
        }
    }

    fn leave(&mut self, address: &str) {
        drop(self.early.take(address));
        if let Some(channel) = self.channels.remove(address) {
            self.left_documents.insert(address, channel.granted());
        }
    }

    /// Refuses one document: its client is sent the reason, the session continues.
    fn refuse(&mut self, address: &str, close: Close) -> Result<(), Close> {
        self.session.services.metrics.documents_closed.count(&close);
        self.session.log_refused(self.dialect(), split_address(address).0, &close);
        if let Some(channel) = self.channels.remove(address) {
            // Its document notices later; until then it may push more.
            self.session.outbox.leave(channel.lease().id());
        }
        self.left_documents.remove(address);
        drop(self.early.take(address));
        self.send(address, &HocuspocusMessage::PermissionDenied(&close.reason()));
        self.deny(address)
    }

    fn deny(&mut self, address: &str) -> Result<(), Close> {
        if self.denied.insert(address) {
            return Ok(());
        }
        Err(Close::TooMany("too many refused documents on this connection".into()))
    }

    fn ignore(&self) -> Result<(), Close> {
        self.session.services.metrics.messages_ignored.inc();
        Ok(())
    }

    fn send(&mut self, address: &str, message: &HocuspocusMessage<'_>) {
        self.ping_first();
        self.session.outbox.push_control(message.encode(address).into());
        self.session.outbox.send();
    }
}

/// True if a provider that uses the document has sent this. A destroyed provider 2.x sends `null` as its awareness state
/// after its Close.
fn shows_use(message: &HocuspocusMessage<'_>) -> bool {
    match message {
        HocuspocusMessage::Sync(_) | HocuspocusMessage::SyncReply(_) => true,
        HocuspocusMessage::Awareness(update) => AwarenessUpdate::scan(update, &Default::default())
            .is_ok_and(|update| update.iter().any(|entry| !entry.is_null())),
        _ => false,
    }
}

fn scope_of(grant: Grant) -> Scope {
    match grant {
        Grant::Read => Scope::ReadOnly,
        Grant::ReadWrite => Scope::ReadWrite,
    }
}

fn parse_address(address: &str) -> Result<DocumentName, Close> {
    let (name, session) = split_address(address);
    if session.is_some_and(|session| session.len() > MAX_SESSION_ID_BYTES || session.chars().any(char::is_control)) {
        return Err(Close::BadDocumentName(
            "the session id in the document address is too long or has control characters".into(),
        ));
    }
    DocumentName::parse(name).map_err(|error| Close::BadDocumentName(error.to_string().into()))
}
