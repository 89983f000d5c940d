//! Handler of the y-websocket dialect: one session, one document, named by the path.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::ids::DocumentName;
use syncline_protocol::varint::Reader;
use syncline_protocol::ywebsocket::Message;

use super::document_link::{DocumentLink, Rights};
use super::grants::GrantChange;
use super::users::SessionUsers;
use super::{Context, bad_message};
use crate::auth::Dialect;
use crate::document::frame::Framing;
use crate::ids::LeaseId;
use crate::outbox::Outbox;

/// One y-websocket session.
pub(super) struct YWebsocket {
    channel: DocumentLink,
}

impl YWebsocket {
    /// Checks the document name and the access rights, then opens the document.
    pub(super) async fn open(context: &Context, outbox: &Arc<Outbox>, users: &SessionUsers) -> Result<Self, Close> {
        let handshake = users.handshake();
        let document =
            DocumentName::parse(handshake.path()).map_err(|error| Close::BadDocumentName(error.to_string().into()))?;
        let token = handshake.parameter("token").map(Cow::into_owned);
        let request = users.request(&document, token, Dialect::YWebsocket);
        // The session opens no other document.
        users.forget_secrets();
        drop(handshake);
        let admission = context.auth.authorize(request).await.map_err(|reason| Close::Forbidden(reason.into()))?;
        let rights = Rights::new(admission, users)?;
        let scan = context.limits.scan;
        users.pause_before_open().await;
        let channel =
            DocumentLink::open(&context.registry, &document, rights, outbox, Framing::YWebsocket, 1, scan).await?;
        Ok(Self { channel })
    }

    /// Name of the document.
    pub(super) fn document(&self) -> &str {
        self.channel.lease().document().as_str()
    }

    /// Handles one frame. Stock clients send one message per frame; other clients may send several.
    pub(super) async fn frame(&self, frame: &Bytes) -> Result<(), Close> {
        let mut reader = Reader::new(frame);
        while !reader.is_empty() {
            let is_first = reader.remaining() == frame.len();
            match Message::read(&mut reader) {
                Ok(Message::Sync(message)) => self.channel.sync(frame, message).await?,
                Ok(Message::Awareness(update)) => self.channel.awareness(frame, update).await?,
                Ok(Message::QueryAwareness) => self.channel.query_awareness().await?,
                // Not useful from a client; the reference server ignores it, too.
                Ok(Message::PermissionDenied(_)) => {}
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

    /// Applies a change of the grant; the session ends with it.
    pub(super) fn change_grant(&mut self, change: GrantChange) -> Result<(), Close> {
        if self.channel.is_granted_by(change.id) {
            self.channel.set_grant(change.grant.map_err(|reason| Close::Forbidden(reason.into()))?);
        }
        Ok(())
    }

    /// Asks the document for what this reader missed.
    pub(super) async fn resync(&self, behind: &[LeaseId]) -> Result<(), Close> {
        if behind.contains(&self.channel.lease().id()) { self.channel.resync().await } else { Ok(()) }
    }
}
