//! What a session's decisions on access depend on: the handshake that began it, and grants that may change.

use std::sync::{Arc, Mutex, PoisonError};

use super::grants::SessionGrants;
use crate::auth::Handshake;

/// One for each session, shared with its handler.
pub(crate) struct SessionAccess {
    /// The handshake that began the session, as far as a later decision on access may need it.
    handshake: Mutex<Arc<Handshake>>,
    /// Grants of open documents that may change.
    pub(crate) grants: SessionGrants,
}

impl SessionAccess {
    pub(crate) fn new(handshake: Handshake) -> Self {
        Self { handshake: Mutex::new(Arc::new(handshake)), grants: SessionGrants::default() }
    }

    /// The handshake that began the session.
    pub(crate) fn handshake(&self) -> Arc<Handshake> {
        Arc::clone(&self.handshake.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Releases the query and the headers: the session will not open another document.
    pub(super) fn forget_secrets(&self) {
        let mut handshake = self.handshake.lock().unwrap_or_else(PoisonError::into_inner);
        *handshake = Arc::new(handshake.without_secrets());
    }
}
