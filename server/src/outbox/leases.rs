//! PURE: the leases of a session that are behind, and those that have ended while the session continues: the native
//! dialect and Hocuspocus close one document, not the socket.
//!
//! A lease is kept as ended from its end until the other side has seen it. Meanwhile pushes for it are dropped: its
//! number in the session may already belong to another document.

use std::collections::BTreeSet;

use crate::ids::LeaseId;

#[derive(Debug, Default)]
pub(super) struct LeaseStates {
    /// Leases whose frames were dropped; taken once the socket has drained.
    behind: BTreeSet<LeaseId>,
    ended: BTreeSet<LeaseId>,
    /// Leases in `ended` that their documents ended.
    ended_by_document: Vec<LeaseId>,
}

impl LeaseStates {
    pub(super) fn is_behind(&self, lease: LeaseId) -> bool {
        self.behind.contains(&lease)
    }

    pub(super) fn are_any_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    pub(super) fn has_ended(&self, lease: LeaseId) -> bool {
        self.ended.contains(&lease)
    }

    pub(super) fn fall_behind(&mut self, lease: LeaseId) {
        self.behind.insert(lease);
    }

    /// No lease is to be brought up to date: the session closes.
    pub(super) fn clear_behind(&mut self) {
        self.behind.clear();
    }

    pub(super) fn take_behind(&mut self) -> Vec<LeaseId> {
        std::mem::take(&mut self.behind).into_iter().collect()
    }

    /// The document ends a lease. False if the session has ended it already.
    pub(super) fn end_from_document(&mut self, lease: LeaseId) -> bool {
        let is_new = !self.ended.remove(&lease);
        if is_new {
            self.ended.insert(lease);
            self.behind.remove(&lease);
            self.ended_by_document.push(lease);
        }
        is_new
    }

    /// The session ends a lease. False if the document has ended it already.
    pub(super) fn end_from_session(&mut self, lease: LeaseId) -> bool {
        self.behind.remove(&lease);
        self.ended.insert(lease)
    }

    /// Leases that documents have ended; the session has seen their end then.
    pub(super) fn take_ended_by_document(&mut self) -> Vec<LeaseId> {
        let ended = std::mem::take(&mut self.ended_by_document);
        ended.iter().for_each(|lease| _ = self.ended.remove(lease));
        ended
    }

    /// The document has seen the end of a lease.
    pub(super) fn forget(&mut self, lease: LeaseId) {
        self.behind.remove(&lease);
        self.ended.remove(&lease);
    }

    #[cfg(test)]
    pub(super) fn has_any_ended(&self) -> bool {
        !self.ended.is_empty()
    }
}
