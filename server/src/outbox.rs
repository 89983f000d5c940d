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
mod ended_leases;
mod positions;
mod queued_frame;
mod writer;

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_replica::Pieces;

pub(crate) use self::awareness::{AwarenessFrame, UpdateLength};
pub use self::budget::Budget;
use self::budget::{BudgetShare, SCARCE_BYTES};
pub(crate) use self::draining::{Notices, Taken};
pub(crate) use self::positions::Position;
use self::positions::Positions;
use self::queued_frame::QueuedFrame;
pub(crate) use self::writer::Broken;
use self::writer::Socket;
pub use self::writer::Wire;
use crate::ids::LeaseId;

/// Number of queued frames searched for an awareness frame to coalesce with.
const MAX_AWARENESS_LOOKBACK: usize = 64;
/// A session with at most this many queued frames, of at most this many bytes, is never too slow.
const FEW_FRAMES: usize = 64;
const FEW_FRAMES_BYTES: usize = 16 * 1024 * 1024;

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
struct Inner {
    /// Frames with their numbers, in order.
    queue: VecDeque<(u64, QueuedFrame)>,
    /// The number of the next frame.
    next: u64,
    positions: Positions,
    bytes: usize,
    /// Part of `bytes` that cannot be dropped.
    control_bytes: usize,
    /// Part of `bytes` that takes no room from changes.
    reply_bytes: usize,
    /// Part of `bytes` that is shared with documents' memory.
    shared_bytes: usize,
    /// Bytes taken by the writer and not known to be written; `taken_own_bytes` without those shared with
    /// documents.
    taken_bytes: usize,
    taken_own_bytes: usize,
    /// Diffs that are queued, or taken and not known to be written: the number of each, and its lease.
    unwritten_diffs: Vec<(u64, LeaseId)>,
    /// This outbox's share in the budget of all outboxes.
    share: BudgetShare,
    /// Leases whose frames were dropped; handed out by [`Outbox::take_notices`] once the socket has drained.
    behind: BTreeSet<LeaseId>,
    /// Leases that have ended while the session continues; nothing is queued for them.
    ended_leases: BTreeSet<LeaseId>,
    /// Leases in `ended_leases` ended by their documents; handed out by [`Outbox::take_notices`].
    ended_by_document: Vec<LeaseId>,
    close: Option<Close>,
    /// Close reason for later, and the timer ticks left until then.
    close_later: Option<Box<(Close, u32)>>,
    /// The time limit for the first token has passed; handed out by [`Outbox::take_notices`].
    must_authenticate: bool,
    /// The session ends now, without a close frame.
    is_cut: bool,
    /// Taken from the queue or queued by the timers, and not yet accepted by the socket.
    unsent: VecDeque<Bytes>,
    /// Waker of the session's task; `None` after it was woken, until it polls again.
    waker: Option<Waker>,
}

/// The frames queued for one socket, and the socket. Shared by the session and the documents it reads.
#[derive(Debug)]
pub struct Outbox {
    inner: Mutex<Inner>,
    /// Locked before `inner`, and only while something is written.
    socket: Mutex<Socket>,
    limit_bytes: usize,
    /// There are notices for the session's reader. Set under the lock.
    has_notices: AtomicBool,
}

impl Outbox {
    /// An outbox that holds about `limit_bytes` at most, for a task that takes from it.
    pub fn new(limit_bytes: usize) -> Self {
        Self { inner: Mutex::default(), socket: Mutex::default(), limit_bytes, has_notices: AtomicBool::new(false) }
    }

    /// An outbox that writes to a socket. Its limit is lower while `budget` is exceeded.
    pub fn with_wire(limit_bytes: usize, budget: Arc<Budget>, wire: impl Wire) -> Self {
        let inner = Inner { share: BudgetShare::new(budget), ..Inner::default() };
        Self { inner: inner.into(), socket: Socket::new(wire).into(), ..Self::new(limit_bytes) }
    }

    /// Queues a change of a document.
    pub fn push_document(&self, lease: LeaseId, frame: Bytes) -> Pushed {
        self.push_bounded(lease, frame, |lease, frame| QueuedFrame::Document { lease, frame })
    }

    /// Queues the reply to a step 1, or all awareness states. It may be larger than the limit (a whole
    /// document, shared with other sessions), but is dropped if the outbox is over its limit already: a
    /// client cannot pile up replies.
    pub fn push_reply(&self, lease: LeaseId, answer: impl Into<Pieces>) -> Pushed {
        self.push_answer(lease, answer.into(), |_| ())
    }

    /// [`Outbox::push_reply`] for the reply to a step 1, which is noted until it is written:
    /// [`Outbox::must_defer_diff`].
    pub fn push_diff(&self, lease: LeaseId, diff: impl Into<Pieces>) -> Pushed {
        self.push_answer(lease, diff.into(), |inner| inner.unwritten_diffs.push((inner.next, lease)))
    }

