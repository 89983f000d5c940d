//! Those who read a document: where their frames go, and how far each is known to have come.
//!
//! *Known to have come*: a frame pushed onto an empty outbox proves that everything pushed before has gone to the
//! socket, and a socket delivers in order or ends. So at such a push the reader's floor moves up to the newest
//! checkpoint; when it falls behind, one diff from its floor brings it up to date. From the first dropped frame until
//! that diff the floor stays: new changes may reach the reader before the diff does, and prove nothing about the gap.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::hocuspocus;
use syncline_protocol::ids::DocumentName;

use super::event::Outcome;
use super::frame::{Frame, Framing, Message};
use crate::ids::LeaseId;
use crate::outbox::{Outbox, Pushed};
use syncline_replica::Known;

struct Reader {
    outbox: Arc<Outbox>,
    framing: Framing,
    /// Has been sent a diff: from then on it gets every change.
    joined: bool,
    /// The state it is known to have; `None` until it has joined and drained once.
    floor: Option<Arc<Known>>,
    /// A frame for it was dropped, and no diff has been queued since.
    has_gap: bool,
}

impl Reader {
    /// Notes what became of a frame for this reader.
    fn note(&mut self, pushed: Pushed) -> Pushed {
        self.has_gap |= pushed == Pushed::Dropped;
        pushed
    }
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
        self.readers.insert(lease, Reader { outbox, framing, joined: false, floor: None, has_gap: false });
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

    /// Those who get every change.
    pub(super) fn joined(&self) -> Vec<LeaseId> {
        self.readers.iter().filter(|(_, reader)| reader.joined).map(|(&lease, _)| lease).collect()
    }

    /// The state this reader is known to have.
    pub(super) fn floor(&self, lease: LeaseId) -> Option<Arc<Known>> {
        self.readers.get(&lease).and_then(|reader| reader.floor.clone())
    }

    pub(super) fn broadcast(&mut self, frame: &Frame, author: Option<LeaseId>) -> usize {
        let mut delivered = 0;
        for (&lease, reader) in &mut self.readers {
            if Some(lease) == author || !reader.joined {
                continue;
            }
            let pushed = reader.outbox.push_document(lease, frame.encode(&self.document, &reader.framing));
            match reader.note(pushed) {
                Pushed::First => {
                    if !reader.has_gap {
                        reader.floor = Some(Arc::clone(&self.checkpoint));
                    }
                    delivered += 1;
                }
                Pushed::Queued => delivered += 1,
                Pushed::Dropped => {}
            }
        }
        delivered
    }

    pub(super) fn presence(&mut self, frame: &Frame, clients: &[u64]) {
        for (&lease, reader) in &mut self.readers {
            let pushed = reader.outbox.push_presence(lease, clients, frame.encode(&self.document, &reader.framing));
            reader.note(pushed);
        }
    }

    /// A diff makes its receiver a reader.
    pub(super) fn diff(&mut self, lease: LeaseId, frame: &Frame) {
        if let Some(reader) = self.readers.get_mut(&lease) {
            reader.joined = true;
            let pushed = reader.outbox.push_answer(lease, frame.encode(&self.document, &reader.framing));
            reader.has_gap = false;
            reader.note(pushed);
        }
    }

    pub(super) fn answer(&mut self, lease: LeaseId, frame: &Frame) {
        let Some(reader) = self.readers.get_mut(&lease) else { return };
        let bytes = frame.encode(&self.document, &reader.framing);
        if matches!(frame.message(), Message::Awareness(_)) {
            // Everyone's presence may be large and can be asked for with one byte; a resync brings it, too.
            let pushed = reader.outbox.push_answer(lease, bytes);
            reader.note(pushed);
        } else {
            reader.outbox.push_control(bytes);
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
                    reader.outbox.push_echo(lease, echo.encode(&self.document, &reader.framing));
                }
            }
            (Framing::YWebsocket, Outcome::Unneeded) => {}
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

#[cfg(test)]
mod tests {
    use yrs::{Doc, Text, Transact};

    use super::*;
    use syncline_replica::Crdt;

    const READER: LeaseId = LeaseId(1);
    const AUTHOR: LeaseId = LeaseId(2);

    #[tokio::test]
    async fn a_change_that_overtakes_the_resync_does_not_close_the_gap() {
        let mut readers = Readers::new(DocumentName::parse("doc").unwrap());
        let outbox = Arc::new(Outbox::new(100));
        readers.add(READER, Arc::clone(&outbox), Framing::YWebsocket);
        let mut crdt = Crdt::default();
        readers.diff(READER, &Frame::new(Message::Step2(crdt.encode().unwrap())));
        outbox.take().await;

        // One frame waits for the socket; the next is too much, both are dropped, and a checkpoint covers them.
        let doc = Doc::with_client_id(7);
        let text = doc.get_or_insert_text("text");
        for letter in ["a", "b"] {
            let mut txn = doc.transact_mut();
            text.insert(&mut txn, 0, &letter.repeat(60));
            let update = txn.encode_update_v1();
            crdt.apply(&update).unwrap();
            readers.broadcast(&Frame::new(Message::Update(update.into())), Some(AUTHOR));
        }
        readers.set_checkpoint(crdt.known());
        assert_eq!(outbox.take_behind().await, [READER]);

        // The socket has drained and the session asks for the diff, but a change comes before its question.
        readers.broadcast(&Frame::new(Message::Update(Bytes::from_static(&[0, 0]))), Some(AUTHOR));
        let floor = readers.floor(READER);
        let diff = crdt.diff_since(floor.as_deref().unwrap_or(&Known::default())).unwrap();
        assert!(diff.len() > 60, "the diff holds what was dropped, but is only {diff:?}");
    }
}
