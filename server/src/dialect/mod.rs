//! The wire formats of the clients, one file each: incoming frames become events of a document, and its messages
//! become frames. Documents and sessions depend on no dialect.
//!
//! ```text
//! mod.rs            detects the dialect of a session and calls its handler
//! ywebsocket.rs     y-websocket: one document
//! hocuspocus.rs     Hocuspocus: many documents, authorised one by one
//! hocuspocus/       encoder.rs its frames; early_messages.rs messages that arrived before their token; offline_queue.rs
//!                   whether a client has sent what it queued before it was connected
//! native.rs         native: many documents, by number
//! document_link.rs  one document of a session: scans payloads, then sends them to the document
//! services.rs       what the handlers need of the server and of their session
//! access.rs         what a session's decisions on access depend on: its handshake, and grants that may change
//! grants.rs         grants that may change while the session lives
//! ```

mod access;
mod document_link;
mod grants;
mod hocuspocus;
mod native;
mod services;
#[cfg(test)]
mod tests;
mod ywebsocket;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::detect::{self, detect};
use syncline_protocol::hocuspocus::begins_step1;
use syncline_protocol::native::is_hello;

pub(crate) use self::access::SessionAccess;
use self::document_link::DocumentLink;
pub(crate) use self::grants::GrantChange;
use self::hocuspocus::Hocuspocus;
#[cfg(test)]
pub(crate) use self::hocuspocus::HocuspocusEncoder;
use self::native::Native;
pub use self::native::NativeEncoder;
pub(crate) use self::services::SessionParts;
pub(crate) use self::services::{MessageLimits, Services};
use self::ywebsocket::YWebsocket;
pub use self::ywebsocket::YWebsocketEncoder;
use crate::auth::Dialect;
use crate::ids::LeaseId;

/// One session of a dialect. What is implemented here is for dialects that have one document and no tokens.
trait DialectSession {
    /// The session's dialect, for the authorizer and the log.
    fn dialect(&self) -> Dialect;

    /// The document for the log, and the number of open documents: the document addressed by `last`, the message that
    /// ended the session (empty if none did), otherwise the only open one.
    fn documents<'a>(&'a self, last: &'a [u8]) -> (Option<&'a str>, usize);

    /// A message for clients that receive nothing else for a while and would disconnect.
    fn heartbeat(&self) -> Bytes;

    /// Handles one frame.
    ///
    /// Errors: the session must be closed; a dialect refuses a single document itself.
    async fn frame(&mut self, frame: &Bytes) -> Result<(), Close>;

    /// Asks the documents of these leases for what the client missed.
    async fn resync(&mut self, behind: &[LeaseId]) -> Result<(), Close>;

    /// Applies a change of a grant: to one of its documents, or to one that it has left since.
    fn change_grant(&mut self, change: GrantChange) -> Result<(), Close>;

    /// True if a long message with this beginning should be read into memory.
    fn wants(&self, _prefix: &[u8]) -> bool {
        true
    }

    /// Handles a message over the limit, of which only the beginning was read.
    fn too_large(&mut self, _prefix: &[u8], limit_bytes: usize) -> Result<(), Close> {
        Err(Close::MessageTooLarge { limit_bytes })
    }

    /// Removes leases that documents have ended; the documents have informed the client.
    fn remove_ended(&mut self, _leases: &[LeaseId]) -> Result<(), Close> {
        Ok(())
    }

    /// True if the client must send a token, or open a document without one, within a time limit.
    fn has_tokens(&self) -> bool {
        false
    }

    /// Called when that time limit has passed.
    fn check_authenticated(&mut self) -> Result<(), Close> {
        Ok(())
    }

    /// The client has answered a WebSocket ping.
    fn note_pong(&mut self) {}
}

/// The handler of a session's dialect. Owns the session's leases.
pub(crate) enum Handler {
    YWebsocket(YWebsocket),
    /// Boxed: sessions of the other dialects are smaller.
    Hocuspocus(Box<Hocuspocus>),
    Native(Native),
}

/// Evaluates an expression for the session in a handler: `DialectSession` cannot be a trait object, because its
/// futures have different types.
macro_rules! of_session {
    ($handler:expr, $session:ident => $call:expr) => {
        match $handler {
            Handler::YWebsocket($session) => $call,
            Handler::Hocuspocus($session) => $call,
            Handler::Native($session) => $call,
        }
    };
}

impl Handler {
    /// Detects the dialect from the first frame, which the caller passes to [`Handler::frame`] afterwards. `None`: the
    /// frame is of no dialect, the next one may be.
    pub(crate) async fn start(first_frame: &[u8], session: SessionParts) -> Result<Option<Self>, Close> {
        if is_hello(first_frame) {
            return Ok(Some(Self::Native(Native::new(session))));
        }
        Ok(match detect(first_frame) {
            None => None,
            Some(detect::Dialect::YWebsocket) => Some(Self::YWebsocket(YWebsocket::open(first_frame, session).await?)),
            Some(detect::Dialect::Hocuspocus) => Some(Self::Hocuspocus(Box::new(Hocuspocus::new(session)))),
        })
    }

    /// True if a long first message with this beginning should be read into memory: the state vector of a document
    /// with many clients may be long, a token may not.
    pub(crate) fn wants_first(prefix: &[u8]) -> bool {
        prefix.first() == Some(&0) || begins_step1(prefix)
    }

    pub(crate) fn dialect(&self) -> Dialect {
        of_session!(self, session => session.dialect())
    }

    pub(crate) fn documents<'a>(&'a self, last: &'a [u8]) -> (Option<&'a str>, usize) {
        of_session!(self, session => session.documents(last))
    }

    pub(crate) fn heartbeat(&self) -> Bytes {
        of_session!(self, session => session.heartbeat())
    }

    pub(crate) async fn frame(&mut self, frame: &Bytes) -> Result<(), Close> {
        of_session!(self, session => session.frame(frame).await)
    }

    pub(crate) async fn resync(&mut self, behind: &[LeaseId]) -> Result<(), Close> {
        of_session!(self, session => session.resync(behind).await)
    }

    pub(crate) fn change_grant(&mut self, change: GrantChange) -> Result<(), Close> {
        of_session!(self, session => session.change_grant(change))
    }

    pub(crate) fn wants(&self, prefix: &[u8]) -> bool {
        of_session!(self, session => session.wants(prefix))
    }

    pub(crate) fn too_large(&mut self, prefix: &[u8], limit_bytes: usize) -> Result<(), Close> {
        of_session!(self, session => session.too_large(prefix, limit_bytes))
    }

    pub(crate) fn remove_ended(&mut self, leases: &[LeaseId]) -> Result<(), Close> {
        of_session!(self, session => session.remove_ended(leases))
    }

    pub(crate) fn has_tokens(&self) -> bool {
        of_session!(self, session => session.has_tokens())
    }

    pub(crate) fn check_authenticated(&mut self) -> Result<(), Close> {
        of_session!(self, session => session.check_authenticated())
    }

    pub(crate) fn note_pong(&mut self) {
        of_session!(self, session => session.note_pong())
    }
}

/// The name of the document if exactly one is open, and the number of open documents.
fn documents_of<'a>(mut links: impl ExactSizeIterator<Item = &'a DocumentLink>) -> (Option<&'a str>, usize) {
    let count = links.len();
    (links.next().filter(|_| count == 1).map(|link| link.lease().document().as_str()), count)
}

/// The close reason for an invalid message.
fn bad_message(error: impl std::fmt::Display) -> Close {
    Close::BadMessage(error.to_string().into())
}