    fn push_answer(&self, lease: LeaseId, answer: Pieces, note: impl FnOnce(&mut Inner)) -> Pushed {
        let mut inner = self.lock();
        if inner.rejects(lease) {
            return Pushed::Dropped;
        }
        // While memory is scarce, bytes taken and not yet written count as well.
        let is_scarce = inner.share.is_scarce() && inner.own_bytes() > SCARCE_BYTES;
        let is_over = inner.bytes > self.limit_bytes(&inner) || is_scarce;
        if (is_over && !inner.is_second_reply(lease)) || inner.behind.contains(&lease) {
            inner.fall_behind(lease);
            self.note_drained(inner);
            return Pushed::Dropped;
        }
        note(&mut inner);
        inner.enqueue(QueuedFrame::Reply { lease, pieces: Box::new(answer) })
    }

    /// Queues the echo of a change to its author, which acknowledges it. Never dropped: in a session that was
    /// behind and got a diff, nothing else would acknowledge the change.
    pub fn push_echo(&self, lease: LeaseId, frame: Bytes) -> Pushed {
        let mut inner = self.lock();
        if inner.close.is_some() {
            return Pushed::Dropped;
        }
        if inner.bytes > self.limit_bytes(&inner) || inner.behind.contains(&lease) {
            inner.queue.retain(|(_, queued)| !queued.is_echo_of(lease));
            inner.recount_bytes();
        }
        inner.enqueue(QueuedFrame::Echo { lease, frame })
    }

    /// Queues an ack or another small reply that must not be lost while the session lives.
    pub fn push_control(&self, frame: Bytes) -> Pushed {
        self.push_small(None, frame)
    }

    /// Like [`Outbox::push_control`], for one lease: dropped if the lease has ended.
    pub fn push_control_of(&self, lease: LeaseId, frame: Bytes) -> Pushed {
        self.push_small(Some(lease), frame)
    }

    /// Queues a step 1; it replaces a queued one of the same lease.
    pub fn push_step1(&self, lease: LeaseId, frame: Bytes) -> Pushed {
        {
            let mut inner = self.lock();
            let mut queued = inner.queue.iter_mut().map(|(_, queued)| queued);
            let is_step1 =
                |queued: &&mut QueuedFrame| matches!(queued, QueuedFrame::Step1 { lease: of, .. } if *of == lease);
            if let Some(queued) = queued.find(is_step1) {
                *queued = QueuedFrame::Step1 { lease, frame };
                inner.recount_bytes();
                return Pushed::Queued;
            }
        }
        self.push_limited(Some(lease), QueuedFrame::Step1 { lease, frame })
    }

    /// Like [`Outbox::push_control`], as a text message: see `session/echo.rs`.
    pub(crate) fn push_text(&self, frame: Bytes) -> Pushed {
        self.push_limited(None, QueuedFrame::Text { frame })
    }

    /// Queues the reply to a WebSocket ping. At most one is queued: the newest answers earlier ones (RFC 6455
    /// section 5.5.3).
    pub fn push_pong(&self, payload: Bytes) -> Pushed {
        {
            let mut inner = self.lock();
            if let Some(at) = inner.queue.iter().position(|(_, queued)| matches!(queued, QueuedFrame::Pong { .. })) {
                if let Some((_, queued)) = inner.queue.get_mut(at) {
                    *queued = QueuedFrame::Pong { frame: payload };
                }
                inner.recount_bytes();
                return Pushed::Queued;
            }
        }
        self.push_limited(None, QueuedFrame::Pong { frame: payload })
    }

    /// A WebSocket ping.
    pub fn push_ping(&self) -> Pushed {
        self.push_limited(None, QueuedFrame::Ping)
    }

    fn push_small(&self, lease: Option<LeaseId>, frame: Bytes) -> Pushed {
        self.push_limited(lease, QueuedFrame::Control { frame })
    }

    fn push_limited(&self, lease: Option<LeaseId>, queued: QueuedFrame) -> Pushed {
        let mut inner = self.lock();
        if inner.close.is_some() || lease.is_some_and(|lease| inner.ended_leases.contains(&lease)) {
            return Pushed::Dropped;
        }
        let most = self.limit_bytes(&inner).saturating_mul(2);
        let are_few = inner.queue.len() <= FEW_FRAMES && inner.control_bytes <= FEW_FRAMES_BYTES;
        if inner.control_bytes > most && !are_few {
            drop(inner);
            self.close(Close::TooSlow);
            return Pushed::Dropped;
        }
        inner.enqueue(queued)
    }

    /// Drops everything queued for a lease that has left its document.
    pub fn forget(&self, lease: LeaseId) {
        let mut inner = self.lock();
        inner.queue.retain(|(_, queued)| !queued.is_echo_of(lease) && !queued.is_reply_to(lease));
        inner.drop_frames(lease);
        inner.positions.drop_lease(lease);
        inner.behind.remove(&lease);
        inner.ended_leases.remove(&lease);
        self.note_drained(inner);
    }

