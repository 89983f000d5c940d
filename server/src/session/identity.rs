//! Log fields of a session that the server closes: dialect, document and user.

use crate::dialect::Handler;
use crate::limits::SessionUsers;

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
    /// `last` is the message that ended the session; empty if none did.
    pub(super) fn of(handler: Option<&Handler>, last: &[u8], users: &SessionUsers) -> Box<Self> {
        let dialect = handler.map_or("unknown", |handler| handler.dialect().name());
        let (document, documents) = handler.map_or((None, 0), |handler| handler.documents(last));
        Box::new(Self { dialect, document: document.map(Box::from), documents, user: users.name().map(Box::from) })
    }
}
