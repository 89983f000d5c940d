//! Straight to the socket: who has pushed writes at once, in its own turn, and no task is woken for it.
//!
//! Frames keep their order because all writing is done by the holder of the line's lock, who takes what waits and writes it
//! before letting go. Of a socket that does not take everything the rest is the session's, and from then on all else until
//! it has drained. Only a little is written in this way: a turn stays short whatever one reader is owed.
//!
//! Who is busy sends later instead ([`Outbox::send_later`]): many small writes cost more than waking tasks.

use syncline_replica::Pieces;

use super::{Kind, Outbox};

/// More than this waiting is left to the session's task, which may be another thread's.
pub(super) const MAX_STRAIGHT_BYTES: usize = 16 * 1024;

/// A session's socket, as its outbox sees it.
pub trait Line: Send + Sync {
    /// Writes what waits in `outbox` as far as the socket takes it now, or leaves it to the session's task. Never waits.
    fn send(&self, outbox: &Outbox);
}

impl Outbox {
    /// Sees to it that what was pushed is sent. To be called by whoever was told that it pushed the first.
    pub fn send(&self) {
        match self.line.as_ref().map(|line| line.upgrade()) {
            Some(Some(line)) => line.send(self),
            // The session has ended.
            Some(None) => {}
            None => self.wake_writer(self.lock()),
        }
    }

    /// The same by the session's task, when its turn comes: what is pushed until then goes out in the same write.
    pub fn send_later(&self) {
        self.wake_writer(self.lock());
    }

    /// Hands what waits to `put`, in order, if it is little; wakes the session's task if it is much. True when something
    /// was handed over. Only the line calls it, and then tells how it went.
    pub fn take_straight(&self, mut put: impl FnMut(Kind, Pieces)) -> bool {
        let mut inner = self.lock();
        // A session that is to end, and one whose socket takes nothing, has been told.
        if inner.is_cut || inner.close.is_some() || inner.is_blocked || inner.is_empty() {
            return false;
        }
        if inner.bytes > MAX_STRAIGHT_BYTES {
            self.wake_writer(inner);
            return false;
        }
        inner.take(&mut put)
    }

    /// The socket has taken everything.
    pub fn sent_straight(&self) {
        let mut inner = self.lock();
        inner.note_written();
        self.note_drained(inner);
    }

    /// It has not: the session's task waits for it.
    pub fn blocked_straight(&self) {
        let mut inner = self.lock();
        let waker = inner.waker.take();
        inner.is_blocked = true;
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
