//! When a document leaves memory, and when it frees memory while it stays.

use std::time::Duration;

use syncline_protocol::ids::Seq;
use tokio::time::Instant;

use crate::document::core::Core;
use crate::document::options::DocumentOptions;

/// Used where there is no deadline.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// Quiet period after which a document frees memory when memory is scarce.
const QUIET_UNDER_PRESSURE: Duration = Duration::from_secs(1);
/// Pause before a document that could not leave memory tries again, unless an event arrives earlier.
const RETIRE_RETRY: Duration = Duration::from_millis(100);

/// The times of a document's last use and change, and what prevents it from leaving memory.
#[derive(Debug)]
pub(super) struct IdleTimers {
    used: Instant,
    changed: Instant,
    /// The newest record at the time `changed`.
    last: Seq,
    /// Memory is scarce, and nothing was freed since that was noted.
    must_free_memory: bool,
    /// The document could not leave memory: a session holds a lease that it has not used or has not released
    /// yet.
    has_unused_lease: bool,
}

impl IdleTimers {
    /// A document that was just loaded, up to the record `last`.
    pub(super) fn new(last: Seq) -> Self {
        let now = Instant::now();
        Self { used: now, changed: now, last, must_free_memory: false, has_unused_lease: false }
    }

    /// Time of the last use.
    pub(super) fn used(&self) -> Instant {
        self.used
    }

    pub(super) fn note_used(&mut self) {
        self.used = Instant::now();
        self.has_unused_lease = false;
    }

    /// The newest record is `last`, since the last use at the latest.
    pub(super) fn note_last(&mut self, last: Seq) {
        if last != self.last {
            (self.last, self.changed) = (last, self.used);
        }
    }

    /// Memory is scarce.
    pub(super) fn request_memory(&mut self) {
        self.must_free_memory = true;
    }

    pub(super) fn note_freed(&mut self) {
        self.must_free_memory = false;
    }

    /// The document could not leave memory.
    pub(super) fn note_stays(&mut self) {
        self.used = Instant::now();
        self.has_unused_lease = true;
        self.must_free_memory = false;
    }

    /// True if the document has been unused for long enough to leave memory.
    pub(super) fn may_leave(&self, core: &Core, options: &DocumentOptions) -> bool {
        core.lease_count() == 0 && self.used.elapsed() >= self.idle(core, options)
    }

    /// True if the document has been unchanged for long enough to free memory, and has some to free.
    pub(super) fn may_free_memory(&self, core: &Core, options: &DocumentOptions) -> bool {
        self.can_free_memory(core) && self.changed.elapsed() >= self.quiet(options)
    }

    /// The next time at which there may be work without an event.
    pub(super) fn next_tick(&self, core: &Core, options: &DocumentOptions) -> Instant {
        let idle = (core.lease_count() == 0).then(|| self.used + self.idle(core, options));
        let quiet = self.can_free_memory(core).then(|| self.changed + self.quiet(options));
        idle.into_iter().chain(quiet).min().unwrap_or_else(|| Instant::now() + NEVER)
    }

    /// How long the document stays in memory without a lease. One without records leaves immediately.
    fn idle(&self, core: &Core, options: &DocumentOptions) -> Duration {
        match self.must_free_memory || core.last() == Seq::ZERO {
            true if self.has_unused_lease => options.idle.min(RETIRE_RETRY),
            true => Duration::ZERO,
            false => options.idle,
        }
    }

    /// True if there is memory to free while nothing changes: deleted content, and under memory pressure also
    /// caches for joining clients.
    fn can_free_memory(&self, core: &Core) -> bool {
        if self.must_free_memory { !core.is_minimal() } else { !core.is_dormant() }
    }

    /// Quiet period after which it frees memory.
    fn quiet(&self, options: &DocumentOptions) -> Duration {
        if self.must_free_memory { options.quiet.min(QUIET_UNDER_PRESSURE) } else { options.quiet }
    }
}
