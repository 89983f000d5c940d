//! All sessions of a server, to close them when it stops. Costs an idle session nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use syncline_protocol::close::Close;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::ids::SessionId;
use crate::outbox::Outbox;

/// Closes all sessions when the server stops.
#[derive(Debug, Default)]
pub struct Stop {
    /// Cancelled when the server stops.
    token: CancellationToken,
    /// Ordered, so that a simulation can be replayed.
    sessions: Mutex<BTreeMap<SessionId, Weak<Outbox>>>,
}

impl Stop {
    /// Closes every session, and those that begin later, with a reason that asks clients to reconnect.
    pub fn cancel(&self) {
        self.token.cancel();
        self.outboxes().iter().for_each(|outbox| outbox.close(Close::ServerStopping));
    }

    /// Ends sessions that have not ended yet, without a close frame.
    pub fn cut(&self) {
        self.outboxes().iter().for_each(|outbox| outbox.cut());
    }

    /// True from [`Stop::cancel`] on.
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits for [`Stop::cancel`].
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }

    /// Registers a session until the returned entry is dropped.
    pub(super) fn enter(&self, id: SessionId, outbox: &Arc<Outbox>) -> SessionEntry<'_> {
        let mut sessions = self.lock();
        sessions.insert(id, Arc::downgrade(outbox));
        // Checked under the lock that `cancel` takes to list all sessions: one of the two sees the other.
        if self.is_cancelled() {
            drop(sessions);
            outbox.close(Close::ServerStopping);
        }
        SessionEntry { stop: self, id }
    }

    fn outboxes(&self) -> Vec<Arc<Outbox>> {
        self.lock().values().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionId, Weak<Outbox>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A registered session.
pub(super) struct SessionEntry<'a> {
    stop: &'a Stop,
    id: SessionId,
}

impl Drop for SessionEntry<'_> {
    fn drop(&mut self) {
        self.stop.lock().remove(&self.id);
    }
}
