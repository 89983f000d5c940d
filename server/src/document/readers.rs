//! The readers of a document: where their frames go, and the state each is known to have.
//!
//! *Known to have*: a frame pushed onto an empty outbox proves that everything pushed before it has been
//! given to the socket, and a socket delivers in order or ends. Such a push advances the reader's floor to
//! the newest checkpoint. When the reader falls behind, one diff from its floor brings it up to date. From
//! the first dropped frame until that diff the floor does not move: new changes may reach the reader before
//! the diff does, and prove nothing about the gap.
//!
//! Pushed frames are sent by [`Readers::send`]: everything a turn has for one reader is one write.

use std::collections::HashSet;
use std::sync::Arc;

use syncline_protocol::close::Close;
use syncline_protocol::ids::Seq;
use syncline_protocol::native::{Cursor, Resume};
use syncline_protocol::update::EMPTY_UPDATE;

use super::coalesce::{Change, CoalescedChanges};
use super::encoder::{Encoder, OutcomeReply};
use super::frame::Frame;
use super::lease_map::LeaseMap;
use super::message::Message;
use super::outcome::{Acks, Outcome};
use crate::ids::LeaseId;
use crate::metrics::Metrics;
use crate::outbox::{Outbox, Position, Pushed};
use syncline_replica::Known;

/// Sockets written to in the document's own turn. Further ones are written by spawned tasks, this many each,
/// on any thread: many readers use all cores and delay no other document.
const SENDS_PER_TURN: usize = 64;
/// Up to this many sockets are written to directly even by a busy document.
const MAX_BUSY_DIRECT_SENDS: usize = 8;

/// Memory for the floors of slow readers. In a document of many clients each floor is large.
const MAX_FLOOR_BYTES: usize = 16 * 1024 * 1024;
/// Memory of one client in a floor.
const FLOOR_CLIENT_BYTES: usize = 32;

/// Acknowledgements that one record makes due for one reader. A client has no more changes than this in flight; a session
/// to which more are due is closed.
const MAX_DUE_ACKS: u64 = 64 * 1024;

struct DocumentReader {
    outbox: Arc<Outbox>,
    encoder: Box<dyn Encoder>,
    /// Awareness is sent to it: from the beginning, or after the reply to `Event::Resume`.
    opened: bool,
    /// It was sent a diff, and gets every change from then on.
    joined: bool,
    /// State that it is known to have; `None` until it has joined and its outbox was empty once.
    floor: Option<Arc<Known>>,
    /// A frame for it was dropped and no diff has been queued since.
    has_gap: bool,
    /// A step 1 of it was deferred, and its session has not requested the diff yet.
    is_owed_diff: bool,
}

impl DocumentReader {
    /// Records a gap if the frame was dropped.
    fn note_pushed(&mut self, pushed: Pushed) -> Pushed {
        self.has_gap |= pushed == Pushed::Dropped;
        pushed
    }

    /// Queues a change.
    fn push(&mut self, lease: LeaseId, checkpoint: &Arc<Known>, frame: &Frame) -> Pushed {
        let pushed = self.push_missed(lease, frame);
        if pushed == Pushed::First && !self.has_gap {
            self.floor = Some(Arc::clone(checkpoint));
        }
        pushed
    }

    /// Queues a change that it missed.
    fn push_missed(&mut self, lease: LeaseId, frame: &Frame) -> Pushed {
        let pushed = self.outbox.push_document(lease, frame.encode(&*self.encoder));
        self.note_pushed(pushed)
    }

    /// True if its floor is this checkpoint.
    fn has_checkpoint(&self, checkpoint: &Arc<Known>) -> bool {
        self.floor.as_ref().is_some_and(|floor| Arc::ptr_eq(floor, checkpoint))
    }

    /// Sends the durable position to a reader whose dialect announces it. Not across a gap: the position would cover
    /// frames that were dropped. Another one follows the diff that closes the gap.
    fn push_durable(&self, lease: LeaseId, seq: Seq) -> Pushed {
        let position = if self.joined && !self.has_gap { self.encoder.durable(seq) } else { None };
        position.map_or(Pushed::Dropped, |frame| self.outbox.push_position(lease, Position::Durable, frame))
    }

