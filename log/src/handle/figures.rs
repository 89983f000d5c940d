//! What the log's thread has done so far, for whoever watches a server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Log, MAX_QUEUED_BYTES};

/// How the log is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Commits since the start, each with its sync; failed ones too.
    pub commits: u64,
    /// What they took together.
    pub commit_time: Duration,
    /// Bytes handed in that are not yet committed, at most [`MAX_QUEUED_BYTES`].
    pub waiting_bytes: usize,
}

/// Counted by the log's thread.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    commits: AtomicU64,
    commit_nanos: AtomicU64,
}

impl Counts {
    /// A commit ended, which took so long.
    pub fn note(&self, took: Duration) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.commit_nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Log {
    /// How it is doing.
    pub fn figures(&self) -> Figures {
        let counts = &self.shared.counts;
        Figures {
            commits: counts.commits.load(Ordering::Relaxed),
            commit_time: Duration::from_nanos(counts.commit_nanos.load(Ordering::Relaxed)),
            waiting_bytes: MAX_QUEUED_BYTES - self.shared.room.available_permits(),
        }
    }
}
