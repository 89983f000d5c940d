//! Handler of the y-websocket dialect: one session, one document, named by the path.

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::ids::DocumentName;
use syncline_protocol::ywebsocket::Message;

use super::channel::{Channel, Rights};
use super::users::Users;
use super::{Context, bad_message};
use crate::auth::AccessRequest;
use crate::document::frame::Framing;
use crate::ids::LeaseId;
use crate::outbox::Outbox;

/// One y-websocket session.
pub(super) struct YWebsocket {
    channel: Channel,
}

impl YWebsocket {
    /// Checks the name and the right to it, then opens the document.
    pub(super) async fn open(
        path: &str,
        context: &Context,
        outbox: &Arc<Outbox>,
        users: &Users,
    ) -> Result<Self, Close> {
        let document = DocumentName::parse(path).map_err(|error| Close::BadDocumentName(error.to_string().into()))?;
        let request = AccessRequest { document: document.clone(), token: None };
        let admission = context.auth.authorize(request).await.map_err(|reason| Close::Forbidden(reason.into()))?;
        let rights = Rights::new(admission, users)?;
        let scan = context.limits.scan;
        users.pause_before_open().await;
        let channel = Channel::open(&context.registry, &document, rights, outbox, Framing::YWebsocket, scan).await?;
        Ok(Self { channel })
    }

    /// Takes one frame.
    pub(super) async fn frame(&self, frame: &Bytes) -> Result<(), Close> {
        match Message::decode(frame).map_err(bad_message)? {
            Message::Sync(message) => self.channel.sync(frame, message).await,
            Message::Awareness(update) => self.channel.awareness(frame, update).await,
            Message::QueryAwareness => self.channel.query_awareness().await,
            // Clients have no use for it; the reference server ignores it too.
            Message::PermissionDenied(_) => Ok(()),
        }
    }

    /// Asks the document for what this reader missed.
    pub(super) async fn resync(&self, behind: &[LeaseId]) -> Result<(), Close> {
        if behind.contains(&self.channel.lease().id()) { self.channel.resync().await } else { Ok(()) }
    }
}
