//! Log fields of a session that the server closes, or refuses a document: address, dialect, document and
//! user.

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::hocuspocus::{address_of, split_address};

use tokio::time::Instant;
use tracing::{debug, info};

use super::Context;
use super::reader::DialectHandler;
use super::users::SessionUsers;

/// Dialect, document and user of a session, as far as they are known.
pub(super) struct SessionIdentity {
    pub(super) dialect: &'static str,
    /// The document addressed by the message that ended the session; otherwise the only open one.
    pub(super) document: Option<Box<str>>,
    /// Number of open documents.
    pub(super) documents: usize,
    pub(super) user: Option<Box<str>>,
}

impl SessionIdentity {
    /// `last` is the message that ended the session, if one did.
    pub(super) fn of(handler: &DialectHandler, last: Option<&Bytes>, users: &SessionUsers) -> Box<Self> {
        let (dialect, document, documents) = match handler {
            DialectHandler::Unknown => ("unknown", None, 0),
            DialectHandler::YWebsocket(session) => ("y-websocket", Some(session.document()), 1),
            DialectHandler::Hocuspocus(session) => {
                let (only, count) = session.documents();
                ("Hocuspocus", last.and_then(addressed_document).or(only), count)
            }
            DialectHandler::Native(session) => {
                let (only, count) = session.documents();
                ("native", only, count)
            }
            DialectHandler::Echo(_) => ("echo", None, 0),
        };
        Box::new(Self { dialect, document: document.map(Box::from), documents, user: users.name().map(Box::from) })
    }
}

/// Logs that a document was refused to a session that continues.
pub(super) fn log_refused(context: &Context, users: &SessionUsers, dialect: &str, document: &str, close: &Close) {
    let (address, user, code, reason) = (users.address(), users.name(), close.code(), &*close.reason());
    match context.log_limit.admit(("document refused", code), Instant::now()) {
        Some(not_logged) => info!(%address, dialect, document, user, code, reason, not_logged, "document refused"),
        None => debug!(%address, dialect, document, user, code, reason, "document refused"),
    }
}

/// The document that a Hocuspocus message is addressed to.
fn addressed_document(frame: &Bytes) -> Option<&str> {
    address_of(frame).ok().map(|address| split_address(address).0)
}
