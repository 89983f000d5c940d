//! Events on their way to a document: bounded in number and in bytes, in order, and without memory when nothing waits.
//!
//! tokio's channel takes room for 32 events when it is made, which is as much as all else about a quiet document. Here the
//! receiver takes everything that waits at once, in place of an empty queue.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Semaphore;
use tokio::task::coop;

use super::Envelope;

/// Events that may wait; beyond it sessions wait, and TCP pushes back.
const MAX_EVENTS: usize = 256;
/// Bytes of large events that may wait or be in work.
const MAX_BYTES: usize = 32 * 1024 * 1024;
/// Events below this size are bounded well enough by their number.
const SMALL_EVENT_BYTES: usize = 4 * 1024;

/// Why an envelope was not taken. It is given back.
#[derive(Debug)]
pub enum NotTaken {
    /// There is no room now.
    Full(Envelope),
    /// The document is gone.
    Closed,
}

/// The document is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

/// The bytes of a large event. Given back when dropped, after the event was handled.
#[derive(Debug)]
pub struct Room {
    shared: Arc<Shared>,
    bytes: u32,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.bytes.add_permits(self.bytes as usize);
    }
}

#[derive(Debug)]
struct Shared {
    /// Free places.
    places: Semaphore,
    /// Free bytes.
    bytes: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Envelope>,
    /// The document's task. `None`: it was woken, and has not looked since.
    receiver: Option<Waker>,
    senders: usize,
    /// Nothing more is taken in.
    is_closed: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing below panics while holding the lock with the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.state().is_closed = true;
        // Whoever waits for room is told.
        self.places.close();
        self.bytes.close();
    }
}

/// An inbox for one document.
pub fn inbox() -> (Sender, Receiver) {
    let state = State { waiting: VecDeque::new(), receiver: None, senders: 1, is_closed: false };
    let shared = Arc::new(Shared {
        places: Semaphore::new(MAX_EVENTS),
        bytes: Semaphore::new(MAX_BYTES),
        state: Mutex::new(state),
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

/// Who puts events in.
#[derive(Debug)]
pub struct Sender(Arc<Shared>);

impl Sender {
    /// Puts an envelope in if there is room.
    pub fn try_send(&self, envelope: Envelope) -> Result<(), NotTaken> {
        match self.0.places.try_acquire() {
            Ok(place) => {
                place.forget();
                self.put(envelope).map_err(|Closed| NotTaken::Closed)
            }
            Err(tokio::sync::TryAcquireError::NoPermits) => Err(NotTaken::Full(envelope)),
            Err(tokio::sync::TryAcquireError::Closed) => Err(NotTaken::Closed),
        }
    }

    /// Puts an envelope in; waits for room.
    pub async fn send(&self, envelope: Envelope) -> Result<(), Closed> {
        match self.try_send(envelope) {
            Ok(()) => Ok(()),
            Err(NotTaken::Closed) => Err(Closed),
            Err(NotTaken::Full(envelope)) => {
                // Rare: who does not wait keeps no room for waiting.
                let place = Box::pin(self.0.places.acquire()).await.map_err(|_| Closed)?;
                place.forget();
                self.put(envelope)
            }
        }
    }

    /// Room for an event of so many bytes; `None` when it is too small to be counted. Waits.
    pub async fn room(&self, bytes: usize) -> Result<Option<Room>, Closed> {
        if bytes <= SMALL_EVENT_BYTES {
            return Ok(None);
        }
        let bytes = u32::try_from(bytes.min(MAX_BYTES)).unwrap_or(u32::MAX);
        Box::pin(self.0.bytes.acquire_many(bytes)).await.map_err(|_| Closed)?.forget();
        Ok(Some(Room { shared: Arc::clone(&self.0), bytes }))
    }

    fn put(&self, envelope: Envelope) -> Result<(), Closed> {
        let mut state = self.0.state();
        if state.is_closed {
            return Err(Closed);
        }
        state.waiting.push_back(envelope);
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

/// Who takes them out: the document's task.
#[derive(Debug)]
pub struct Receiver(Arc<Shared>);

impl Receiver {
    /// Takes everything that waits into `batch`, which is empty; waits for something. Ready with nothing: nothing will
    /// come any more.
    pub async fn receive(&mut self, batch: &mut VecDeque<Envelope>) {
        poll_fn(|cx| self.poll_receive(cx, batch)).await;
    }

    fn poll_receive(&self, cx: &mut Context<'_>, batch: &mut VecDeque<Envelope>) -> Poll<()> {
        debug_assert!(batch.is_empty());
        // A document with much to do lets others have their turn.
        let turn = std::task::ready!(coop::poll_proceed(cx));
        let mut state = self.0.state();
        if !state.waiting.is_empty() {
            std::mem::swap(&mut state.waiting, batch);
            drop(state);
            self.0.places.add_permits(batch.len());
            turn.made_progress();
            return Poll::Ready(());
        }
        if state.senders == 0 || state.is_closed {
            return Poll::Ready(());
        }
        if !state.receiver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.receiver = Some(cx.waker().clone());
        }
        // Quiet now: whatever grew goes.
        state.waiting = VecDeque::new();
        drop(state);
        *batch = VecDeque::new();
        Poll::Pending
    }

    /// Takes nothing more in. What waits can still be received.
    pub fn close(&mut self) {
        self.0.close();
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.state().waiting.is_empty()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.close();
        // Outside of the lock: what is dropped may say goodbye.
        let waiting = std::mem::take(&mut self.0.state().waiting);
        drop(waiting);
    }
}

#[cfg(test)]
mod tests;
