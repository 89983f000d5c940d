//! Those who read a document: where their frames go, and how far each is known to have come.
//!
//! *Known to have come*: a frame pushed onto an empty outbox proves that everything pushed before has gone to the
//! socket, and a socket delivers in order or ends. So at such a push the reader's floor moves up to the newest
//! checkpoint; when it falls behind, one diff from its floor brings it up to date. From the first dropped frame until
//! that diff the floor stays: new changes may reach the reader before the diff does, and prove nothing about the gap.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::hocuspocus;
use syncline_protocol::ids::{DocumentName, Seq};
use syncline_protocol::native::{Channel, Cursor, Resume, ToClient};
use syncline_protocol::update::EMPTY_UPDATE;

use super::event::Outcome;
use super::frame::{Frame, Framing, Message};
use super::merge::{Change, Merge};
use crate::ids::LeaseId;
use crate::outbox::{Outbox, Position, Pushed};
use syncline_replica::{Full, Known};

struct Reader {
    outbox: Arc<Outbox>,
    framing: Framing,
    /// Presence is for it, too: in the native dialect not before the document was opened.
    opened: bool,
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

    /// Sends a change. Returns whether it is queued.
    fn push(&mut self, lease: LeaseId, document: &DocumentName, checkpoint: &Arc<Known>, frame: &Frame) -> bool {
        let pushed = self.outbox.push_document(lease, frame.encode(document, &self.framing));
        let pushed = self.note(pushed);
        if pushed == Pushed::First && !self.has_gap {
            self.floor = Some(Arc::clone(checkpoint));
        }
        pushed != Pushed::Dropped
    }

    /// The client's number for the document, in the native dialect.
    fn channel(&self) -> Option<Channel> {
        if let Framing::Native { channel } = self.framing { Some(channel) } else { None }
    }

    /// Tells a native reader how far the document is on disk. Not over a gap: the position would speak of frames that
    /// were dropped. The diff that closes the gap is followed by another.
    fn push_durable(&self, lease: LeaseId, seq: Seq) {
        if let Some(channel) = self.channel().filter(|_| self.joined && !self.has_gap) {
            let frame = ToClient::Durable { channel, seq }.encode();
            self.outbox.push_position(lease, Position::Durable, frame.into());
        }
    }

    /// Ends the session, or in a native one this document only.
    fn close(&self, lease: LeaseId, close: Close) {
        match self.channel() {
            Some(channel) => {
                let last_frame = ToClient::Closed { channel, code: close.code(), reason: &close.reason() }.encode();
                self.outbox.end(lease, last_frame.into());
            }
            None => self.outbox.close(close),
        }
    }
}

/// The readers of one document. Dropping it ends their sessions: a document task never vanishes silently.
pub(super) struct Readers {
    document: DocumentName,
    /// Served in the same order in every run: a simulation replays it.
    /// In boxes: a map makes room for eleven.
    readers: BTreeMap<LeaseId, Box<Reader>>,
    checkpoint: Arc<Known>,
}

impl Readers {
    pub(super) fn new(document: DocumentName) -> Self {
        Self { document, readers: BTreeMap::new(), checkpoint: Arc::default() }
    }

