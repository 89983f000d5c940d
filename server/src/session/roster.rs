//! Who is connected, so that a server that stops can tell everyone. A session that waits costs nothing for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use syncline_protocol::close::Close;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::ids::SessionId;
use crate::outbox::Outbox;

/// Tells sessions to end.
#[derive(Debug, Default)]
pub struct Stop {
    /// Cancelled when the server stops.
    token: CancellationToken,
    /// In order of arrival: a simulation must go the same way again.
    roster: Mutex<BTreeMap<SessionId, Weak<Outbox>>>,
}

impl Stop {
    /// Every client is told to come back, and its session ends; so do those that begin later.
    pub fn cancel(&self) {
        self.token.cancel();
        self.everyone().iter().for_each(|outbox| outbox.close(Close::ServerStopping));
    }

    /// Sessions that have not ended do so now, without a word.
    pub fn cut(&self) {
        self.everyone().iter().for_each(|outbox| outbox.cut());
    }

    /// True from [`Stop::cancel`] on.
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits for [`Stop::cancel`].
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }

    /// A session begins. It is struck off when what this returns is dropped.
    pub(super) fn enter(&self, id: SessionId, outbox: &Arc<Outbox>) -> Entry<'_> {
        let mut roster = self.lock();
        roster.insert(id, Arc::downgrade(outbox));
        // Under the lock under which `cancel` goes through all: one of the two sees the other.
        if self.is_cancelled() {
            drop(roster);
            outbox.close(Close::ServerStopping);
        }
        Entry { stop: self, id }
    }

    fn everyone(&self) -> Vec<Arc<Outbox>> {
        self.lock().values().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionId, Weak<Outbox>>> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's place in the roster.
pub(super) struct Entry<'a> {
    stop: &'a Stop,
    id: SessionId,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.stop.lock().remove(&self.id);
    }
}
