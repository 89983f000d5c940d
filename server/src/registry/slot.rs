//! PURE: the leases of an open document and when it may leave memory: the decisions that the registry makes
//! under a map entry's lock. `tests.rs` runs them under random schedules.

/// The registry's entry of an open document.
#[derive(Debug)]
pub(super) struct Slot<T> {
    /// Handle of its task.
    pub(super) task: T,
    /// Number of leases. A dropped lease counts until its `Leave` is in the inbox.
    leases: usize,
    /// Distinguishes this task's entry from one that replaced it after a panic.
    generation: u64,
}

impl<T> Slot<T> {
    /// Creates the entry with its first lease.
    pub(super) fn with_first_lease(task: T, generation: u64) -> Self {
        Self { task, leases: 1, generation }
    }

    /// Adds a lease. Returns the task's generation.
    pub(super) fn add_lease(&mut self) -> u64 {
        self.leases += 1;
        self.generation
    }

    /// Removes a lease of this generation; its `Leave` is in the inbox.
    pub(super) fn release(&mut self, generation: u64) {
        if self.generation == generation {
            self.leases -= 1;
        }
    }

    /// True if the task of this generation may end and its entry be removed: there is no lease, and the task
    /// has read every event.
    pub(super) fn may_retire(&self, generation: u64, inbox_is_empty: bool) -> bool {
        self.has_generation(generation) && self.leases == 0 && inbox_is_empty
    }

    /// True if there is a lease.
    pub(super) fn is_leased(&self) -> bool {
        self.leases > 0
    }

    /// True if this is the entry of the task of this generation.
    pub(super) fn has_generation(&self, generation: u64) -> bool {
        self.generation == generation
    }
}