    pub(super) fn add(&mut self, lease: LeaseId, outbox: Arc<Outbox>, framing: Framing) {
        let opened = !matches!(framing, Framing::Native { .. });
        let reader = Reader { outbox, framing, opened, joined: false, floor: None, has_gap: false };
        self.readers.insert(lease, Box::new(reader));
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

    /// Sends changes in their order, merged, to every reader: to an author those of the others. Returns how many
    /// changes were queued, counted for each reader.
    pub(super) fn broadcast(&mut self, changes: &[Change]) -> usize {
        if changes.is_empty() {
            return 0;
        }
        let merge = Merge::new(changes);
        let mut queued = 0;
        for (&lease, reader) in self.readers.iter_mut().filter(|(_, reader)| reader.joined) {
            let for_author;
            let frames = if merge.is_author(lease) {
                for_author = merge.for_author(lease);
                &for_author
            } else {
                merge.for_everyone()
            };
            for (frame, changes) in frames {
                if reader.push(lease, &self.document, &self.checkpoint, frame) {
                    queued += changes;
                }
            }
        }
        queued
    }

    pub(super) fn presence(&mut self, frame: &Frame, clients: &[u64]) {
        for (&lease, reader) in self.readers.iter_mut().filter(|(_, reader)| reader.opened) {
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

    /// Answers a native session. From its cursor it is a reader; with another history it is over.
    pub(super) fn opened(
        &mut self,
        lease: LeaseId,
        cursor: Cursor,
        read_only: bool,
        resume: Resume,
        state_vector: Option<&[u8]>,
    ) {
        let Some(reader) = self.readers.get_mut(&lease) else { return };
        let Some(channel) = reader.channel() else { return };
        let frame = ToClient::Opened { channel, cursor, read_only, resume, state_vector }.encode().into();
        if resume == Resume::OtherHistory {
            reader.outbox.end(lease, frame);
            self.readers.remove(&lease);
            return;
        }
        reader.opened = true;
        reader.joined = resume == Resume::FromCursor;
        reader.outbox.push_control_of(lease, frame);
    }

    /// A change that one reader missed while it was away.
    pub(super) fn missed(&mut self, lease: LeaseId, frame: &Frame) {
        if let Some(reader) = self.readers.get_mut(&lease) {
            let pushed = reader.outbox.push_document(lease, frame.encode(&self.document, &reader.framing));
            reader.note(pushed);
        }
    }

    /// Everything up to `seq` is on disk. Told to one native reader, or to all of them.
    pub(super) fn durable(&self, lease: Option<LeaseId>, seq: Seq) {
        match lease {
            Some(lease) => _ = self.readers.get(&lease).map(|reader| reader.push_durable(lease, seq)),
            None => self.readers.iter().for_each(|(&lease, reader)| reader.push_durable(lease, seq)),
        }
    }

    pub(super) fn decided(&self, lease: LeaseId, batch: u64, accepted: bool, register: &[u8]) {
        let Some(reader) = self.readers.get(&lease) else { return };
        if let Some(channel) = reader.channel() {
            let frame = ToClient::Decided { channel, batch, accepted, register }.encode();
            reader.outbox.push_control_of(lease, frame.into());
        }
    }

    pub(super) fn answer(&mut self, lease: LeaseId, frame: &Frame) {
        let Some(reader) = self.readers.get_mut(&lease) else { return };
        let bytes = frame.encode(&self.document, &reader.framing);
        if matches!(frame.message(), Message::Awareness(_)) {
            // Everyone's presence may be large and can be asked for with one byte; a resync brings it, too.
            let pushed = reader.outbox.push_answer(lease, bytes);
            reader.note(pushed);
        } else if !bytes.is_empty() {
            reader.outbox.push_control(bytes);
        }
    }

    pub(super) fn ack(&mut self, lease: LeaseId, (batch, seq): (u64, Seq), outcome: Outcome, echo: Option<&Frame>) {
        let Some(reader) = self.readers.get(&lease) else { return };
        match (&reader.framing, outcome) {
            (Framing::Hocuspocus { address }, outcome) => {
                let status = hocuspocus::Message::SyncStatus(outcome == Outcome::Saved);
                reader.outbox.push_control(Bytes::from(status.encode(address)));
            }
            (Framing::Native { channel }, Outcome::Saved) => {
                let frame = ToClient::Ack { channel: *channel, batch, seq }.encode();
                reader.outbox.push_position(lease, Position::Ack, frame.into());
            }
            (Framing::Native { channel }, refused) => {
                let close = match refused {
                    Outcome::Forbidden => Close::read_only(),
                    Outcome::Full(full) => document_full(full),
                    _ => Close::StorageFailed,
                };
                let (channel, code) = (*channel, close.code());
                let frame = ToClient::Refused { channel, batch, code, reason: &close.reason() }.encode();
                reader.outbox.push_control_of(lease, frame.into());
            }
            (Framing::YWebsocket, Outcome::Saved) => {
                let Some(echo) = echo else { return };
                let frame = echo.encode(&self.document, &reader.framing);
                // Clients tell their echoes by the bytes: of those that look the same none may be left out.
                let is_empty = matches!(echo.message(), Message::Update(update) if update[..] == EMPTY_UPDATE);
                if is_empty {
                    reader.outbox.push_control(frame)
                } else {
                    reader.outbox.push_echo(lease, frame)
                };
            }
            (Framing::YWebsocket, Outcome::Unneeded) => {}
            // This dialect has no word for "refused": the session ends, its unsaved edits stay with the client.
            (Framing::YWebsocket, Outcome::Refused) => reader.outbox.close(Close::StorageFailed),
            (Framing::YWebsocket, Outcome::Full(full)) => reader.outbox.close(document_full(full)),
            (Framing::YWebsocket, Outcome::Forbidden) => reader.outbox.close(Close::read_only()),
        }
    }

    /// Ends a session, or this document of a native session, which is no reader from then on.
    pub(super) fn close(&mut self, lease: LeaseId, close: Close) {
        if let Some(reader) = self.readers.get(&lease) {
            reader.close(lease, close);
            if reader.channel().is_some() {
                self.readers.remove(&lease);
            }
        }
    }

    pub(super) fn close_all(&mut self, close: &Close) {
        for (&lease, reader) in &self.readers {
            reader.close(lease, close.clone());
        }
        self.readers.retain(|_, reader| reader.channel().is_none());
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.close_all(&Close::DocumentReloading);
    }
}

fn document_full(full: Full) -> Close {
    Close::DocumentFull(match full {
        Full::Bytes => "this document has reached its largest size; you can read it and delete from it".into(),
        Full::Clients => "this document has had as many writers as it can; copy it to a new one".into(),
    })
}

#[cfg(test)]
mod tests {
    use yrs::{Doc, Text, Transact};

    use super::*;
    use syncline_protocol::ids::Epoch;
    use syncline_replica::Crdt;

    const READER: LeaseId = LeaseId(1);
    const AUTHOR: LeaseId = LeaseId(2);

    fn change(seq: u64, update: Vec<u8>) -> [Change; 1] {
        [Change { frame: Frame::at(Seq(seq), Message::Update(update.into())), author: Some(AUTHOR) }]
    }

    #[tokio::test]
    async fn a_change_that_overtakes_the_resync_does_not_close_the_gap() {
        let mut readers = Readers::new(DocumentName::parse("doc").unwrap());
        let outbox = Arc::new(Outbox::new(100));
        readers.add(READER, Arc::clone(&outbox), Framing::YWebsocket);
        let mut crdt = Crdt::default();
        readers.diff(READER, &Frame::new(Message::Step2(crdt.encode().unwrap())));
        outbox.frames().await;

        // One frame waits for the socket; the next is too much, both are dropped, and a checkpoint covers them.
        let doc = Doc::with_client_id(7);
        let text = doc.get_or_insert_text("text");
        for letter in ["a", "b"] {
            let mut txn = doc.transact_mut();
            text.insert(&mut txn, 0, &letter.repeat(60));
            let update = txn.encode_update_v1();
            crdt.apply(&update).unwrap();
            readers.broadcast(&change(0, update));
        }
        readers.set_checkpoint(crdt.known());
        assert_eq!(outbox.behind_now(), [READER]);

        // The socket has drained and the session asks for the diff, but a change comes before its question.
        readers.broadcast(&change(0, vec![0, 0]));
        let floor = readers.floor(READER);
        let diff = crdt.diff_since(floor.as_deref().unwrap_or(&Known::default())).unwrap();
        assert!(diff.len() > 60, "the diff holds what was dropped, but is only {diff:?}");
    }

    #[tokio::test]
    async fn over_a_gap_no_position_is_told_and_after_the_diff_one_is() {
        let mut readers = Readers::new(DocumentName::parse("doc").unwrap());
        let outbox = Arc::new(Outbox::new(100));
        readers.add(READER, Arc::clone(&outbox), Framing::Native { channel: 0 });
        let diff = Frame::at(Seq(1), Message::Step2(Bytes::from_static(&[0, 0])));
        readers.opened(READER, Cursor { epoch: Epoch(1), seq: Seq(1) }, false, Resume::SendStateVector, None);
        readers.durable(None, Seq(1));
        readers.diff(READER, &diff);
        assert_eq!(outbox.frames().await.len(), 2, "opened and the diff: it was no reader before");
        for seq in [2, 3] {
            readers.broadcast(&change(seq, vec![0; 80]));
        }
        assert_eq!(outbox.behind_now(), [READER]);
        // The session asks for the diff; before its question comes, the disk has both changes.
        readers.durable(None, Seq(3));
        readers.diff(READER, &diff);
        assert_eq!(outbox.frames().await.len(), 1, "the diff alone");
        readers.durable(Some(READER), Seq(3));
        assert_eq!(outbox.frames().await.len(), 1);
    }

    #[tokio::test]
    async fn presence_does_not_come_before_a_native_session_has_been_answered() {
        let mut readers = Readers::new(DocumentName::parse("doc").unwrap());
        let outbox = Arc::new(Outbox::new(100));
        readers.add(READER, Arc::clone(&outbox), Framing::Native { channel: 0 });
        let presence = Frame::new(Message::Awareness(Bytes::from_static(&[0])));
        readers.presence(&presence, &[1]);
        readers.opened(READER, Cursor { epoch: Epoch(1), seq: Seq(1) }, false, Resume::SendStateVector, None);
        readers.presence(&presence, &[1]);
        let frames = outbox.frames().await;
        assert_eq!(frames.iter().map(|frame| frame[0]).collect::<Vec<_>>(), [17, 24]);
    }

    #[tokio::test]
    async fn an_echo_of_nothing_is_not_replaced_by_a_newer_one() {
        let mut readers = Readers::new(DocumentName::parse("doc").unwrap());
        let outbox = Arc::new(Outbox::new(10));
        readers.add(READER, Arc::clone(&outbox), Framing::YWebsocket);
        let echo = |update: &'static [u8]| Frame::new(Message::Update(Bytes::from_static(update)));
        for update in [&[0, 0][..], &[9; 20], &[8; 20], &[0, 0]] {
            readers.ack(READER, (0, Seq(1)), Outcome::Saved, Some(&echo(update)));
        }
        let frames = outbox.frames().await;
        let lens: Vec<usize> = frames.iter().map(Bytes::len).collect();
        assert_eq!(lens, [5, 23, 5], "the two empty ones look the same: without the first, the second is taken for it");
    }
}
