//! PURE: who holds an open document, and when it may leave: the decisions that the registry makes under a map entry's lock.
//! `tests.rs` runs them under every schedule that a random scheduler finds.

/// The entry of an open document.
#[derive(Debug)]
pub(super) struct Slot<T> {
    /// How to reach its task.
    pub(super) task: T,
    /// Sessions that hold a lease. One that says goodbye counts until its goodbye is in the inbox.
    leases: usize,
    /// Tells this task's entry from one that replaced it after a panic.
    generation: u64,
}

impl<T> Slot<T> {
    /// The document was opened: its first lease.
    pub(super) fn first(task: T, generation: u64) -> Self {
        Self { task, leases: 1, generation }
    }

    /// One more lease.
    pub(super) fn join(&mut self) -> u64 {
        self.leases += 1;
        self.generation
    }

    /// A lease of this generation is gone, and what it said is in the inbox.
    pub(super) fn release(&mut self, generation: u64) {
        if self.generation == generation {
            self.leases -= 1;
        }
    }

    /// True when the task of this generation may leave, and the entry with it: nobody holds a lease, and nothing waits that
    /// the task has not read.
    pub(super) fn may_retire(&self, generation: u64, inbox_is_empty: bool) -> bool {
        self.is(generation) && self.leases == 0 && inbox_is_empty
    }

    /// True when a session holds a lease.
    pub(super) fn is_leased(&self) -> bool {
        self.leases > 0
    }

    /// True when it is this task's entry.
    pub(super) fn is(&self, generation: u64) -> bool {
        self.generation == generation
    }
}