    /// Closes this document for the session and returns true, or closes the session and returns false.
    fn close(&self, lease: LeaseId, close: Close, metrics: &Metrics) -> bool {
        let Some(last_frame) = self.encoder.closed(&close) else {
            self.outbox.close(close);
            return false;
        };
        metrics.documents_closed.count(&close);
        self.outbox.end_from_document(lease, last_frame);
        true
    }
}

/// The readers of one document. Dropping it closes their sessions: a document's task never ends silently.
pub(super) struct Readers {
    /// Ordered, so that a simulation can be replayed. Boxed, because a map node has room for eleven entries.
    readers: LeaseMap<Box<DocumentReader>>,
    checkpoint: Arc<Known>,
    unsent: UnsentOutboxes,
    metrics: Arc<Metrics>,
}

/// Outboxes that were pushed to and not sent yet.
#[derive(Default)]
struct UnsentOutboxes(Vec<Arc<Outbox>>);

impl UnsentOutboxes {
    fn note(&mut self, outbox: &Arc<Outbox>, pushed: Pushed) {
        if pushed == Pushed::First {
            self.0.push(Arc::clone(outbox));
        }
    }
}

impl Readers {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let (readers, checkpoint, unsent) = (LeaseMap::new(), Arc::default(), UnsentOutboxes::default());
        Self { readers, checkpoint, unsent, metrics }
    }

    pub(super) fn add(&mut self, lease: LeaseId, outbox: Arc<Outbox>, encoder: Box<dyn Encoder>) {
        let opened = encoder.acks() != Acks::Batches;
        let reader =
            DocumentReader { outbox, encoder, opened, joined: false, floor: None, has_gap: false, is_owed_diff: false };
        self.readers.insert(lease, Box::new(reader));
    }

    pub(super) fn remove(&mut self, lease: LeaseId) {
        if let Some(reader) = self.readers.remove(lease) {
            reader.outbox.forget(lease);
        }
    }

    /// Sets the checkpoint: `known` covers everything broadcast so far. If readers hold so many different
    /// older floors that they take too much memory, they lose them: such a reader gets the whole document
    /// when it falls behind.
    pub(super) fn set_checkpoint(&mut self, known: Known) {
        let max_floors = MAX_FLOOR_BYTES / (known.len() * FLOOR_CLIENT_BYTES).max(1);
        let distinct: HashSet<_> =
            self.readers.values().filter_map(|reader| reader.floor.as_ref()).map(Arc::as_ptr).collect();
        if distinct.len() > max_floors {
            for reader in self.readers.values_mut().filter(|reader| !reader.has_checkpoint(&self.checkpoint)) {
                reader.floor = None;
            }
        }
        self.checkpoint = Arc::new(known);
    }

    /// The state that this reader is known to have.
    pub(super) fn floor(&self, lease: LeaseId) -> Option<Arc<Known>> {
        self.readers.get(lease).and_then(|reader| reader.floor.clone())
    }

    /// Sends what was queued, at the end of a turn. A busy document leaves large groups of readers to their
    /// sessions' tasks: by the time these run, more changes may have joined the same write.
    pub(super) fn send(&mut self, is_busy: bool) {
        let mut unsent = std::mem::take(&mut self.unsent.0);
        if is_busy && unsent.len() > MAX_BUSY_DIRECT_SENDS {
            unsent.drain(..).for_each(|outbox| outbox.send_later());
        }
        while unsent.len() > SENDS_PER_TURN {
            let turn = unsent.split_off(unsent.len() - SENDS_PER_TURN);
            tokio::spawn(async move { turn.iter().for_each(|outbox| outbox.send()) });
        }
        unsent.drain(..).for_each(|outbox| outbox.send());
        self.unsent.0 = unsent;
    }

    /// Coalesces changes and queues them for every reader; an author gets only the changes of others. Returns
    /// the number of changes queued, summed over readers.
    pub(super) fn broadcast(&mut self, changes: &[Change]) -> usize {
        if changes.is_empty() {
            return 0;
        }
        let coalesced = CoalescedChanges::new(changes);
        let mut queued = 0;
        for (lease, reader) in self.readers.iter_mut().filter(|(_, reader)| reader.joined) {
            let for_author;
            let frames = if coalesced.is_author(lease) {
                for_author = coalesced.for_author(lease);
                &for_author
            } else {
                coalesced.for_everyone()
            };
            for (frame, changes) in frames {
                let pushed = reader.push(lease, &self.checkpoint, frame);
                self.unsent.note(&reader.outbox, pushed);
                if pushed != Pushed::Dropped {
                    queued += changes;
                }
            }
        }
        queued
    }

    /// Queues an awareness update for every reader.
    pub(super) fn push_awareness(&mut self, frame: &Frame) {
        for (lease, reader) in self.readers.iter_mut().filter(|(_, reader)| reader.opened) {
            let Some(frame) = frame.awareness(&*reader.encoder) else { return };
            let pushed = reader.outbox.push_awareness(lease, frame);
            let pushed = reader.note_pushed(pushed);
            self.unsent.note(&reader.outbox, pushed);
        }
    }

    /// Queues a diff, which makes its receiver a reader.
    pub(super) fn push_diff(&mut self, lease: LeaseId, frame: &Frame) {
        if let Some(reader) = self.readers.get_mut(lease) {
            reader.joined = true;
            let pushed = reader.outbox.push_diff(lease, frame.encode_reply(&*reader.encoder));
            reader.has_gap = false;
            let pushed = reader.note_pushed(pushed);
            self.unsent.note(&reader.outbox, pushed);
        }
    }

    /// True if a step 1 is not to be answered now: the reader has not been sent its last diff, or is behind. It is behind
    /// from now on, so its session requests a diff once the socket has drained.
    pub(super) fn must_defer_diff(&mut self, lease: LeaseId) -> bool {
        let Some(reader) = self.readers.get_mut(lease) else { return false };
        // If the session was notified, its request is on its way, and answers this step 1 as well.
        if !reader.is_owed_diff && reader.outbox.must_defer_diff(lease) {
            reader.is_owed_diff = true;
            reader.has_gap = true;
        }
        reader.is_owed_diff
    }

    /// The session of a reader has requested a diff. False if it would be dropped, because the reader is behind again:
    /// then the session repeats its request.
    pub(super) fn may_resync(&mut self, lease: LeaseId) -> bool {
        let Some(reader) = self.readers.get_mut(lease) else { return false };
        let may_resync = !reader.outbox.is_behind(lease);
        reader.is_owed_diff &= !may_resync;
        may_resync
    }

    /// Replies to `Event::Resume`: with `FromCursor` the session becomes a reader, with `OtherHistory` the lease
    /// ends.
    pub(super) fn push_opened(
        &mut self,
        lease: LeaseId,
        cursor: Cursor,
        read_only: bool,
        resume: Resume,
        state_vector: Option<&[u8]>,
    ) {
        let Some(reader) = self.readers.get_mut(lease) else { return };
        let Some(frame) = reader.encoder.opened(cursor, read_only, resume, state_vector) else { return };
        if resume == Resume::OtherHistory {
            reader.outbox.end_from_document(lease, frame);
            self.readers.remove(lease);
            return;
        }
        reader.opened = true;
        reader.joined = resume == Resume::FromCursor;
        self.unsent.note(&reader.outbox, reader.outbox.push_control_of(lease, frame));
    }

    /// Queues a change that one reader missed.
    pub(super) fn push_missed(&mut self, lease: LeaseId, frame: &Frame) {
        if let Some(reader) = self.readers.get_mut(lease) {
            let pushed = reader.push_missed(lease, frame);
            self.unsent.note(&reader.outbox, pushed);
        }
    }

    /// Queues an update with missing dependencies, for a reader that has joined.
    pub(super) fn push_pending(&mut self, lease: LeaseId, frame: &Frame) {
        if self.readers.get(lease).is_some_and(|reader| reader.joined) {
            self.push_missed(lease, frame);
        }
    }

    /// Queues the durable position for one reader, or for all whose dialects announce it.
    pub(super) fn push_durable(&mut self, lease: Option<LeaseId>, seq: Seq) {
        let mut push =
            |lease, reader: &DocumentReader| self.unsent.note(&reader.outbox, reader.push_durable(lease, seq));
        match lease {
            Some(lease) => _ = self.readers.get(lease).map(|reader| push(lease, reader)),
            None => self.readers.iter().for_each(|(lease, reader)| push(lease, reader)),
        }
    }

    pub(super) fn push_decision(&mut self, lease: LeaseId, batch: u64, accepted: bool, register: &[u8]) {
        let Some(reader) = self.readers.get(lease) else { return };
        if let Some(frame) = reader.encoder.decided(batch, accepted, register) {
            self.unsent.note(&reader.outbox, reader.outbox.push_control_of(lease, frame));
        }
    }

    pub(super) fn push_reply(&mut self, lease: LeaseId, frame: &Frame) {
        let Some(reader) = self.readers.get_mut(lease) else { return };
        let bytes = frame.encode(&*reader.encoder);
        let pushed = match frame.message() {
            // May be large and can be requested with one byte; if it is dropped, the resync sends it.
            Message::Awareness(_) => {
                let pushed = reader.outbox.push_reply(lease, bytes);
                reader.note_pushed(pushed)
            }
            Message::Step1(_) if !bytes.is_empty() => reader.outbox.push_step1(lease, bytes),
            _ if bytes.is_empty() => return,
            _ => reader.outbox.push_control(bytes),
        };
        self.unsent.note(&reader.outbox, pushed);
    }

    /// Queues the result of `count` updates.
    pub(super) fn push_acks(
        &mut self,
        lease: LeaseId,
        (batch, seq): (u64, Seq),
        (outcome, count): (Outcome, u64),
        echo: Option<&Frame>,
    ) {
        let Some(reader) = self.readers.get(lease) else { return };
        let outbox = &reader.outbox;
        if count > MAX_DUE_ACKS {
            return outbox.close(Close::TooSlow);
        }
        let mut push_each = |push: &dyn Fn() -> Pushed| {
            for _ in 0..count {
                let pushed = push();
                self.unsent.note(outbox, pushed);
                if pushed == Pushed::Dropped {
                    return;
                }
            }
        };
        match reader.encoder.reply(batch, seq, outcome) {
            OutcomeReply::Nothing => {}
            OutcomeReply::Frame(frame) => {
                if let Some(close) = outcome.refusal() {
                    self.metrics.edits_refused.count(&close);
                }
                push_each(&|| outbox.push_control_of(lease, frame.clone()));
            }
            OutcomeReply::Position(frame) => push_each(&|| outbox.push_position(lease, Position::Ack, frame.clone())),
            OutcomeReply::Echo => {
                let Some(echo) = echo else { return };
                let frame = echo.encode(&*reader.encoder);
                // Clients recognise echoes by their bytes: of echoes with equal bytes none may be left out.
                let is_empty = matches!(echo.message(), Message::Update(update) if update[..] == EMPTY_UPDATE);
                if is_empty {
                    push_each(&|| outbox.push_control(frame.clone()));
                } else {
                    push_each(&|| outbox.push_echo(lease, frame.clone()));
                }
            }
            OutcomeReply::Close(close) => outbox.close(close),
            OutcomeReply::CloseLater(close) => outbox.close_later(close),
        }
    }

    /// Closes this document for a session, and so has one reader less; or the session, if its dialect cannot close
    /// one document.
    pub(super) fn close(&mut self, lease: LeaseId, close: Close) {
        if self.readers.get(lease).is_some_and(|reader| reader.close(lease, close, &self.metrics)) {
            self.readers.remove(lease);
        }
    }

    pub(super) fn close_all(&mut self, close: &Close) {
        self.readers.retain(|lease, reader| !reader.close(lease, close.clone(), &self.metrics));
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.close_all(&Close::DocumentReloading);
    }
}

#[cfg(test)]
mod tests;
