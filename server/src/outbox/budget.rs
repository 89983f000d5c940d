//! What all outboxes of a server hold together, and the limit on it.
//!
//! Each is bounded by itself, but there may be fifty thousand. When all of them together are over the limit, each holds only a
//! little: the readers that are slow fall behind sooner, and are brought up to date when their sockets have drained.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What an outbox may hold when there is too much in all of them.
pub(super) const SCARCE_BYTES: usize = 64 * 1024;
/// An outbox is counted in steps of so many bytes: most never hold as much, and share nothing with others.
const STEP_BYTES: usize = SCARCE_BYTES;

/// Shared by all outboxes of a server.
#[derive(Debug)]
pub struct Budget {
    limit_bytes: usize,
    used_bytes: AtomicUsize,
}

impl Budget {
    /// Nothing is held.
    pub fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self { limit_bytes, used_bytes: AtomicUsize::new(0) })
    }

    /// Bytes held now. Outboxes that hold little are not counted.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
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
        let bytes = bytes / STEP_BYTES * STEP_BYTES;
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
