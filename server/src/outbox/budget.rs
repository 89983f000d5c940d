//! What all outboxes of a server hold together, and the limit on it.
//!
//! Each is bounded by itself, but there may be fifty thousand. When all of them together are over the limit, each may hold only a
//! little: a slow reader falls behind sooner, and is resynced when its socket has drained. One that still holds more, and takes
//! next to nothing, is cut (`session/pulse.rs`).
//!
//! Answers share the memory of their documents. When a document is compacted it gets new memory, and answers that wait hold the
//! old one: that is counted, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use syncline_replica::Superseded;

/// What an outbox may hold when there is too much in all of them.
pub(super) const SCARCE_BYTES: usize = 64 * 1024;
/// An outbox is counted in steps of so many bytes: most never hold as much, and share nothing with others.
const STEP_BYTES: usize = SCARCE_BYTES;

/// Shared by all outboxes of a server.
#[derive(Debug)]
pub struct Budget {
    limit_bytes: usize,
    used_bytes: AtomicUsize,
    superseded: Superseded,
}

impl Budget {
    /// Nothing is held.
    pub fn new(limit_bytes: usize) -> Arc<Self> {
        Self::with_superseded(limit_bytes, Superseded::default())
    }

    /// Nothing is held but what documents have replaced.
    pub fn with_superseded(limit_bytes: usize, superseded: Superseded) -> Arc<Self> {
        Arc::new(Self { limit_bytes, used_bytes: AtomicUsize::new(0), superseded })
    }

    /// Bytes held now. Outboxes that hold little are not counted.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed) + self.superseded.bytes()
    }

    pub(super) fn is_exceeded(&self) -> bool {
        self.used_bytes() > self.limit_bytes
    }
}

/// One outbox's part in it. Given back when the outbox is dropped.
#[derive(Debug, Default)]
pub(super) struct Charge {
    /// `None`: the outbox is on its own.
    budget: Option<Arc<Budget>>,
    bytes: usize,
}

impl Charge {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { budget: Some(budget), bytes: 0 }
    }

    /// The outbox holds so many bytes now.
    pub(super) fn set(&mut self, bytes: usize) {
        let bytes = if bytes < STEP_BYTES { 0 } else { bytes.next_multiple_of(STEP_BYTES) };
        if let Some(budget) = self.budget.as_ref().filter(|_| bytes != self.bytes) {
            // Wraps around when it is less than before.
            budget.used_bytes.fetch_add(bytes.wrapping_sub(self.bytes), Ordering::Relaxed);
            self.bytes = bytes;
        }
    }

    pub(super) fn is_scarce(&self) -> bool {
        self.budget.as_ref().is_some_and(|budget| budget.is_exceeded())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}
