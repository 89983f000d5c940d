//! Those who read a document: where their frames go, and how far each is known to have come.
//!
//! *Known to have come*: a frame pushed onto an empty outbox proves that everything pushed before has gone to the
//! socket, and a socket delivers in order or ends. So at such a push the reader's floor moves up to the newest
//! checkpoint; when it falls behind, one diff from its floor brings it up to date.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::hocuspocus;
use syncline_protocol::ids::DocumentName;

use super::crdt::Known;
use super::event::Outcome;
use super::frame::{Frame, Framing};
use crate::ids::LeaseId;
use crate::outbox::{Outbox, Pushed};

struct Reader {
    outbox: Arc<Outbox>,
    framing: Framing,
    /// Has been sent a diff: from then on it gets every change.
    joined: bool,
    /// The state it is known to have; `None` until it has joined and drained once.
    floor: Option<Arc<Known>>,
}

/// The readers of one document. Dropping it ends their sessions: a document task never vanishes silently.
pub(super) struct Readers {
    document: DocumentName,
    readers: HashMap<LeaseId, Reader>,
    checkpoint: Arc<Known>,
}

impl Readers {
    pub(super) fn new(document: DocumentName) -> Self {
        Self { document, readers: HashMap::new(), checkpoint: Arc::default() }
    }

    pub(super) fn add(&mut self, lease: LeaseId, outbox: Arc<Outbox>, framing: Framing) {
        self.readers.insert(lease, Reader { outbox, framing, joined: false, floor: None });
    }

    pub(super) fn remove(&mut self, lease: LeaseId) {
        if let Some(reader) = self.readers.remove(&lease) {
            reader.outbox.forget(lease);
        }
    }

    /// Everything broadcast so far is covered by `known`.
    pub(super) fn set_checkpoint(&mut self, known: Known) {
        self.checkpoint = Arc::new(known);
    }

    /// The state this reader is known to have.
    pub(super) fn floor(&self, lease: LeaseId) -> Option<Arc<Known>> {
        self.readers.get(&lease).and_then(|reader| reader.floor.clone())
    }

    pub(super) fn broadcast(&mut self, frame: &Frame, author: LeaseId) -> usize {
        let mut delivered = 0;
        for (&lease, reader) in &mut self.readers {
            if lease == author || !reader.joined {
                continue;
            }
            match reader.outbox.push_document(lease, frame.encode(&self.document, &reader.framing)) {
                Pushed::First => {
                    reader.floor = Some(Arc::clone(&self.checkpoint));
                    delivered += 1;
                }
                Pushed::Queued => delivered += 1,
                Pushed::Dropped => {}
            }
        }
        delivered
    }

    pub(super) fn presence(&mut self, frame: &Frame, clients: &[u64]) {
        for (&lease, reader) in &self.readers {
            reader.outbox.push_presence(lease, clients, frame.encode(&self.document, &reader.framing));
        }
    }

    /// A diff makes its receiver a reader.
    pub(super) fn diff(&mut self, lease: LeaseId, frame: &Frame) {
        if let Some(reader) = self.readers.get_mut(&lease) {
            reader.joined = true;
            reader.outbox.push_answer(lease, frame.encode(&self.document, &reader.framing));
        }
    }

    pub(super) fn answer(&mut self, lease: LeaseId, frame: &Frame) {
        if let Some(reader) = self.readers.get(&lease) {
            reader.outbox.push_control(frame.encode(&self.document, &reader.framing));
        }
    }

    pub(super) fn ack(&mut self, lease: LeaseId, outcome: Outcome, echo: Option<&Frame>) {
        let Some(reader) = self.readers.get(&lease) else { return };
        match (&reader.framing, outcome) {
            (Framing::Hocuspocus { address }, outcome) => {
                let status = hocuspocus::Message::SyncStatus(outcome == Outcome::Saved);
                reader.outbox.push_control(Bytes::from(status.encode(address)));
            }
            (Framing::YWebsocket, Outcome::Saved) => {
                if let Some(echo) = echo {
                    // A document frame, not an answer: a reader too slow for it gets the diff instead.
                    reader.outbox.push_document(lease, echo.encode(&self.document, &reader.framing));
                }
            }
            // This dialect has no word for "refused": the session ends, its unsaved edits stay with the client.
            (Framing::YWebsocket, Outcome::Refused) => reader.outbox.close(Close::StorageFailed),
        }
    }

    pub(super) fn close(&self, lease: LeaseId, close: Close) {
        if let Some(reader) = self.readers.get(&lease) {
            reader.outbox.close(close);
        }
    }

    pub(super) fn close_all(&self, close: &Close) {
        for reader in self.readers.values() {
            reader.outbox.close(close.clone());
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.close_all(&Close::DocumentReloading);
    }
}
