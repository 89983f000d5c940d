//! PURE: the sender of each pending update. When a pending update is integrated it is broadcast to everyone
//! but its sender, which would take it for the acknowledgement (y-websocket's echo has the same bytes)
//! although it may not be on disk yet.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::ids::LeaseId;

/// Senders of pending updates, by update. Bounded by the limit on pending updates.
#[derive(Debug, Default)]
pub(super) struct PendingAuthors(BTreeMap<Bytes, LeaseId>);

impl PendingAuthors {
    /// Notes the sender of a pending update. `update` is the replica's own copy: a slice of the frame would
    /// keep the whole frame in memory.
    pub(super) fn add(&mut self, update: Option<Bytes>, lease: LeaseId) {
        self.0.extend(update.map(|update| (update, lease)));
    }

    /// Removes an update that is no longer pending. Returns its sender if that session is still open.
    pub(super) fn remove(&mut self, update: &Bytes) -> Option<LeaseId> {
        self.0.remove(update)
    }

    /// Forgets a session that has left.
    pub(super) fn forget_lease(&mut self, lease: LeaseId) {
        self.0.retain(|_, of| *of != lease);
    }
}
