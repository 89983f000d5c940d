//! The queue of events for one document: in order, bounded in number and in bytes, and without memory of its
//! own while it is empty.
//!
//! tokio's channel allocates room for 32 events when it is created, as much memory as the rest of an idle
//! document. Here the receiver swaps the whole queue for an empty one.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Semaphore;
use tokio::task::coop;

use super::Envelope;

/// Queued events; beyond this senders wait, which becomes TCP backpressure.
const MAX_EVENTS: usize = 256;
/// Bytes of large events that may be queued or being processed.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Events up to this size are bounded by their number alone.
const SMALL_EVENT_BYTES: usize = 4 * 1024;

/// Why an envelope was not queued.
#[derive(Debug)]
pub(crate) enum SendError {
    /// The inbox is full; the envelope is returned.
    Full(Envelope),
    /// The document's task has ended.
    Closed,
}

/// The document's task has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

/// Bytes reserved for a large event; released on drop, after the event was processed.
#[derive(Debug)]
pub(crate) struct BytePermit {
    inbox: Arc<Inbox>,
    bytes: u32,
}

impl Drop for BytePermit {
    fn drop(&mut self) {
        self.inbox.bytes.add_permits(self.bytes as usize);
    }
}

#[derive(Debug)]
struct Inbox {
    /// Free slots, one per event.
    slots: Semaphore,
    /// Free bytes for large events.
    bytes: Semaphore,
    state: Mutex<InboxState>,
}

#[derive(Debug)]
struct InboxState {
    queue: VecDeque<Envelope>,
    /// Waker of the document's task; `None` after it was woken, until it polls again.
    receiver: Option<Waker>,
    senders: usize,
    /// Set when the inbox accepts no more events.
    is_closed: bool,
}

impl Inbox {
    fn state(&self) -> MutexGuard<'_, InboxState> {
        // Nothing below panics while holding the lock with the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.state().is_closed = true;
        // Wakes the senders that wait for room.
        self.slots.close();
        self.bytes.close();
    }
}

/// Creates the inbox of one document.
pub(crate) fn inbox() -> (Sender, Receiver) {
    let state = InboxState { queue: VecDeque::new(), receiver: None, senders: 1, is_closed: false };
    let inbox = Arc::new(Inbox {
        slots: Semaphore::new(MAX_EVENTS),
        bytes: Semaphore::new(MAX_BYTES),
        state: Mutex::new(state),
    });
    (Sender(Arc::clone(&inbox)), Receiver(inbox))
}

/// The sending half, held by sessions.
#[derive(Debug)]
pub(crate) struct Sender(Arc<Inbox>);

impl Sender {
    /// Queues an envelope if there is room.
    pub(crate) fn try_send(&self, envelope: Envelope) -> Result<(), SendError> {
        match self.0.slots.try_acquire() {
            Ok(slot) => {
                slot.forget();
                self.put(envelope).map_err(|Closed| SendError::Closed)
            }
            Err(tokio::sync::TryAcquireError::NoPermits) => Err(SendError::Full(envelope)),
            Err(tokio::sync::TryAcquireError::Closed) => Err(SendError::Closed),
        }
    }

    /// Queues an envelope; waits for room.
    pub(crate) async fn send(&self, envelope: Envelope) -> Result<(), Closed> {
        match self.try_send(envelope) {
            Ok(()) => Ok(()),
            Err(SendError::Closed) => Err(Closed),
            Err(SendError::Full(envelope)) => {
                // Boxed because it is rare: the common path should not pay for the larger future.
                let slot = Box::pin(self.0.slots.acquire()).await.map_err(|_| Closed)?;
                slot.forget();
                self.put(envelope)
            }
        }
    }

    /// Reserves room for an event of this size, waiting for it; `None` if the event is too small to be
    /// counted.
    pub(crate) async fn reserve(&self, bytes: usize) -> Result<Option<BytePermit>, Closed> {
        if bytes <= SMALL_EVENT_BYTES {
            return Ok(None);
        }
        let bytes = u32::try_from(bytes.min(MAX_BYTES)).unwrap_or(u32::MAX);
        Box::pin(self.0.bytes.acquire_many(bytes)).await.map_err(|_| Closed)?.forget();
        Ok(Some(BytePermit { inbox: Arc::clone(&self.0), bytes }))
    }

    fn put(&self, envelope: Envelope) -> Result<(), Closed> {
        let mut state = self.0.state();
        if state.is_closed {
            return Err(Closed);
        }
        state.queue.push_back(envelope);
        let receiver = state.receiver.take();
        drop(state);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
        Ok(())
    }
}

impl Clone for Sender {
    fn clone(&self) -> Self {
        self.0.state().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.senders -= 1;
        let receiver = if state.senders == 0 { state.receiver.take() } else { None };
        drop(state);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }
}

/// The receiving half, held by the document's task.
#[derive(Debug)]
pub(crate) struct Receiver(Arc<Inbox>);

impl Receiver {
    /// Waits for events and moves all of them into `batch`, which must be empty. An empty batch on return
    /// means that no more events will arrive.
    pub(crate) async fn receive(&mut self, batch: &mut VecDeque<Envelope>) {
        poll_fn(|cx| self.poll_receive(cx, batch)).await;
    }

    fn poll_receive(&self, cx: &mut Context<'_>, batch: &mut VecDeque<Envelope>) -> Poll<()> {
        debug_assert!(batch.is_empty());
        // Cooperates with the runtime, so that a busy document does not starve other tasks.
        let turn = std::task::ready!(coop::poll_proceed(cx));
        let mut state = self.0.state();
        if !state.queue.is_empty() {
            std::mem::swap(&mut state.queue, batch);
            drop(state);
            self.0.slots.add_permits(batch.len());
            turn.made_progress();
            return Poll::Ready(());
        }
        if state.senders == 0 || state.is_closed {
            return Poll::Ready(());
        }
        if !state.receiver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.receiver = Some(cx.waker().clone());
        }
        // Idle now: free what the buffers have grown to.
        state.queue = VecDeque::new();
        drop(state);
        *batch = VecDeque::new();
        Poll::Pending
    }

    /// Accepts no more events. Queued ones can still be received.
    pub(crate) fn close(&mut self) {
        self.0.close();
    }

    /// True if no events are queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.state().queue.is_empty()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.close();
        // Dropped outside the lock: dropping an envelope may send `Leave` to this inbox.
        let queue = std::mem::take(&mut self.0.state().queue);
        drop(queue);
    }
}

#[cfg(test)]
mod tests;
