//! PURE: who brought what waits for others. When it is freed it is news for everybody else; its author would take it for the
//! acknowledgement (y-websocket's echo is the same bytes), and it may not be on the disk yet.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::ids::LeaseId;

/// The authors of pending updates, as long as they stay: at most as many as may be pending.
#[derive(Debug, Default)]
pub(super) struct Authors(BTreeMap<Bytes, LeaseId>);

impl Authors {
    /// It waits. Its bytes are the replica's own copy: a slice of the frame would keep all of it.
    pub(super) fn waits(&mut self, update: Option<Bytes>, lease: LeaseId) {
        self.0.extend(update.map(|update| (update, lease)));
    }

    /// It waits no more: who brought it, if that session is still here.
    pub(super) fn freed(&mut self, update: &Bytes) -> Option<LeaseId> {
        self.0.remove(update)
    }

    /// A session is gone.
    pub(super) fn leave(&mut self, lease: LeaseId) {
        self.0.retain(|_, of| *of != lease);
    }
}
