//! The session's side of its outbox: one task that writes queued frames and reads notices.
//!
//! It is woken for frames that could not be written directly, once until it polls again. While the socket is
//! full only notices wake it: queued frames have to wait for the socket anyway.

use std::collections::VecDeque;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use syncline_protocol::close::Close;
use syncline_replica::Pieces;

use super::writer::MAX_DIRECT_BYTES;
use super::{Inner, Outbox};
use crate::ids::LeaseId;
use crate::websocket::Opcode;

/// Bytes the writer takes at a time: the rest still counts towards the limit.
pub(super) const MAX_TAKE_BYTES: usize = 256 * 1024;

/// Result of taking from the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Frames were handed to the caller.
    Frames,
    /// Send this close reason, then end.
    Close(Close),
    /// End immediately.
    Cut,
}

/// Notices for the session's reader.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Notices {
    /// The session is closing: nothing more is to be read, however long the writer takes.
    pub closing: Option<Close>,
    /// Leases ended by their documents, which have informed the client.
    pub ended: Vec<LeaseId>,
    /// The time limit for the first token has passed.
    pub must_authenticate: bool,
    /// Leases to bring up to date: their frames were dropped and the socket has drained.
    pub behind: Vec<LeaseId>,
}

impl Outbox {
    /// Hands what is queued to `put`, in order; if there is nothing, registers the task of `cx` to be woken.
    /// Called only by the session's task, when the socket has accepted everything before.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>, mut put: impl FnMut(Opcode, Pieces)) -> Poll<Taken> {
        let mut inner = self.lock();
        inner.note_written();
        if inner.is_cut {
            return Poll::Ready(Taken::Cut);
        }
        if !inner.is_empty() {
            if inner.take(&mut put) {
                return Poll::Ready(Taken::Frames);
            }
        } else if let Some(close) = &inner.close {
            return Poll::Ready(Taken::Close(close.clone()));
        }
        if inner.queue.is_empty() && !inner.behind.is_empty() {
            self.has_notices.store(true, Ordering::Release);
        }
        inner.register(cx);
        Poll::Pending
    }

    /// Registers the task to be woken for notices while the socket is full. True if the session is cut.
    pub(super) fn poll_blocked(&self, cx: &mut Context<'_>) -> bool {
        let mut inner = self.lock();
        inner.register(cx);
        inner.is_cut
    }

    /// Hands what is queued to `put`, in order, if it is little; otherwise wakes the session's task. Returns
    /// whether anything was handed over.
    pub(super) fn take_direct(&self, mut put: impl FnMut(Opcode, Pieces)) -> bool {
        let mut inner = self.lock();
        // A session that is closing or whose socket is full has been woken or will be.
        if inner.is_cut || inner.close.is_some() || inner.is_blocked() || inner.is_empty() {
            return false;
        }
        if inner.bytes > MAX_DIRECT_BYTES {
            self.wake_writer(inner);
            return false;
        }
        inner.take(&mut put)
    }

    /// Notes that what [`Outbox::take_direct`] handed over was written, or became unsent: then the session's
    /// task waits for the socket.
    pub(super) fn note_written_directly(&self) {
        let mut inner = self.lock();
        if inner.is_blocked() {
            let waker = inner.waker.take();
            drop(inner);
            waker.into_iter().for_each(Waker::wake);
        } else {
            inner.note_written();
            self.note_drained(inner);
        }
    }

    /// The notices, if there are any. Called only by the session's reader, after the writer has registered
    /// the task, so later notices wake it.
    pub fn take_notices(&self) -> Option<Notices> {
        if !self.has_notices.load(Ordering::Acquire) {
            return None;
        }
        let mut inner = self.lock();
        self.has_notices.store(false, Ordering::Release);
        let ended = std::mem::take(&mut inner.ended_by_document);
        ended.iter().for_each(|lease| _ = inner.ended_leases.remove(lease));
        let has_drained = inner.queue.is_empty() && !inner.is_blocked();
        let behind = if has_drained { std::mem::take(&mut inner.behind).into_iter().collect() } else { Vec::new() };
        let must_authenticate = std::mem::take(&mut inner.must_authenticate);
        Some(Notices { closing: inner.close.clone(), ended, must_authenticate, behind })
    }

    /// True if a further step 1 of a lease is not to be answered now: an earlier diff for it is not written yet, or it is
    /// behind. It is behind from now on, so its session requests the newer diff once the socket has drained. Also true if
    /// nothing is sent to the lease any more.
    pub fn must_defer_diff(&self, lease: LeaseId) -> bool {
        let mut inner = self.lock();
        if inner.rejects(lease) {
            return true;
        }
        let is_late = inner.behind.contains(&lease) || inner.unwritten_diffs.iter().any(|(_, of)| *of == lease);
        if is_late {
            inner.fall_behind(lease);
            self.note_drained(inner);
        }
        is_late
    }

    /// True if frames of a lease were dropped and its session has not been notified.
    pub fn is_behind(&self, lease: LeaseId) -> bool {
        self.lock().behind.contains(&lease)
    }

    /// Wakes the session's task to write what is queued.
    pub(super) fn wake_writer(&self, mut inner: MutexGuard<'_, Inner>) {
        if inner.is_blocked() {
            return;
        }
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Wakes the session's task for a notice.
    pub(super) fn notify_reader(&self, mut inner: MutexGuard<'_, Inner>) {
        self.has_notices.store(true, Ordering::Release);
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Dropping frames may have emptied the queue, and then no later write would find it empty and report
    /// leases that are behind.
    pub(super) fn note_drained(&self, inner: MutexGuard<'_, Inner>) {
        if inner.queue.is_empty() && !inner.is_blocked() && !inner.behind.is_empty() {
            self.notify_reader(inner);
        }
    }
}

impl Inner {
    fn register(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    pub(super) fn take(&mut self, put: &mut impl FnMut(Opcode, Pieces)) -> bool {
        let mut taken_bytes = 0;
        let mut has_taken = false;
        while taken_bytes < MAX_TAKE_BYTES {
            let Some((_, queued)) = self.queue.pop_front() else { break };
            taken_bytes += queued.bytes();
            self.control_bytes -= queued.control_bytes();
            self.reply_bytes -= queued.reply_bytes();
            self.shared_bytes -= queued.shared_bytes();
            self.taken_own_bytes += queued.bytes() - queued.shared_bytes();
            put(queued.opcode(), queued.into_pieces());
            has_taken = true;
        }
        self.bytes -= taken_bytes;
        self.taken_bytes += taken_bytes;
        self.update_budget();
        if self.queue.is_empty() {
            // Frees its memory: most sessions are idle most of the time.
            self.queue = VecDeque::new();
        }
        if !self.positions.is_empty() {
            let gone = self.first_queued();
            has_taken |= self.positions.take(gone, |frame| put(Opcode::Binary, frame.into()));
        }
        has_taken
    }
}

#[cfg(test)]
mod for_tests {
    use bytes::Bytes;

    use super::*;

    impl Outbox {
        /// Waits for frames and takes them.
        pub(crate) async fn frames(&self) -> Vec<Bytes> {
            let mut frames = Vec::new();
            let taken = std::future::poll_fn(|cx| self.poll_take(cx, |_, frame| frames.push(frame.to_bytes()))).await;
            assert_eq!(taken, Taken::Frames);
            frames
        }

        /// Takes what is queued: frames, or the end of the session.
        pub(crate) fn try_frames(&self) -> Result<Vec<Bytes>, Taken> {
            let mut frames = Vec::new();
            let mut cx = Context::from_waker(std::task::Waker::noop());
            match self.poll_take(&mut cx, |_, frame| frames.push(frame.to_bytes())) {
                Poll::Pending | Poll::Ready(Taken::Frames) => Ok(frames),
                Poll::Ready(other) => Err(other),
            }
        }

        /// The leases to bring up to date now.
        pub(crate) fn behind_now(&self) -> Vec<LeaseId> {
            self.take_notices().map(|notices| notices.behind).unwrap_or_default()
        }
    }
}
