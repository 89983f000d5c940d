//! Virtual time: days pass in an instant, and each device's clock may be wrong by its own offset.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The time of the scenario, shared by all devices. It advances by [`VirtualTime::pass`], and by a millisecond with every
/// reading of a clock, so that no two edits have the same time.
///
/// It starts at the real time, because the server's clock is real: a device without skew agrees with the server until the
/// first `pass`. No random choice depends on it.
#[derive(Debug, Clone)]
pub(crate) struct VirtualTime {
    begin_ms: i64,
    passed_ms: Arc<AtomicI64>,
}

impl Default for VirtualTime {
    fn default() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { begin_ms: i64::try_from(since.as_millis()).unwrap_or(0), passed_ms: Arc::default() }
    }
}

impl VirtualTime {
    /// Advances the time.
    pub(crate) fn pass(&self, ms: i64) {
        self.passed_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Milliseconds since the start of the scenario.
    pub(crate) fn passed_ms(&self) -> i64 {
        self.passed_ms.load(Ordering::Relaxed)
    }

    /// A device's clock that is wrong by `skew_ms`.
    pub(crate) fn clock(&self, skew_ms: i64) -> VirtualClock {
        VirtualClock { time: self.clone(), skew_ms }
    }
}

/// A device's clock.
#[derive(Debug, Clone)]
pub(crate) struct VirtualClock {
    time: VirtualTime,
    skew_ms: i64,
}

impl VirtualClock {
    /// Reads the clock, in milliseconds since the Unix epoch, and advances the time by one millisecond.
    pub(crate) fn tick_ms(&self) -> u64 {
        let passed = self.time.passed_ms.fetch_add(1, Ordering::Relaxed);
        self.time.begin_ms.saturating_add(passed).saturating_add(self.skew_ms).max(0).unsigned_abs()
    }
}
