//! What can be wrong with a network, and what of it one connection gets: drawn from the connection's own random
//! numbers, so that a seed and a connection's number say everything.

use std::ops::RangeInclusive;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// From and to, both included.
pub type Span = RangeInclusive<u64>;

/// The faults of one device's network. The default is a network without any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults {
    /// Connections are reset as soon as they are made.
    pub refuse: bool,
    /// Connections are taken, and nothing ever comes back: somebody else's login page.
    pub captive: bool,
    /// Nothing from the device arrives, and nothing says so.
    pub stall_up: bool,
    /// Nothing from the server arrives, and nothing says so.
    pub stall_down: bool,
    /// Every piece is late by this many milliseconds. Drawn once for each connection, which reorders connections
    /// against each other.
    pub delay_ms: Option<Span>,
    /// Most bytes in a second, in each direction.
    pub bytes_per_s: Option<u64>,
    /// A connection is reset in the middle of its traffic, after this many bytes of both directions.
    pub cut_after_bytes: Option<Span>,
    /// A connection is reset after this many milliseconds.
    pub cut_after_ms: Option<Span>,
    /// A connection goes silent in one or both directions after this many bytes, without being closed.
    pub silent_after_bytes: Option<Span>,
    /// Of 100 connections, how many lose an answer: the server has the bytes, the device hears nothing and is cut off.
    /// It will send them again.
    pub lost_answer_percent: u8,
}

/// What one connection is in for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    /// Each piece waits this long.
    pub delay: Duration,
    /// Reset after this many bytes.
    pub cut_after_bytes: Option<u64>,
    /// Reset after this time.
    pub cut_after: Option<Duration>,
    /// From the `.0`th byte: what of (up, down) goes silent.
    pub silent: Option<(u64, bool, bool)>,
    /// The answer to the device's piece with this number (from 1) is lost with the connection.
    pub lost_answer_after: Option<u64>,
}

/// Pieces a device sends before an answer is lost: the upgrade is the first.
const LOST_ANSWER_PIECES: RangeInclusive<u64> = 2..=6;

impl Fate {
    /// Draws the fate of connection `number` of device `device`.
    pub fn draw(faults: &Faults, seed: u64, device: u64, number: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(mix(mix(seed, device), number));
        // Always the same draws in the same order: switching one fault off leaves the others as they were.
        let delay = draw(&mut rng, faults.delay_ms.as_ref());
        let cut_after_bytes = draw(&mut rng, faults.cut_after_bytes.as_ref());
        let cut_after = draw(&mut rng, faults.cut_after_ms.as_ref());
        let silent_at = draw(&mut rng, faults.silent_after_bytes.as_ref());
        let (up, down) = [(true, true), (true, false), (false, true)][rng.random_range(0..3)];
        let loses = rng.random_range(0..100) < faults.lost_answer_percent;
        let piece = rng.random_range(LOST_ANSWER_PIECES);
        Self {
            delay: Duration::from_millis(delay.unwrap_or(0)),
            cut_after_bytes,
            cut_after: cut_after.map(Duration::from_millis),
            silent: silent_at.map(|at| (at, up, down)),
            lost_answer_after: loses.then_some(piece),
        }
    }
}

fn draw(rng: &mut StdRng, span: Option<&Span>) -> Option<u64> {
    // Drawn even when it is not wanted, see above.
    let share = rng.random::<f64>();
    span.map(|span| {
        let width = span.end().saturating_sub(*span.start()).saturating_add(1);
        (span.start() + (share * width as f64) as u64).min(*span.end())
    })
}

/// Two numbers to one seed (the finalizer of SplitMix64).
pub fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.wrapping_add(b.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_everything_and_another_seed_says_something_else() {
        let faults = Faults {
            delay_ms: Some(0..=1000),
            cut_after_bytes: Some(1..=100_000),
            cut_after_ms: Some(5..=500),
            lost_answer_percent: 50,
            ..Faults::default()
        };
        let fates = |seed| (0..20).map(|number| Fate::draw(&faults, seed, 3, number)).collect::<Vec<_>>();
        assert_eq!(fates(7), fates(7));
        assert_ne!(fates(7), fates(8));
        assert!(fates(7).windows(2).any(|pair| pair[0] != pair[1]), "every connection had the same fate");
    }

    #[test]
    fn what_is_drawn_lies_in_its_span_and_one_fault_less_changes_no_other() {
        let mut faults = Faults {
            delay_ms: Some(5..=9),
            cut_after_bytes: Some(10..=10),
            cut_after_ms: Some(1..=3),
            ..Faults::default()
        };
        for number in 0..200 {
            let all = Fate::draw(&faults, 1, 2, number);
            assert!((5..=9).contains(&(all.delay.as_millis() as u64)), "{all:?}");
            assert_eq!(all.cut_after_bytes, Some(10));
            faults.cut_after_bytes = None;
            let fewer = Fate::draw(&faults, 1, 2, number);
            assert_eq!((fewer.delay, fewer.cut_after, fewer.cut_after_bytes), (all.delay, all.cut_after, None));
            faults.cut_after_bytes = Some(10..=10);
        }
    }

    #[test]
    fn a_network_without_faults_lets_everything_pass() {
        let fate = Fate::draw(&Faults::default(), 1, 2, 3);
        let none = (fate.cut_after_bytes, fate.cut_after, fate.silent, fate.lost_answer_after);
        assert_eq!((fate.delay, none), (Duration::ZERO, (None, None, None, None)));
    }
}
