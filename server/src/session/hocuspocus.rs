//! Handler of the Hocuspocus dialect: one session, many documents, each authorised before it is opened.
//!
//! The provider sends token, step 1 and presence at once. While the token is decided on, this session is not read,
//! so what follows waits in the socket; only messages that come *before* their token are queued here, within limits.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::hocuspocus::{End, Frame, Message, PONG_FRAME, Scope, split_address};
use syncline_protocol::ids::DocumentName;
use syncline_protocol::limits::MAX_SESSION_ID_BYTES;
use tracing::debug;

use super::channel::{Channel, Rights};
use super::users::Users;
use super::{Context, bad_message};
use crate::auth::{AccessRequest, Grant};
use crate::document::frame::Framing;
use crate::ids::LeaseId;
use crate::outbox::Outbox;

/// Messages queued before their token, over all documents of the session (as the Hocuspocus server limits them).
const MAX_EARLY_MESSAGES: usize = 1_000;
/// And their bytes.
const MAX_EARLY_BYTES: usize = 5 * 1024 * 1024;

/// One Hocuspocus session.
pub(super) struct Hocuspocus {
    context: Arc<Context>,
    outbox: Arc<Outbox>,
    users: Arc<Users>,
    channels: BTreeMap<Box<str>, Channel>,
    /// In order of arrival: (address, frame).
    early: Vec<(Box<str>, Bytes)>,
    early_bytes: usize,
}

impl Hocuspocus {
    pub(super) fn new(context: Arc<Context>, outbox: Arc<Outbox>, users: Arc<Users>) -> Self {
        Self { context, outbox, users, channels: BTreeMap::new(), early: Vec::new(), early_bytes: 0 }
    }

    /// Takes one frame.
    pub(super) async fn frame(&mut self, frame: &Bytes) -> Result<(), Close> {
        let (address, message) = match Frame::decode(frame, End::Server).map_err(bad_message)? {
            Frame::Ping => {
                self.outbox.push_control(Bytes::from_static(&PONG_FRAME));
                self.outbox.send();
                return Ok(());
            }
            Frame::Pong => return Ok(()),
            Frame::Addressed { address, message } => (address, message),
        };
        match message {
            Message::Token { token, .. } => self.authorize(address, token).await,
            message => match self.channels.get(address) {
                Some(channel) => {
                    if is_close(&message) {
                        self.channels.remove(address);
                        return Ok(());
                    }
                    take(channel, frame, message).await
                }
                // Of a document this session has left, or never had: nothing to leave.
                None if is_close(&message) => Ok(()),
                None => self.keep_early(address, frame),
            },
        }
    }

    /// Asks the documents for what this reader missed.
    pub(super) async fn resync(&self, behind: &[LeaseId]) -> Result<(), Close> {
        for channel in self.channels.values().filter(|channel| behind.contains(&channel.lease().id())) {
            channel.resync().await?;
        }
        Ok(())
    }

    async fn authorize(&mut self, address: &str, token: &str) -> Result<(), Close> {
        let document = match parse_address(address) {
            Ok(document) => document,
            Err(close) => {
                // The provider ignores close codes: this message is what its user gets to see.
                self.say(address, &Message::PermissionDenied(&close.reason()));
                return Err(close);
            }
        };
        let request = AccessRequest { document: document.clone(), token: Some(token.to_owned()) };
        let admission = match self.context.auth.authorize(request).await {
            Ok(admission) => admission,
            Err(reason) => {
                debug!(%document, reason, "access denied");
                self.say(address, &Message::PermissionDenied(&reason));
                self.context.metrics.documents_closed.count(&Close::Forbidden(reason.into()));
                drop(self.take_early(address));
                // A token may be renewed while the document is open: the old grant does not outlive the refusal.
                self.channels.remove(address);
                return Ok(());
            }
        };
        let rights = match Rights::new(admission, &self.users) {
            Ok(rights) => rights,
            Err(close) => {
                self.say(address, &Message::PermissionDenied(&close.reason()));
                return Err(close);
            }
        };
        let scope = match rights.grant {
            Grant::Read => Scope::ReadOnly,
            Grant::ReadWrite => Scope::ReadWrite,
        };
        if let Some(channel) = self.channels.get_mut(address) {
            channel.set_rights(rights);
            self.say(address, &Message::Authenticated(scope));
            return Ok(());
        }
        if self.channels.len() >= self.context.limits.documents {
            let reason = format!("one connection may open at most {} documents", self.context.limits.documents);
            self.say(address, &Message::PermissionDenied(&reason));
            return Err(Close::TooMany(reason.into()));
        }
        self.say(address, &Message::Authenticated(scope));
        let framing = Framing::Hocuspocus { address: address.into() };
        let scan = self.context.limits.scan;
        self.users.pause_before_open().await;
        let channel = Channel::open(&self.context.registry, &document, rights, &self.outbox, framing, scan).await?;
        self.channels.insert(address.into(), channel);
        self.replay_early(address).await
    }

    fn keep_early(&mut self, address: &str, frame: &Bytes) -> Result<(), Close> {
        parse_address(address)?;
        self.early_bytes += frame.len();
        if self.early.len() >= MAX_EARLY_MESSAGES || self.early_bytes > MAX_EARLY_BYTES {
            return Err(Close::TooMany("too many messages before the authentication message".into()));
        }
        self.early.push((address.into(), frame.clone()));
        Ok(())
    }

    async fn replay_early(&mut self, address: &str) -> Result<(), Close> {
        let mine = self.take_early(address);
        let Some(channel) = self.channels.get(address) else { return Ok(()) };
        for (_, frame) in mine {
            if let Frame::Addressed { message, .. } = Frame::decode(&frame, End::Server).map_err(bad_message)? {
                take(channel, &frame, message).await?;
            }
        }
        Ok(())
    }

    fn take_early(&mut self, address: &str) -> Vec<(Box<str>, Bytes)> {
        let (mine, others) = std::mem::take(&mut self.early).into_iter().partition(|(of, _)| **of == *address);
        self.early = others;
        self.early_bytes = self.early.iter().map(|(_, frame)| frame.len()).sum();
        mine
    }

    fn say(&self, address: &str, message: &Message<'_>) {
        self.outbox.push_control(message.encode(address).into());
        self.outbox.send();
    }
}

async fn take(channel: &Channel, frame: &Bytes, message: Message<'_>) -> Result<(), Close> {
    match message {
        Message::Sync(message) | Message::SyncReply(message) => channel.sync(frame, message).await,
        Message::Awareness(update) => channel.awareness(frame, update).await,
        Message::QueryAwareness => channel.query_awareness().await,
        // Texts for an application's own server hooks; there are none here. Statuses are ours to send.
        Message::Stateless(_) | Message::SyncStatus(_) => Ok(()),
        Message::BroadcastStateless(_) => Err(bad_message("clients may not broadcast stateless messages")),
        // Handled before, or never decoded at the server's end.
        Message::Close(_)
        | Message::Token { .. }
        | Message::TokenWanted
        | Message::PermissionDenied(_)
        | Message::Authenticated(_) => Ok(()),
    }
}

fn is_close(message: &Message<'_>) -> bool {
    matches!(message, Message::Close(_))
}

fn parse_address(address: &str) -> Result<DocumentName, Close> {
    let (name, session) = split_address(address);
    if session.is_some_and(|session| session.len() > MAX_SESSION_ID_BYTES || session.chars().any(char::is_control)) {
        return Err(Close::BadDocumentName("the session id in the document address is too long or not text".into()));
    }
    DocumentName::parse(name).map_err(|error| Close::BadDocumentName(error.to_string().into()))
}
