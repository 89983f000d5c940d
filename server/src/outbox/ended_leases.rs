//! Leases that end while their session continues: the native dialect and Hocuspocus close one document, not
//! the socket.
//!
//! `ended_leases` holds a lease from its end until the other side has seen it. Meanwhile pushes for it are dropped:
//! its number in the session may already belong to another document.

use bytes::Bytes;

use super::{Outbox, QueuedFrame};
use crate::ids::LeaseId;

impl Outbox {
    /// Called by a document to end one lease of a session that continues; the document pushes nothing for it
    /// afterwards. Queued frames are still sent, then `last_frame`.
    pub fn end_from_document(&self, lease: LeaseId, last_frame: Bytes) {
        let mut inner = self.lock();
        if inner.ended_leases.remove(&lease) || inner.close.is_some() {
            return;
        }
        inner.ended_leases.insert(lease);
        inner.behind.remove(&lease);
        inner.ended_by_document.push(lease);
        inner.put(QueuedFrame::Control { frame: last_frame });
        self.notify_reader(inner);
    }

    /// Called by a session that found a document closed: sends `last_frame` unless the document has ended the
    /// lease already.
    pub fn end_from_session(&self, lease: LeaseId, last_frame: Bytes) {
        let mut inner = self.lock();
        inner.behind.remove(&lease);
        if inner.ended_leases.insert(lease) && inner.close.is_none() {
            inner.enqueue(QueuedFrame::Control { frame: last_frame });
            drop(inner);
            self.send();
        }
    }

    /// Called by a session that leaves a document: nothing more is sent for this lease, whose number may
    /// already belong to another document.
    pub fn leave(&self, lease: LeaseId) {
        let mut inner = self.lock();
        inner.ended_leases.insert(lease);
        inner.queue.retain(|(_, queued)| !queued.is_reply_to(lease));
        inner.drop_frames(lease);
        inner.positions.drop_lease(lease);
        inner.behind.remove(&lease);
        self.note_drained(inner);
    }
}
