//! Direct writes: the task that pushed also writes to the socket, in its own turn, without waking the
//! session's task.
//!
//! Frames keep their order because the holder of the sink's lock does all the writing: it takes what is
//! queued and writes it before it releases the lock. If the socket does not accept everything, the session's
//! task writes the rest, and everything that follows until the socket has drained. Only small amounts are
//! written directly, so a turn stays short whatever is queued for one reader.
//!
//! A busy task sends later instead ([`Outbox::send_later`]): many small writes cost more than waking tasks.

use syncline_replica::Pieces;

use super::{FrameKind, Outbox};

/// If more than this is queued, the session's task writes it, possibly on another thread.
pub(super) const MAX_DIRECT_BYTES: usize = 16 * 1024;

/// A session's socket as seen by its outbox.
pub trait DirectSink: Send + Sync {
    /// Writes what is queued in `outbox` as far as the socket accepts it now, or leaves it to the session's
    /// task. Never waits.
    fn send(&self, outbox: &Outbox);
}

impl Outbox {
    /// Sends what was pushed. Must be called after a push returned [`super::Pushed::First`].
    pub fn send(&self) {
        match self.sink.as_ref().map(|sink| sink.upgrade()) {
            Some(Some(sink)) => sink.send(self),
            // The session has ended.
            Some(None) => {}
            None => self.wake_writer(self.lock()),
        }
    }

    /// Like [`Outbox::send`], but by the session's task when it runs next: frames pushed until then join the
    /// same write.
    pub fn send_later(&self) {
        self.wake_writer(self.lock());
    }

    /// Hands what is queued to `put`, in order, if it is little; otherwise wakes the session's task. Returns
    /// whether anything was handed over. Called only by the sink, which then reports the result.
    pub fn take_direct(&self, mut put: impl FnMut(FrameKind, Pieces)) -> bool {
        let mut inner = self.lock();
        // A session that is closing or whose socket is full has been woken or will be.
        if inner.is_cut || inner.close.is_some() || inner.is_blocked || inner.is_empty() {
            return false;
        }
        if inner.bytes > MAX_DIRECT_BYTES {
            self.wake_writer(inner);
            return false;
        }
        inner.take(&mut put)
    }

    /// Reports that the socket accepted everything.
    pub fn note_direct_sent(&self) {
        let mut inner = self.lock();
        inner.note_written();
        self.note_drained(inner);
    }

    /// Reports that the socket did not accept everything: the session's task waits for it.
    pub fn note_direct_blocked(&self) {
        let mut inner = self.lock();
        let waker = inner.waker.take();
        inner.is_blocked = true;
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
