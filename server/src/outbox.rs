//! The outgoing side of a connection: a queue of frames, bounded in bytes, and the socket that they are written
//! to. Pushing never waits.
//!
//! A push onto an empty outbox returns [`Pushed::First`], and the caller must then call [`Outbox::send`],
//! which writes directly to the socket or leaves it to the session's task (`writer.rs`). So a document pushes
//! everything it has, then sends once. The behaviour towards slow readers is decided here and nowhere else:
//!
//! While the outbox is over its limit:
//!
//! - Document frame: all document frames of that lease are dropped and the lease is *behind*. Once the socket
//!   has drained, its session requests one diff from the document.
//! - Awareness frame: coalesced with the queued one of its lease, into one frame with the newest state of
//!   each client. If that is over the limit, it is dropped like document frames.
//! - Reply to a step 1, or all awareness states: dropped, and the lease is behind. Once queued, a reply stays
//!   and takes no room from changes: every change after a diff larger than the limit would drop the diff
//!   again. Two may be queued. A further step 1 of a lease whose diff is not written yet is answered once the
//!   socket has drained.
//! - Echo of a lease's own change: replaces queued echoes; the newest acknowledges them all.
//! - Durable positions and cumulative acks (native): the newest replaces a queued one. A durable position is
//!   dropped with its lease's frames.
//! - Step 1: the newest replaces a queued one of the same document.
//! - Acks and other small replies: kept. Over twice the limit the session is closed as too slow.

mod awareness;
mod budget;
mod closing;
mod draining;
mod leases;
mod positions;
mod queue;
mod queued_frame;
mod unsent;
mod writer;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_replica::Pieces;

pub(crate) use self::awareness::{AwarenessFrame, UpdateLength};
pub use self::budget::Budget;
use self::budget::BudgetShare;
use self::closing::Ending;
pub(crate) use self::draining::{Notices, OutboxOutput};
use self::leases::LeaseStates;
pub(crate) use self::positions::Position;
use self::queue::FrameQueue;
use self::queued_frame::QueuedFrame;
use self::unsent::UnsentBytes;
pub(crate) use self::writer::Broken;
use self::writer::SocketWriter;
pub use self::writer::Wire;
use crate::ids::LeaseId;

/// Result of pushing a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// Queued onto an empty outbox, which means that everything pushed earlier has been given to the socket.
    /// The caller must call [`Outbox::send`] after its last push.
    First,
    /// Queued after others.
    Queued,
    /// Dropped: the lease is behind, or the session is closing.
    Dropped,
}

#[derive(Debug, Default)]
struct OutboxState {
    queue: FrameQueue,
    leases: LeaseStates,
    ending: Ending,
    /// The time limit for the first token has passed; handed out by [`Outbox::take_notices`].
    must_authenticate: bool,
    /// Taken from the queue or queued by the timers, and not yet accepted by the socket.
    unsent: UnsentBytes,
    /// Waker of the session's task; `None` after it was woken, until it polls again.
    waker: Option<Waker>,
}

/// The frames queued for one socket, and the socket. Shared by the session and the documents it reads.
#[derive(Debug)]
pub struct Outbox {
    state: Mutex<OutboxState>,
    /// Locked before `state`, and only while something is written.
    writer: Mutex<SocketWriter>,
    /// There are notices for the session's reader. Set under the lock.
    has_notices: AtomicBool,
}

impl Outbox {
    /// An outbox that holds about `limit_bytes` at most, for a task that takes from it.
    pub fn new(limit_bytes: usize) -> Self {
        Self::with_queue(FrameQueue::new(limit_bytes, BudgetShare::default()), SocketWriter::default())
    }

    /// An outbox that writes to a socket. Its limit is lower while `budget` is exceeded.
    pub fn with_wire(limit_bytes: usize, budget: Arc<Budget>, wire: impl Wire) -> Self {
        Self::with_queue(FrameQueue::new(limit_bytes, BudgetShare::new(budget)), SocketWriter::new(wire))
    }

    fn with_queue(queue: FrameQueue, writer: SocketWriter) -> Self {
        let state = OutboxState { queue, ..OutboxState::default() };
        Self { state: state.into(), writer: writer.into(), has_notices: AtomicBool::new(false) }
    }

