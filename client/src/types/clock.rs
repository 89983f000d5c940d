//! A hybrid logical clock: wall time, plus a counter that orders writes within one millisecond.
//!
//! A [`Stamp`] is one integer in the format of npm `y-lwwmap` 0.2.0: milliseconds since 1970 times [`TICKS_PER_MS`],
//! plus the counter. It stays below 2^53 until the year 2065.
//!
//! The effect of a wrong clock is limited: a write must exceed the newest stamp seen on *its* key, however far ahead
//! that is, or the later write would lose. On all other keys a stamp from the future raises the clock by at most
//! [`MAX_DRIFT_MS`].

use super::value::MAX_INTEGER;

/// Number of stamps in one millisecond.
pub const TICKS_PER_MS: u64 = 3_000;

/// How far stamps of other devices can push this device's clock ahead of its wall clock, and how wrong the device's
/// own clock may be before [`super::LwwMapRoot::restamp`] corrects anything, in milliseconds: five minutes.
pub const MAX_DRIFT_MS: u64 = 5 * 60 * 1_000;

/// The largest possible stamp, 2^53 - 1.
pub const MAX_STAMP: Stamp = MAX_INTEGER as u64;

/// The time of a write, comparable across devices: milliseconds since 1970 times [`TICKS_PER_MS`], plus a counter.
pub type Stamp = u64;

/// Returns the stamp of a wall-clock time in milliseconds since 1970.
pub fn stamp_of(time_ms: u64) -> Stamp {
    time_ms.saturating_mul(TICKS_PER_MS).min(MAX_STAMP)
}

/// Returns the wall-clock time of a stamp in milliseconds since 1970.
pub fn time_of(stamp: Stamp) -> u64 {
    stamp / TICKS_PER_MS
}

/// Moves a stamp by `offset_ms`, clamped to the range of stamps.
pub fn shifted(stamp: Stamp, offset_ms: i64) -> Stamp {
    let offset = i128::from(offset_ms) * i128::from(TICKS_PER_MS);
    // Clamped to the range of a stamp, so the cast is lossless.
    (i128::from(stamp) + offset).clamp(0, i128::from(MAX_STAMP)) as Stamp
}

/// The hybrid logical clock of one device. Keep it as long as the device has writes that the server has not saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hlc {
    /// Breaks ties: the same for all documents of a device, different on every device.
    device: String,
    /// The newest stamp issued by this clock, or observed within [`MAX_DRIFT_MS`] of the wall clock.
    last: Stamp,
}

impl Hlc {
    /// Creates a clock that has observed no stamps.
    pub fn new(device: impl Into<String>) -> Self {
        Self { device: device.into(), last: 0 }
    }

    /// Returns the id of the device, the tie breaker of its writes.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Returns the newest stamp that applies to all keys.
    pub fn last(&self) -> Stamp {
        self.last
    }

    /// Observes a stamp of another device; it raises the clock to at most [`MAX_DRIFT_MS`] ahead of `now_ms`.
    pub fn observe(&mut self, stamp: Stamp, now_ms: u64) {
        self.last = self.last.max(stamp.min(stamp_of(now_ms.saturating_add(MAX_DRIFT_MS))));
    }

    /// Issues the stamp of a write made at `now_ms` to a key whose newest known stamp is `seen`. The stamp is newer than
    /// `seen` and newer than all earlier stamps of this clock, except that it never exceeds [`MAX_STAMP`].
    pub fn tick(&mut self, now_ms: u64, seen: Option<Stamp>) -> Stamp {
        // A wall clock that was set back is accepted, or the counter would run for hours. Twice the limit: once for
        // the push by other devices, once for the stamps issued from there.
        let limit = stamp_of(now_ms.saturating_add(2 * MAX_DRIFT_MS));
        let last = if self.last > limit { 0 } else { self.last };
        let own = stamp_of(now_ms).max(last + 1).min(MAX_STAMP);
        self.last = own;
        seen.map_or(own, |seen| own.max(seen.saturating_add(1))).min(MAX_STAMP)
    }

    /// Shifts the clock by `offset_ms`, the true time minus this device's time.
    pub fn correct(&mut self, offset_ms: i64) {
        self.last = shifted(self.last, offset_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000_000;

    #[test]
    fn tick_exceeds_the_seen_stamp_however_wrong_the_clock_is() {
        let mut clock = Hlc::new("a");
        let far_ahead = stamp_of(NOW + 400 * 24 * 3_600_000);
        assert_eq!(clock.tick(NOW, Some(far_ahead)), far_ahead + 1);
        assert_eq!(clock.tick(NOW, Some(MAX_STAMP)), MAX_STAMP);
        let first = clock.tick(NOW, None);
        assert!(clock.tick(NOW, None) > first, "rises within one millisecond");
        assert!(clock.tick(NOW - 1_000, None) > first, "rises when the clock is set back a little");
    }

    #[test]
    fn stamp_far_ahead_raises_the_clock_by_the_limit_only() {
        let mut clock = Hlc::new("a");
        clock.observe(stamp_of(NOW + 400 * 24 * 3_600_000), NOW);
        assert_eq!(clock.last(), stamp_of(NOW + MAX_DRIFT_MS));
        let pushed = clock.tick(NOW, None);
        assert!(clock.tick(NOW, None) > pushed, "later stamps rise from there");
        let mut clock = Hlc::new("a");
        clock.tick(NOW, Some(stamp_of(NOW * 2)));
        assert_eq!(time_of(clock.tick(NOW, None)), NOW, "a stamp seen on one key does not move the others");
    }

    #[test]
    fn clock_set_back_by_hours_is_accepted() {
        let mut clock = Hlc::new("a");
        clock.tick(NOW + 10 * 3_600_000, None);
        assert_eq!(clock.tick(NOW, None), stamp_of(NOW));
    }

    #[test]
    fn stamps_stay_exact_in_javascript() {
        assert!(stamp_of(NOW) < MAX_STAMP);
        assert_eq!(shifted(5, -1), 0);
        assert_eq!(shifted(MAX_STAMP, 1), MAX_STAMP);
    }
}
