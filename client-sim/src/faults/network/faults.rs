//! The faults of a device's network, and those drawn for one connection. Each connection has its own random generator, so
//! that a seed, a device and a connection's number determine its faults.

use std::ops::RangeInclusive;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A range with both ends included.
pub(crate) type DrawRange = RangeInclusive<u64>;

/// The faults of one device's network. The default has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Faults {
    /// Connections are reset as soon as they are opened.
    pub refuse: bool,
    /// Connections are accepted but never answered, as by a captive portal.
    pub captive: bool,
    /// Nothing from the device is forwarded; connections stay open.
    pub stall_up: bool,
    /// Nothing from the server is forwarded; connections stay open.
    pub stall_down: bool,
    /// Every chunk is delayed by this many milliseconds. Drawn once per connection, which reorders connections against each
    /// other.
    pub delay_ms: Option<DrawRange>,
    /// Maximum bytes per second in each direction.
    pub bytes_per_s: Option<u64>,
    /// A connection is reset after this many bytes, counted in both directions.
    pub cut_after_bytes: Option<DrawRange>,
    /// A connection is reset after this many milliseconds.
    pub cut_after_ms: Option<DrawRange>,
    /// A connection stops forwarding in one or both directions after this many bytes, without being closed.
    pub silent_after_bytes: Option<DrawRange>,
    /// Percentage of connections that lose an answer: the server receives the bytes, the device receives no answer and is cut
    /// off, so that it sends them again.
    pub lost_answer_percent: u8,
}

/// The faults drawn for one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DrawnFaults {
    /// Delay of each chunk.
    pub delay: Duration,
    /// Reset after this many bytes.
    pub cut_after_bytes: Option<u64>,
    /// Reset after this time.
    pub cut_after: Option<Duration>,
    /// From byte `.0` on, stop forwarding up (`.1`) and down (`.2`).
    pub silent: Option<(u64, bool, bool)>,
    /// The connection is cut instead of forwarding the answer to the device's chunk with this number (from 1).
    pub lost_answer_after: Option<u64>,
}

/// Range of the chunk whose answer is lost; chunk 1 is the WebSocket upgrade.
const LOST_ANSWER_CHUNKS: RangeInclusive<u64> = 2..=6;

impl DrawnFaults {
    /// Draws the faults of connection `number` of device `device`.
    pub(crate) fn draw(faults: &Faults, seed: u64, device: u64, number: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(mix(mix(seed, device), number));
        // Always the same draws in the same order, so that switching one fault off does not change the others.
        let delay = draw(&mut rng, faults.delay_ms.as_ref());
        let cut_after_bytes = draw(&mut rng, faults.cut_after_bytes.as_ref());
        let cut_after = draw(&mut rng, faults.cut_after_ms.as_ref());
        let silent_at = draw(&mut rng, faults.silent_after_bytes.as_ref());
        let (up, down) = [(true, true), (true, false), (false, true)][rng.random_range(0..3)];
        let loses = rng.random_range(0..100) < faults.lost_answer_percent;
        let chunk = rng.random_range(LOST_ANSWER_CHUNKS);
        Self {
            delay: Duration::from_millis(delay.unwrap_or(0)),
            cut_after_bytes,
            cut_after: cut_after.map(Duration::from_millis),
            silent: silent_at.map(|at| (at, up, down)),
            lost_answer_after: loses.then_some(chunk),
        }
    }
}

fn draw(rng: &mut StdRng, span: Option<&DrawRange>) -> Option<u64> {
    // Drawn even when the fault is off, see above.
    let share = rng.random::<f64>();
    span.map(|span| {
        let width = span.end().saturating_sub(*span.start()).saturating_add(1);
        (span.start() + (share * width as f64) as u64).min(*span.end())
    })
}

/// Combines two numbers into a seed (the finalizer of SplitMix64).
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.wrapping_add(b.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_faults_depend_on_the_seed_alone() {
        let faults = Faults {
            delay_ms: Some(0..=1000),
            cut_after_bytes: Some(1..=100_000),
            cut_after_ms: Some(5..=500),
            lost_answer_percent: 50,
            ..Faults::default()
        };
        let drawn = |seed| (0..20).map(|number| DrawnFaults::draw(&faults, seed, 3, number)).collect::<Vec<_>>();
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
        assert!(drawn(7).windows(2).any(|pair| pair[0] != pair[1]), "every connection has the same faults");
    }

    #[test]
    fn drawn_values_are_in_range_and_independent_of_other_faults() {
        let mut faults = Faults {
            delay_ms: Some(5..=9),
            cut_after_bytes: Some(10..=10),
            cut_after_ms: Some(1..=3),
            ..Faults::default()
        };
        for number in 0..200 {
            let all = DrawnFaults::draw(&faults, 1, 2, number);
            assert!((5..=9).contains(&(all.delay.as_millis() as u64)), "{all:?}");
            assert_eq!(all.cut_after_bytes, Some(10));
            faults.cut_after_bytes = None;
            let fewer = DrawnFaults::draw(&faults, 1, 2, number);
            assert_eq!((fewer.delay, fewer.cut_after, fewer.cut_after_bytes), (all.delay, all.cut_after, None));
            faults.cut_after_bytes = Some(10..=10);
        }
    }

    #[test]
    fn default_faults_draw_none() {
        let drawn = DrawnFaults::draw(&Faults::default(), 1, 2, 3);
        let none = (drawn.cut_after_bytes, drawn.cut_after, drawn.silent, drawn.lost_answer_after);
        assert_eq!((drawn.delay, none), (Duration::ZERO, (None, None, None, None)));
    }
}