    /// Queues a change of a document.
    pub fn push_document(&self, lease: LeaseId, frame: Bytes) -> Pushed {
        let mut state = self.lock();
        if state.rejects_change(lease) {
            return Pushed::Dropped;
        }
        if !state.queue.has_room(frame.len()) {
            return self.fall_behind(state, lease);
        }
        state.queue.push(QueuedFrame::Document { lease, frame })
    }

    /// Queues an awareness update of a document, coalesced with queued ones of the same lease.
    pub fn push_awareness(&self, lease: LeaseId, frame: AwarenessFrame) -> Pushed {
        let mut state = self.lock();
        if state.rejects_change(lease) {
            return Pushed::Dropped;
        }
        match state.queue.push_awareness(lease, frame) {
            Some(pushed) => pushed,
            None => self.fall_behind(state, lease),
        }
    }

    /// Queues the reply to a step 1, or all awareness states. It may be larger than the limit (a whole
    /// document, shared with other sessions), but is dropped if the outbox is over its limit already: a
    /// client cannot pile up replies.
    pub fn push_reply(&self, lease: LeaseId, reply: impl Into<Pieces>) -> Pushed {
        self.push_pieces(lease, reply.into(), |queue, reply| queue.push(reply))
    }

    /// [`Outbox::push_reply`] for the reply to a step 1, which is noted until it is written:
    /// [`Outbox::must_defer_diff`].
    pub fn push_diff(&self, lease: LeaseId, diff: impl Into<Pieces>) -> Pushed {
        self.push_pieces(lease, diff.into(), |queue, diff| queue.push_diff(lease, diff))
    }

    fn push_pieces(
        &self,
        lease: LeaseId,
        pieces: Pieces,
        push: impl FnOnce(&mut FrameQueue, QueuedFrame) -> Pushed,
    ) -> Pushed {
        let mut state = self.lock();
        if state.rejects(lease) {
            return Pushed::Dropped;
        }
        if !state.queue.has_room_for_reply(lease) || state.leases.is_behind(lease) {
            return self.fall_behind(state, lease);
        }
        push(&mut state.queue, QueuedFrame::Reply { lease, pieces: Box::new(pieces) })
    }

    /// Queues the echo of a change to its author, which acknowledges it. Never dropped: in a session that was
    /// behind and got a diff, nothing else would acknowledge the change.
    pub fn push_echo(&self, lease: LeaseId, frame: Bytes) -> Pushed {
        let mut state = self.lock();
        if state.ending.is_closing() {
            return Pushed::Dropped;
        }
        if state.queue.is_over_limit() || state.leases.is_behind(lease) {
            state.queue.drop_echoes(lease);
        }
        state.queue.push(QueuedFrame::Echo { lease, frame })
    }

    /// Queues an ack or another small reply that must not be lost while the session lives.
    pub fn push_control(&self, frame: Bytes) -> Pushed {
        self.push_limited(self.lock(), QueuedFrame::Control { frame })
    }

    /// Like [`Outbox::push_control`], for one lease: dropped if the lease has ended.
    pub fn push_control_of(&self, lease: LeaseId, frame: Bytes) -> Pushed {
        let state = self.lock();
        if state.leases.has_ended(lease) {
            return Pushed::Dropped;
        }
        self.push_limited(state, QueuedFrame::Control { frame })
    }

    /// Queues a step 1; it replaces a queued one of the same lease.
    pub fn push_step1(&self, lease: LeaseId, frame: Bytes) -> Pushed {
        let mut state = self.lock();
        let Some(step1) = state.queue.replace(QueuedFrame::Step1 { lease, frame }) else { return Pushed::Queued };
        if state.leases.has_ended(lease) {
            return Pushed::Dropped;
        }
        self.push_limited(state, step1)
    }

    /// Like [`Outbox::push_control`], as a text message: see `session/echo.rs`.
    pub(crate) fn push_text(&self, frame: Bytes) -> Pushed {
        self.push_limited(self.lock(), QueuedFrame::Text { frame })
    }

    /// Queues the reply to a WebSocket ping. At most one is queued: the newest answers earlier ones (RFC 6455
    /// section 5.5.3).
    pub fn push_pong(&self, payload: Bytes) -> Pushed {
        let mut state = self.lock();
        match state.queue.replace(QueuedFrame::Pong { frame: payload }) {
            Some(pong) => self.push_limited(state, pong),
            None => Pushed::Queued,
        }
    }