    /// Queues a position after everything queued so far. A durable position is dropped if the lease is
    /// behind.
    pub fn push_position(&self, lease: LeaseId, position: Position, frame: Bytes) -> Pushed {
        let mut inner = self.lock();
        let covers_dropped_frames = position == Position::Durable && inner.behind.contains(&lease);
        if inner.rejects(lease) || covers_dropped_frames {
            return Pushed::Dropped;
        }
        let was_empty = inner.is_empty();
        let after = inner.next;
        inner.positions.push(lease, position, after, frame);
        if was_empty { Pushed::First } else { Pushed::Queued }
    }

    fn push_bounded(&self, lease: LeaseId, frame: Bytes, wrap: impl FnOnce(LeaseId, Bytes) -> QueuedFrame) -> Pushed {
        let mut inner = self.lock();
        if inner.rejects(lease) || inner.behind.contains(&lease) {
            return Pushed::Dropped;
        }
        // A frame larger than the limit passes if nothing else is queued: otherwise it could never be sent.
        let bytes = inner.bytes - inner.reply_bytes;
        if bytes > 0 && bytes + frame.len() > self.limit_bytes(&inner) {
            inner.fall_behind(lease);
            self.note_drained(inner);
            return Pushed::Dropped;
        }
        inner.enqueue(wrap(lease, frame))
    }

    /// True if the budget is exceeded and this outbox holds more than a little.
    pub fn exceeds_scarce_limit(&self) -> bool {
        let inner = self.lock();
        inner.share.is_scarce() && inner.bytes + inner.taken_bytes > SCARCE_BYTES
    }

    /// The current limit.
    fn limit_bytes(&self, inner: &Inner) -> usize {
        if inner.share.is_scarce() { self.limit_bytes.min(SCARCE_BYTES) } else { self.limit_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing below panics while holding the lock with the state half-changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// True if nothing is queued.
    fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.positions.is_empty()
    }

    fn enqueue(&mut self, queued: QueuedFrame) -> Pushed {
        let was_empty = self.queue.is_empty();
        self.put(queued);
        if was_empty { Pushed::First } else { Pushed::Queued }
    }

    fn rejects(&self, lease: LeaseId) -> bool {
        self.close.is_some() || self.ended_leases.contains(&lease)
    }

    /// True if one reply is queued for the lease: a document sends a reader a diff, then all awareness
    /// states, possibly with changes of the same turn between them.
    fn is_second_reply(&self, lease: LeaseId) -> bool {
        let mut answers = self.queue.iter().filter(|(_, queued)| queued.is_reply_to(lease));
        answers.next().is_some() && answers.next().is_none()
    }

    fn put(&mut self, queued: QueuedFrame) {
        self.bytes += queued.bytes();
        self.control_bytes += queued.control_bytes();
        self.reply_bytes += queued.reply_bytes();
        self.shared_bytes += queued.shared_bytes();
        self.queue.push_back((self.next, queued));
        self.next += 1;
        self.update_budget();
    }

    fn fall_behind(&mut self, lease: LeaseId) {
        self.drop_frames(lease);
        self.behind.insert(lease);
    }

    fn drop_frames(&mut self, lease: LeaseId) {
        self.queue.retain(|(_, queued)| !queued.belongs_to(lease));
        self.positions.drop_durable(lease);
        self.recount_bytes();
    }

    fn recount_bytes(&mut self) {
        self.bytes = self.queue.iter().map(|(_, queued)| queued.bytes()).sum();
        self.control_bytes = self.queue.iter().map(|(_, queued)| queued.control_bytes()).sum();
        self.reply_bytes = self.queue.iter().map(|(_, queued)| queued.reply_bytes()).sum();
        self.shared_bytes = self.queue.iter().map(|(_, queued)| queued.shared_bytes()).sum();
        self.update_budget();
    }

    /// Updates the budget with the bytes queued and taken, except those shared with documents.
    fn update_budget(&mut self) {
        self.share.set(self.own_bytes());
    }

    fn own_bytes(&self) -> usize {
        self.bytes - self.shared_bytes + self.taken_own_bytes
    }

    /// The socket has accepted everything that was taken.
    fn note_written(&mut self) {
        (self.taken_bytes, self.taken_own_bytes) = (0, 0);
        if !self.unwritten_diffs.is_empty() {
            let first_queued = self.first_queued();
            self.unwritten_diffs.retain(|(number, _)| *number >= first_queued);
            if self.unwritten_diffs.is_empty() {
                // Frees its memory, which an idle session does not need.
                self.unwritten_diffs = Vec::new();
            }
        }
        self.update_budget();
    }

    /// The number of the first queued frame, or of the next one.
    fn first_queued(&self) -> u64 {
        self.queue.front().map_or(self.next, |(number, _)| *number)
    }
}

#[cfg(test)]
mod tests;
