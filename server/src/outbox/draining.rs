//! The session's side of its outbox: one task that writes queued frames and reads notices, until the session ends.
//!
//! It is woken for frames that could not be written directly, once until it polls again. While the socket is
//! full only notices wake it: queued frames have to wait for the socket anyway.

use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use syncline_protocol::close::Close;
use syncline_replica::Pieces;

use super::{Outbox, OutboxState};
use crate::ids::LeaseId;
use crate::websocket::Opcode;

/// If more than this is queued, the session's task writes it, possibly on another thread.
const MAX_DIRECT_BYTES: usize = 16 * 1024;

/// What the writer has to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OutboxOutput {
    /// Write the frames that were handed to the caller.
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
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>, mut put: impl FnMut(Opcode, Pieces)) -> Poll<OutboxOutput> {
        let mut state = self.lock();
        state.queue.note_written();
        if state.ending.is_cut() {
            return Poll::Ready(OutboxOutput::Cut);
        }
        if !state.queue.is_empty() {
            if state.queue.take(&mut put) {
                return Poll::Ready(OutboxOutput::Frames);
            }
        } else if let Some(close) = state.ending.reason() {
            return Poll::Ready(OutboxOutput::Close(close.clone()));
        }
        if state.must_report_behind() {
            self.has_notices.store(true, Ordering::Release);
        }
        state.register(cx);
        Poll::Pending
    }

    /// Registers the task to be woken for notices while the socket is full. True if the session is cut.
    pub(super) fn poll_blocked(&self, cx: &mut Context<'_>) -> bool {
        let mut state = self.lock();
        state.register(cx);
        state.ending.is_cut()
    }

    /// Hands what is queued to `put`, in order, if it is little; otherwise wakes the session's task. Returns
    /// whether anything was handed over.
    pub(super) fn take_direct(&self, mut put: impl FnMut(Opcode, Pieces)) -> bool {
        let mut state = self.lock();
        // A session that is closing or whose socket is full has been woken or will be.
        if state.ending.is_cut() || state.ending.is_closing() || !state.unsent.is_empty() || state.queue.is_empty() {
            return false;
        }
        if state.queue.bytes() > MAX_DIRECT_BYTES {
            self.wake_writer(state);
            return false;
        }
        state.queue.take(&mut put)
    }

    /// Notes that what [`Outbox::take_direct`] handed over was written, or became unsent: then the session's
    /// task waits for the socket.
    pub(super) fn note_written_directly(&self) {
        let mut state = self.lock();
        if state.unsent.is_empty() {
            state.queue.note_written();
            self.note_drained(state);
        } else {
            wake(state);
        }
    }

    /// The notices, if there are any. Called only by the session's reader, after the writer has registered
    /// the task, so later notices wake it.
    pub fn take_notices(&self) -> Option<Notices> {
        if !self.has_notices.load(Ordering::Acquire) {
            return None;
        }
        let mut state = self.lock();
        self.has_notices.store(false, Ordering::Release);
        Some(Notices {
            closing: state.ending.reason().cloned(),
            ended: state.leases.take_ended_by_document(),
            must_authenticate: std::mem::take(&mut state.must_authenticate),
            behind: if state.has_drained() { state.leases.take_behind() } else { Vec::new() },
        })
    }

    /// True if a further step 1 of a lease is not to be answered now: an earlier diff for it is not written yet, or it is
    /// behind. It is behind from now on, so its session requests the newer diff once the socket has drained. Also true if
    /// nothing is sent to the lease any more.
    pub fn must_defer_diff(&self, lease: LeaseId) -> bool {
        let state = self.lock();
        if state.rejects(lease) {
            return true;
        }
        let is_late = state.leases.is_behind(lease) || state.queue.has_unwritten_diff(lease);
        if is_late {
            self.fall_behind(state, lease);
        }
        is_late
    }

    /// True if frames of a lease were dropped and its session has not been notified.
    pub fn is_behind(&self, lease: LeaseId) -> bool {
        self.lock().leases.is_behind(lease)
    }

    /// Closes the session: queued replies are still sent, everything else is dropped, then the writer sends
    /// `close` and stops. If called again, the first reason is kept.
    pub fn close(&self, close: Close) {
        let mut state = self.lock();
        if !state.ending.is_closing() {
            if close == Close::TooSlow {
                state.queue.clear();
            } else {
                state.queue.keep_small_replies();
            }
            state.leases.clear_behind();
            state.ending.close(close);
        }
        self.notify_reader(state);
    }

    /// Closes the session three timer ticks later, because its client would reconnect within a second and
    /// meet the same failure. It is read until then.
    pub fn close_later(&self, close: Close) {
        self.lock().ending.close_later(close);
    }

    /// Called by the session's timers at each tick.
    pub fn tick(&self) {
        let close = self.lock().ending.tick();
        if let Some(close) = close {
            self.close(close);
        }
    }

    /// Makes the session's reader check that its client has authenticated.
    pub fn ask_for_authentication(&self) {
        let mut state = self.lock();
        state.must_authenticate = true;
        self.notify_reader(state);
    }

    /// Ends the session immediately: nothing more is sent.
    pub fn cut(&self) {
        let mut state = self.lock();
        state.ending.cut();
        self.notify_reader(state);
    }

    /// Wakes the session's task to write what is queued.
    pub(super) fn wake_writer(&self, state: MutexGuard<'_, OutboxState>) {
        if state.unsent.is_empty() {
            wake(state);
        }
    }

    /// Wakes the session's task for a notice.
    pub(super) fn notify_reader(&self, state: MutexGuard<'_, OutboxState>) {
        self.has_notices.store(true, Ordering::Release);
        wake(state);
    }

    /// Dropping frames may have emptied the queue, and then no later write would find it empty and report
    /// leases that are behind.
    pub(super) fn note_drained(&self, state: MutexGuard<'_, OutboxState>) {
        if state.must_report_behind() {
            self.notify_reader(state);
        }
    }
}

/// Wakes the session's task, after the lock is released.
fn wake(mut state: MutexGuard<'_, OutboxState>) {
    let waker = state.waker.take();
    drop(state);
    waker.into_iter().for_each(Waker::wake);
}

impl OutboxState {
    fn register(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    /// True if the session can bring leases up to date now.
    fn must_report_behind(&self) -> bool {
        self.has_drained() && self.leases.are_any_behind()
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
            assert_eq!(taken, OutboxOutput::Frames);
            frames
        }

        /// Takes what is queued: frames, or the end of the session.
        pub(crate) fn try_frames(&self) -> Result<Vec<Bytes>, OutboxOutput> {
            let mut frames = Vec::new();
            let mut cx = Context::from_waker(std::task::Waker::noop());
            match self.poll_take(&mut cx, |_, frame| frames.push(frame.to_bytes())) {
                Poll::Pending | Poll::Ready(OutboxOutput::Frames) => Ok(frames),
                Poll::Ready(other) => Err(other),
            }
        }

        /// The leases to bring up to date now.
        pub(crate) fn behind_now(&self) -> Vec<LeaseId> {
            self.take_notices().map(|notices| notices.behind).unwrap_or_default()
        }
    }
}
