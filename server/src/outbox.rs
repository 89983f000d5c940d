//! Bytes waiting for one socket: bounded in bytes, and pushing never waits.
//!
//! Whoever pushes onto an empty outbox is told so, and sends ([`Outbox::send`]): straight to the socket if it takes it, else
//! the session's task does it. So a document pushes all it has, then sends once. What happens when a reader is slow is decided here and nowhere else:
//!
//! | what | when the outbox is over its limit |
//! |---|---|
//! | document frame | all document frames of that lease are dropped and the lease is *behind*: once the socket has drained, its session asks the document for one diff |
//! | awareness frame | joins the one of its lease that waits: together they are one frame with the newest state of each client; over the limit they are dropped like document frames |
//! | answer to a step 1, everyone's presence | put off in the same way, but once queued it stays and takes no room from changes: of a diff larger than the limit every change after it would drop it again, for ever. Two may wait |
//! | echo of a lease's own change | takes the place of the echoes before it: the newest acknowledges them all |
//! | durable positions and cumulative acks (native) | the newest replaces one that waits; a durable position is dropped with its lease's frames |
//! | questions (step 1) | the newest takes the place of one of the same document |
//! | acks and other small answers | kept; over twice the limit of them the session is closed as too slow |

mod awareness;
mod budget;
mod closing;
mod endings;
mod positions;
mod straight;
mod taking;
mod waiting;

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_replica::Pieces;

pub use self::awareness::{AwarenessFrame, UpdateLength};
pub use self::budget::Budget;
use self::budget::{Charge, SCARCE_BYTES};
pub use self::positions::Position;
use self::positions::Positions;
pub use self::straight::Line;
pub use self::taking::{Kind, News, Taken};
use self::waiting::Waiting;
use crate::ids::LeaseId;

/// How far back a waiting awareness frame is looked for, to be joined.
const MAX_AWARENESS_LOOKBACK: usize = 64;
/// With so few frames waiting a session is not too slow, if they have at most so many bytes.
const FEW_FRAMES: usize = 64;
const FEW_FRAMES_BYTES: usize = 16 * 1024 * 1024;

/// What became of a pushed frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It waits; nothing was waiting before it, so all that was pushed earlier has gone to the socket. Whoever is told
    /// this must call [`Outbox::send`] when it has pushed the rest.
    First,
    /// It waits behind others.
    Queued,
    /// It was dropped: the lease is behind, or the session is closing.
    Dropped,
}

#[derive(Debug, Default)]
struct Inner {
    /// Numbered in order of arrival.
    queue: VecDeque<(u64, Waiting)>,
    /// The number of the next frame.
    next: u64,
    positions: Positions,
    bytes: usize,
    /// Those of `bytes` that cannot be dropped.
    control_bytes: usize,
    /// Those of `bytes` that take no room from changes.
    answer_bytes: usize,
    /// Those of `bytes` that lie in the memory of documents.
    shared_bytes: usize,
    /// Taken from here, and not known to be written; those that do not lie in the memory of documents.
    taken_bytes: usize,
    taken_own_bytes: usize,
    /// What is counted of all this in all outboxes together.
    charge: Charge,
    /// Leases whose frames were dropped; emptied by [`Outbox::news`] once the socket has taken everything.
    behind: BTreeSet<LeaseId>,
    /// Leases that are over while the session goes on; nothing of theirs is taken.
    over: HashSet<LeaseId>,
    /// Those of `over` whose document ended them; emptied by [`Outbox::news`].
    ended: Vec<LeaseId>,
    close: Option<Close>,
    /// Why the session is to end after some ticks, and how many are left.
    close_later: Option<(Close, u32)>,
    /// The time for a first token is over; taken by [`Outbox::news`].
    must_authenticate: bool,
    /// The session ends now, without a word.
    is_cut: bool,
    /// The socket has not taken all that was taken from here.
    is_blocked: bool,
    /// The session's task. `None`: it was woken, and has not looked since.
    waker: Option<Waker>,
}

/// The frames waiting for one socket. Shared by the session and the documents it reads.
#[derive(Debug)]
pub struct Outbox {
    inner: Mutex<Inner>,
    limit_bytes: usize,
    /// The session's socket. None: a task takes what is pushed.
    line: Option<Weak<dyn Line>>,
    /// There is something for the session's reader. Set under the lock.
    has_news: AtomicBool,
}

impl Outbox {
    /// An empty outbox that holds at most about `limit_bytes`, for a task that takes from it.
    pub fn new(limit_bytes: usize) -> Self {
        Self { inner: Mutex::default(), limit_bytes, line: None, has_news: AtomicBool::new(false) }
    }

