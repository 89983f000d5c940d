//! A hybrid logical clock: wall time, and a count where wall time does not tell writes apart.
//!
//! A [`Stamp`] is one integer, as npm `y-lwwmap` 0.2.0 has it: milliseconds since 1970 times [`TICKS_PER_MS`], plus the
//! count. It stays below 2^53 until the year 2065.
//!
//! A wrong clock is contained: what was seen on *one* key must be exceeded on that key, however far ahead it is, or a
//! later write would lose. For all other keys it raises the clock by [`MAX_DRIFT_MS`] at most.

use super::value::MAX_INTEGER;

/// Stamps in a millisecond.
pub const TICKS_PER_MS: u64 = 3_000;

/// How far ahead of its wall clock a device lets others push it, and how wrong its own clock may be before
/// [`super::LwwMap::restamp`] does something: five minutes.
pub const MAX_DRIFT_MS: u64 = 5 * 60 * 1_000;

/// The largest stamp there can be.
pub const MAX_STAMP: Stamp = MAX_INTEGER as u64;

/// A moment, comparable across devices.
pub type Stamp = u64;

/// The stamp of a wall-clock time.
pub fn stamp_of(time_ms: u64) -> Stamp {
    time_ms.saturating_mul(TICKS_PER_MS).min(MAX_STAMP)
}

/// The wall-clock time of a stamp.
pub fn time_of(stamp: Stamp) -> u64 {
    stamp / TICKS_PER_MS
}

/// A stamp moved by a correction of the clock, within what stamps can be.
pub fn shifted(stamp: Stamp, offset_ms: i64) -> Stamp {
    let offset = i128::from(offset_ms) * i128::from(TICKS_PER_MS);
    // Clamped to the range of a stamp, so it fits.
    (i128::from(stamp) + offset).clamp(0, i128::from(MAX_STAMP)) as Stamp
}

/// The clock of one device. Keep it as long as the device has writes that are not saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hlc {
    /// Who breaks ties: the same for all documents of the device, different for every device.
    device: String,
    /// The newest stamp given out, or seen and not too far ahead.
    last: Stamp,
}

impl Hlc {
    /// A clock that has seen nothing.
    pub fn new(device: impl Into<String>) -> Self {
        Self { device: device.into(), last: 0 }
    }

    /// The device's id.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The newest stamp that counts for all keys.
    pub fn last(&self) -> Stamp {
        self.last
    }

    /// Takes note of somebody's stamp; what is more than [`MAX_DRIFT_MS`] ahead of `now_ms` counts only so far.
    pub fn observe(&mut self, stamp: Stamp, now_ms: u64) {
        self.last = self.last.max(stamp.min(stamp_of(now_ms.saturating_add(MAX_DRIFT_MS))));
    }

    /// The stamp of a write made at `now_ms` to something whose newest seen stamp is `seen`: newer than that, and
    /// newer than this device's writes before. At [`MAX_STAMP`] it stays there.
    pub fn tick(&mut self, now_ms: u64, seen: Option<Stamp>) -> Stamp {
        // A clock that was set back is believed, or it would count for hours. Twice the limit: what others pushed it
        // to, and the stamps given out from there.
        let limit = stamp_of(now_ms.saturating_add(2 * MAX_DRIFT_MS));
        let last = if self.last > limit { 0 } else { self.last };
        let own = stamp_of(now_ms).max(last + 1).min(MAX_STAMP);
        self.last = own;
        seen.map_or(own, |seen| own.max(seen.saturating_add(1))).min(MAX_STAMP)
    }

    /// Corrects the clock after `offset_ms` (true time minus ours) was learned.
    pub fn correct(&mut self, offset_ms: i64) {
        self.last = shifted(self.last, offset_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000_000;

    #[test]
    fn a_write_that_has_seen_another_is_newer_however_wrong_the_clocks_are() {
        let mut clock = Hlc::new("a");
        let far_ahead = stamp_of(NOW + 400 * 24 * 3_600_000);
        assert_eq!(clock.tick(NOW, Some(far_ahead)), far_ahead + 1);
        assert_eq!(clock.tick(NOW, Some(MAX_STAMP)), MAX_STAMP);
        let first = clock.tick(NOW, None);
        assert!(clock.tick(NOW, None) > first, "also within a millisecond");
        assert!(clock.tick(NOW - 1_000, None) > first, "also when the clock is set back a little");
    }

    #[test]
    fn a_stamp_far_ahead_raises_the_clock_by_the_limit_only() {
        let mut clock = Hlc::new("a");
        clock.observe(stamp_of(NOW + 400 * 24 * 3_600_000), NOW);
        assert_eq!(clock.last(), stamp_of(NOW + MAX_DRIFT_MS));
        let pushed = clock.tick(NOW, None);
        assert!(clock.tick(NOW, None) > pushed, "and goes on from there");
        let mut clock = Hlc::new("a");
        clock.tick(NOW, Some(stamp_of(NOW * 2)));
        assert_eq!(time_of(clock.tick(NOW, None)), NOW, "another key is not moved by what was seen on one");
    }

    #[test]
    fn a_clock_set_back_by_hours_is_believed() {
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