    /// A WebSocket ping.
    pub fn push_ping(&self) -> Pushed {
        self.push_limited(self.lock(), QueuedFrame::Ping)
    }

    /// Queues a frame that cannot be dropped. If there are too many, the session is closed as too slow.
    fn push_limited(&self, mut state: MutexGuard<'_, OutboxState>, queued: QueuedFrame) -> Pushed {
        if state.ending.is_closing() {
            return Pushed::Dropped;
        }
        if state.queue.is_over_control_limit() {
            drop(state);
            self.close(Close::TooSlow);
            return Pushed::Dropped;
        }
        state.queue.push(queued)
    }

    /// Queues a position after everything queued so far. A durable position is dropped if the lease is
    /// behind.
    pub fn push_position(&self, lease: LeaseId, position: Position, frame: Bytes) -> Pushed {
        let mut state = self.lock();
        let covers_dropped_frames = position == Position::Durable && state.leases.is_behind(lease);
        if state.rejects(lease) || covers_dropped_frames {
            return Pushed::Dropped;
        }
        state.queue.push_position(lease, position, frame)
    }

    /// Called by a document to end one lease of a session that continues; the document pushes nothing for it
    /// afterwards. Queued frames are still sent, then `last_frame`.
    pub fn end_from_document(&self, lease: LeaseId, last_frame: Bytes) {
        let mut state = self.lock();
        if state.ending.is_closing() || !state.leases.end_from_document(lease) {
            return;
        }
        state.queue.push(QueuedFrame::Control { frame: last_frame });
        self.notify_reader(state);
    }

    /// Called by a session that found a document closed: sends `last_frame` unless the document has ended the
    /// lease already.
    pub fn end_from_session(&self, lease: LeaseId, last_frame: Bytes) {
        let mut state = self.lock();
        if state.leases.end_from_session(lease) && !state.ending.is_closing() {
            state.queue.push(QueuedFrame::Control { frame: last_frame });
            drop(state);
            self.send();
        }
    }

    /// Called by a session that leaves a document: nothing more is sent for this lease, whose number may
    /// already belong to another document.
    pub fn leave(&self, lease: LeaseId) {
        let mut state = self.lock();
        state.leases.end_from_session(lease);
        self.drop_frames(state, |queue| queue.drop_all_but_echoes(lease));
    }

    /// Drops everything queued for a lease that has left its document.
    pub fn forget(&self, lease: LeaseId) {
        let mut state = self.lock();
        state.leases.forget(lease);
        self.drop_frames(state, |queue| {
            queue.drop_all_but_echoes(lease);
            queue.drop_echoes(lease);
        });
    }

    /// Drops the changes queued for a lease: its session requests one diff once the socket has drained.
    fn fall_behind(&self, mut state: MutexGuard<'_, OutboxState>, lease: LeaseId) -> Pushed {
        state.leases.fall_behind(lease);
        self.drop_frames(state, |queue| queue.drop_changes(lease));
        Pushed::Dropped
    }

    /// Drops queued frames. If that empties the queue, no later write reports the leases that are behind.
    fn drop_frames(&self, mut state: MutexGuard<'_, OutboxState>, drop: impl FnOnce(&mut FrameQueue)) {
        drop(&mut state.queue);
        self.note_drained(state);
    }

    /// True if the budget is exceeded and this outbox holds more than a little.
    pub fn exceeds_scarce_limit(&self) -> bool {
        self.lock().queue.exceeds_scarce_limit()
    }

    fn lock(&self) -> MutexGuard<'_, OutboxState> {
        // Nothing below panics while holding the lock with the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OutboxState {
    /// True if nothing more is queued for the lease.
    fn rejects(&self, lease: LeaseId) -> bool {
        self.ending.is_closing() || self.leases.has_ended(lease)
    }

    /// True if a change is not queued: a lease that is behind will be sent a diff.
    fn rejects_change(&self, lease: LeaseId) -> bool {
        self.rejects(lease) || self.leases.is_behind(lease)
    }

    /// True if everything queued was accepted by the socket.
    fn has_drained(&self) -> bool {
        !self.queue.has_frames() && self.unsent.is_empty()
    }
}

#[cfg(test)]
mod tests;