    /// The same for a socket, to which what is pushed can go at once. It holds less while `budget` is exceeded.
    pub fn with_line(limit_bytes: usize, budget: Arc<Budget>, line: Weak<dyn Line>) -> Self {
        let inner = Inner { charge: Charge::new(budget), ..Inner::default() };
        Self { inner: inner.into(), line: Some(line), ..Self::new(limit_bytes) }
    }

    /// A change of a document.
    pub fn push_document(&self, lease: LeaseId, frame: Bytes) -> Pushed {
        self.push_bounded(lease, frame, |lease, frame| Waiting::Document { lease, frame })
    }

    /// The answer to a step 1, or everyone's presence. It may be larger than the limit (a whole document, shared with
    /// other sessions) but is put off when the outbox already is over it: a client cannot pile up answers.
    pub fn push_answer(&self, lease: LeaseId, answer: impl Into<Pieces>) -> Pushed {
        let mut inner = self.lock();
        if inner.takes_nothing_of(lease) {
            return Pushed::Dropped;
        }
        // While memory is scarce, what was taken and is not yet written counts, too.
        let is_scarce = inner.charge.is_scarce() && inner.own_bytes() > SCARCE_BYTES;
        let is_over = inner.bytes > self.limit_bytes(&inner) || is_scarce;
        if (is_over && !inner.is_second_answer(lease)) || inner.behind.contains(&lease) {
            inner.fall_behind(lease);
            self.note_drained(inner);
            return Pushed::Dropped;
        }
        inner.enqueue(Waiting::Answer { lease, pieces: Box::new(answer.into()) })
    }

    /// The echo of a change to its author, which is its acknowledgement. Never dropped: in a session that was put off
    /// and brought up to date by a diff, nothing else would say that the change is saved.
    pub fn push_echo(&self, lease: LeaseId, frame: Bytes) -> Pushed {
        let mut inner = self.lock();
        if inner.close.is_some() {
            return Pushed::Dropped;
        }
        if inner.bytes > self.limit_bytes(&inner) || inner.behind.contains(&lease) {
            inner.queue.retain(|(_, waiting)| !waiting.is_echo_of(lease));
            inner.count_bytes();
        }
        inner.enqueue(Waiting::Echo { lease, frame })
    }

    /// An ack or another small answer that must not be lost while the session lives.
    pub fn push_control(&self, frame: Bytes) -> Pushed {
        self.push_small(None, frame)
    }

    /// [`Outbox::push_control`] for one lease: nothing is taken when it is over.
    pub fn push_control_of(&self, lease: LeaseId, frame: Bytes) -> Pushed {
        self.push_small(Some(lease), frame)
    }

    /// A step 1 of a document: it takes the place of one that waits.
    pub fn push_question(&self, lease: LeaseId, frame: Bytes) -> Pushed {
        {
            let mut inner = self.lock();
            let mut waiting = inner.queue.iter_mut().map(|(_, waiting)| waiting);
            let is_question =
                |waiting: &&mut Waiting| matches!(waiting, Waiting::Question { lease: of, .. } if *of == lease);
            if let Some(waiting) = waiting.find(is_question) {
                *waiting = Waiting::Question { lease, frame };
                inner.count_bytes();
                return Pushed::Queued;
            }
        }
        self.push_unless_too_many(Some(lease), Waiting::Question { lease, frame })
    }

    /// [`Outbox::push_control`] as a text message: see `session/echo.rs`.
    pub(crate) fn push_text(&self, frame: Bytes) -> Pushed {
        self.push_unless_too_many(None, Waiting::Text { frame })
    }

    /// The answer to a WebSocket ping. One waits at most: the newest answers those before it (RFC 6455 section 5.5.3).
    pub fn push_pong(&self, payload: Bytes) -> Pushed {
        {
            let mut inner = self.lock();
            if let Some(at) = inner.queue.iter().position(|(_, waiting)| matches!(waiting, Waiting::Pong { .. })) {
                if let Some((_, waiting)) = inner.queue.get_mut(at) {
                    *waiting = Waiting::Pong { frame: payload };
                }
                inner.count_bytes();
                return Pushed::Queued;
            }
        }
        self.push_unless_too_many(None, Waiting::Pong { frame: payload })
    }

    fn push_small(&self, lease: Option<LeaseId>, frame: Bytes) -> Pushed {
        self.push_unless_too_many(lease, Waiting::Control { frame })
    }

    fn push_unless_too_many(&self, lease: Option<LeaseId>, waiting: Waiting) -> Pushed {
        let mut inner = self.lock();
        if inner.close.is_some() || lease.is_some_and(|lease| inner.over.contains(&lease)) {
            return Pushed::Dropped;
        }
        let most = self.limit_bytes(&inner).saturating_mul(2);
        let are_few = inner.queue.len() <= FEW_FRAMES && inner.control_bytes <= FEW_FRAMES_BYTES;
        if inner.control_bytes > most && !are_few {
            drop(inner);
            self.close(Close::TooSlow);
            return Pushed::Dropped;
        }
        inner.enqueue(waiting)
    }

