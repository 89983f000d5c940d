//! Leases that end while their session continues: the native dialect and Hocuspocus close one document, not
//! the socket.
//!
//! `over` holds a lease from its end until the other side has seen it. Meanwhile pushes for it are dropped:
//! its number in the session may already belong to another document.

use bytes::Bytes;

use super::{Outbox, Waiting};
use crate::ids::LeaseId;

impl Outbox {
    /// Called by a document to end one lease of a session that continues; the document pushes nothing for it
    /// afterwards. Queued frames are still sent, then `last_frame`.
    pub fn end(&self, lease: LeaseId, last_frame: Bytes) {
        let mut inner = self.lock();
        if inner.over.remove(&lease) || inner.close.is_some() {
            return;
        }
        inner.over.insert(lease);
        inner.behind.remove(&lease);
        inner.ended.push(lease);
        inner.put(Waiting::Control { frame: last_frame });
        self.tell(inner);
    }

    /// Called by a session that found a document closed: sends `last_frame` unless the document has ended the
    /// lease already.
    pub fn lose(&self, lease: LeaseId, last_frame: Bytes) {
        let mut inner = self.lock();
        inner.behind.remove(&lease);
        if inner.over.insert(lease) && inner.close.is_none() {
            inner.enqueue(Waiting::Control { frame: last_frame });
            drop(inner);
            self.send();
        }
    }

    /// Called by a session that leaves a document: nothing more is sent for this lease, whose number may
    /// already belong to another document.
    pub fn leave(&self, lease: LeaseId) {
        let mut inner = self.lock();
        inner.over.insert(lease);
        inner.queue.retain(|(_, waiting)| !waiting.is_answer_to(lease));
        inner.drop_frames(lease);
        inner.positions.drop_lease(lease);
        inner.behind.remove(&lease);
        self.note_drained(inner);
    }
}
