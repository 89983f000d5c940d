//! The limit on what all outboxes of a server hold together.
//!
//! Each outbox has a limit of its own, but there may be fifty thousand. While the total is over the limit,
//! each may hold only a little: a slow reader falls behind sooner, and is resynced when its socket has
//! drained. A session that still holds more and hardly drains is cut (`session/timers.rs`).
//!
//! Replies share the memory of their documents. A compacted document gets new memory while queued replies
//! keep the old memory alive: that is counted as well.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use syncline_replica::Superseded;

/// Limit for one outbox while the total is over its limit.
pub(super) const SCARCE_BYTES: usize = 64 * 1024;
/// Outboxes are counted in steps of this size: most never hold that much, and never touch the shared counter.
const STEP_BYTES: usize = SCARCE_BYTES;

/// Byte count shared by all outboxes of a server.
#[derive(Debug)]
pub struct Budget {
    limit_bytes: usize,
    used_bytes: AtomicUsize,
    superseded: Superseded,
}

impl Budget {
    /// A budget with nothing in use.
    pub fn new(limit_bytes: usize) -> Arc<Self> {
        Self::with_superseded(limit_bytes, Superseded::default())
    }

    /// A budget that also counts the replaced document states kept alive by replies.
    pub fn with_superseded(limit_bytes: usize, superseded: Superseded) -> Arc<Self> {
        Arc::new(Self { limit_bytes, used_bytes: AtomicUsize::new(0), superseded })
    }

    /// Bytes in use. Outboxes below one step are not counted.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed) + self.superseded.bytes()
    }

    pub(super) fn is_exceeded(&self) -> bool {
        self.used_bytes() > self.limit_bytes
    }
}

/// Bytes of one outbox within the budget; released on drop.
#[derive(Debug, Default)]
pub(super) struct BudgetShare {
    /// `None` if the outbox belongs to no budget.
    budget: Option<Arc<Budget>>,
    bytes: usize,
}

impl BudgetShare {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { budget: Some(budget), bytes: 0 }
    }

    /// Sets the bytes that the outbox holds.
    pub(super) fn set(&mut self, bytes: usize) {
        let bytes = if bytes < STEP_BYTES { 0 } else { bytes.next_multiple_of(STEP_BYTES) };
        if let Some(budget) = self.budget.as_ref().filter(|_| bytes != self.bytes) {
            // Wraps around if the new value is smaller.
            budget.used_bytes.fetch_add(bytes.wrapping_sub(self.bytes), Ordering::Relaxed);
            self.bytes = bytes;
        }
    }

    pub(super) fn is_scarce(&self) -> bool {
        self.budget.as_ref().is_some_and(|budget| budget.is_exceeded())
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.set(0);
    }
}
