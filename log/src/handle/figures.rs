//! Counters of the log, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Log;

/// The log's counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Commits since the start, including failed ones.
    pub commits: u64,
    /// The total duration of these commits, each with its sync.
    pub commit_time: Duration,
    /// Bytes that are queued or being committed.
    pub waiting_bytes: usize,
}

/// Counters that the log's thread writes.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    commits: AtomicU64,
    commit_nanos: AtomicU64,
}

impl Counts {
    /// Counts a commit and its duration.
    pub(crate) fn record_commit(&self, took: Duration) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.commit_nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Log {
    /// The current counters.
    pub fn figures(&self) -> Figures {
        let counts = &self.shared.counts;
        Figures {
            commits: counts.commits.load(Ordering::Relaxed),
            commit_time: Duration::from_nanos(counts.commit_nanos.load(Ordering::Relaxed)),
            waiting_bytes: self.commands.queued_bytes(),
        }
    }
}