    /// Drops what waits for a lease that is gone.
    pub fn forget(&self, lease: LeaseId) {
        let mut inner = self.lock();
        inner.queue.retain(|(_, waiting)| !waiting.is_echo_of(lease) && !waiting.is_answer_to(lease));
        inner.drop_frames(lease);
        inner.positions.drop_lease(lease);
        inner.behind.remove(&lease);
        inner.over.remove(&lease);
    }

    /// A position, sent behind everything that is queued now. A durable position is dropped when frames were.
    pub fn push_position(&self, lease: LeaseId, position: Position, frame: Bytes) -> Pushed {
        let mut inner = self.lock();
        let is_untrue = position == Position::Durable && inner.behind.contains(&lease);
        if inner.takes_nothing_of(lease) || is_untrue {
            return Pushed::Dropped;
        }
        let was_empty = inner.is_empty();
        let after = inner.next;
        inner.positions.push(lease, position, after, frame);
        if was_empty { Pushed::First } else { Pushed::Queued }
    }

    fn push_bounded(&self, lease: LeaseId, frame: Bytes, wrap: impl FnOnce(LeaseId, Bytes) -> Waiting) -> Pushed {
        let mut inner = self.lock();
        if inner.takes_nothing_of(lease) || inner.behind.contains(&lease) {
            return Pushed::Dropped;
        }
        // A single frame larger than the limit passes when nothing waits: otherwise it never could.
        let bytes = inner.bytes - inner.answer_bytes;
        if bytes > 0 && bytes + frame.len() > self.limit_bytes(&inner) {
            inner.fall_behind(lease);
            self.note_drained(inner);
            return Pushed::Dropped;
        }
        inner.enqueue(wrap(lease, frame))
    }

    /// True when all outboxes together hold too much, and this one more than a little.
    pub fn hoards(&self) -> bool {
        let inner = self.lock();
        inner.charge.is_scarce() && inner.bytes + inner.taken_bytes > SCARCE_BYTES
    }

    /// Bytes that it may hold now.
    fn limit_bytes(&self, inner: &Inner) -> usize {
        if inner.charge.is_scarce() { self.limit_bytes.min(SCARCE_BYTES) } else { self.limit_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing below panics while holding the lock with the state half-changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Nothing waits.
    fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.positions.is_empty()
    }

    fn enqueue(&mut self, waiting: Waiting) -> Pushed {
        let was_empty = self.queue.is_empty();
        self.put(waiting);
        if was_empty { Pushed::First } else { Pushed::Queued }
    }

    fn takes_nothing_of(&self, lease: LeaseId) -> bool {
        self.close.is_some() || self.over.contains(&lease)
    }

    /// A document sends a reader a diff, and behind it, maybe after changes of the same turn, everyone's presence.
    fn is_second_answer(&self, lease: LeaseId) -> bool {
        let mut answers = self.queue.iter().filter(|(_, waiting)| waiting.is_answer_to(lease));
        answers.next().is_some() && answers.next().is_none()
    }

    fn put(&mut self, waiting: Waiting) {
        self.bytes += waiting.bytes();
        self.control_bytes += waiting.control_bytes();
        self.answer_bytes += waiting.answer_bytes();
        self.shared_bytes += waiting.shared_bytes();
        self.queue.push_back((self.next, waiting));
        self.next += 1;
        self.charge();
    }

    fn fall_behind(&mut self, lease: LeaseId) {
        self.drop_frames(lease);
        self.behind.insert(lease);
    }

    fn drop_frames(&mut self, lease: LeaseId) {
        self.queue.retain(|(_, waiting)| !waiting.belongs_to(lease));
        self.positions.drop_durable(lease);
        self.count_bytes();
    }

    fn count_bytes(&mut self) {
        self.bytes = self.queue.iter().map(|(_, waiting)| waiting.bytes()).sum();
        self.control_bytes = self.queue.iter().map(|(_, waiting)| waiting.control_bytes()).sum();
        self.answer_bytes = self.queue.iter().map(|(_, waiting)| waiting.answer_bytes()).sum();
        self.shared_bytes = self.queue.iter().map(|(_, waiting)| waiting.shared_bytes()).sum();
        self.charge();
    }

    /// Counts what waits, here and in the writer, without what lies in the memory of documents anyway.
    fn charge(&mut self) {
        self.charge.set(self.own_bytes());
    }

    fn own_bytes(&self) -> usize {
        self.bytes - self.shared_bytes + self.taken_own_bytes
    }

    /// The socket has taken all that was taken from here.
    fn note_written(&mut self) {
        (self.taken_bytes, self.taken_own_bytes) = (0, 0);
        self.charge();
    }
}

#[cfg(test)]
mod tests;
