//! Virtual time: days pass at once, and each device's clock may be wrong in its own way.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The time in the scenario, shared by everybody. It moves only when it is told to, by at least a millisecond a look:
/// no two edits are at one time.
///
/// It begins at the real time, because the server's clock is the real one: devices whose clocks are right agree with it
/// until time is made to pass. Nothing that is chosen depends on it.
#[derive(Debug, Clone)]
pub struct VirtualTime {
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
    /// Time passes.
    pub fn pass(&self, ms: i64) {
        self.passed_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Since the beginning.
    pub fn passed_ms(&self) -> i64 {
        self.passed_ms.load(Ordering::Relaxed)
    }

    /// A clock that is wrong by `skew_ms`.
    pub fn clock(&self, skew_ms: i64) -> VirtualClock {
        VirtualClock { time: self.clone(), skew_ms }
    }
}

/// A device's clock.
#[derive(Debug, Clone)]
pub struct VirtualClock {
    time: VirtualTime,
    skew_ms: i64,
}

impl VirtualClock {
    /// What it shows, in milliseconds since the Unix epoch.
    pub fn look(&self) -> u64 {
        let passed = self.time.passed_ms.fetch_add(1, Ordering::Relaxed);
        self.time.begin_ms.saturating_add(passed).saturating_add(self.skew_ms).max(0).unsigned_abs()
    }
}
