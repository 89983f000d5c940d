//! Leases that end while their session goes on: the native dialect and Hocuspocus close one document, not the socket.
//!
//! `over` holds a lease from its end until its other side knows of it. In that time pushes for it are dropped: its number
//! in the session may belong to another document already.

use bytes::Bytes;

use super::{Outbox, Waiting};
use crate::ids::LeaseId;

impl Outbox {
    /// A document ends one lease of a session that goes on, and pushes nothing for it after: what waits is still sent,
    /// then `last_frame`.
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

    /// The session has found a document gone: `last_frame` is said unless the document has said one.
    pub fn lose(&self, lease: LeaseId, last_frame: Bytes) {
        let mut inner = self.lock();
        inner.behind.remove(&lease);
        if inner.over.insert(lease) && inner.close.is_none() {
            inner.enqueue(Waiting::Control { frame: last_frame });
            drop(inner);
            self.send();
        }
    }

    /// The session has left: nothing more is sent for this lease, which may have been given another document's number.
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
