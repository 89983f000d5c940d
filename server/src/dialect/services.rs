//! What the handlers of the dialects need of the server and of their session.

use std::sync::Arc;

use syncline_protocol::close::Close;
use syncline_protocol::ids::DocumentName;
use syncline_protocol::update::ScanLimits;
use tokio::time::Instant;
use tracing::{debug, info};

use super::access::SessionAccess;
use crate::auth::{Access, AccessRequest, Authorize, Dialect};
use crate::limits::{Gate, SessionUsers};
use crate::log_limit::LogLimit;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::registry::Registry;

/// State shared by all sessions of a server.
pub struct Services {
    /// The open documents.
    pub registry: Arc<Registry>,
    /// Decides on access to documents.
    pub auth: Arc<dyn Authorize>,
    /// Connection and rate limits.
    pub gate: Arc<Gate>,
    /// Counters of the server.
    pub metrics: Arc<Metrics>,
    /// Keeps refusals from filling the log.
    pub log_limit: LogLimit,
    /// Limits of each session.
    pub limits: MessageLimits,
}

/// Limits that the handlers enforce in each session.
#[derive(Debug, Clone, Copy)]
pub struct MessageLimits {
    /// Maximum size of a message in bytes.
    pub message_bytes: usize,
    /// Maximum number of open documents.
    pub documents: usize,
    /// Limits on the contents of an update.
    pub scan: ScanLimits,
}

impl Services {
    /// Fails if a session that has `open` documents may not open another.
    pub(super) fn check_document_limit(&self, open: usize) -> Result<(), Close> {
        let limit = self.limits.documents;
        if open < limit {
            return Ok(());
        }
        Err(Close::TooMany(format!("one connection may open at most {limit} documents").into()))
    }
}

/// What a handler needs of its session.
pub(crate) struct SessionParts {
    pub(crate) services: Arc<Services>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) users: Arc<SessionUsers>,
    pub(crate) access: Arc<SessionAccess>,
}

impl SessionParts {
    /// Asks the authorizer whether the session may open a document. `Err` holds the reason why not.
    pub(super) fn authorize(&self, document: &DocumentName, token: Option<String>, dialect: Dialect) -> Access {
        let (document, handshake) = (document.clone(), self.access.handshake());
        self.services.auth.authorize(AccessRequest { document, token, dialect, handshake })
    }

    /// Logs that a document was refused to a session that continues.
    pub(super) fn log_refused(&self, dialect: Dialect, document: &str, close: &Close) {
        let dialect = dialect.name();
        let (address, user, code, reason) = (self.users.address(), self.users.name(), close.code(), &*close.reason());
        match self.services.log_limit.admit(("document refused", code), Instant::now()) {
            Some(not_logged) => info!(%address, dialect, document, user, code, reason, not_logged, "document refused"),
            None => debug!(%address, dialect, document, user, code, reason, "document refused"),
        }
    }
}
