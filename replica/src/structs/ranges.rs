//! PURE: a set of clocks of one client, as ranges that are neither adjacent nor overlapping.

use std::collections::BTreeMap;
use std::ops::Range;

/// Approximate memory use of one range, in a half-filled tree node.
pub(super) const RANGE_BYTES: usize = 16;

/// A set of clocks. The deleted clocks of most clients are none or one range.
#[derive(Debug, Default, PartialEq, Eq)]
#[expect(clippy::box_collection, reason = "a map is larger, and every client has one")]
pub(super) enum Ranges {
    #[default]
    None,
    One(u32, u32),
    /// From start to end.
    Many(Box<BTreeMap<u32, u32>>),
}

impl Ranges {
    /// Number of ranges.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(..) => 1,
            Self::Many(ranges) => ranges.len(),
        }
    }

    /// The ranges in ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(start, end) => (Some((*start, *end)), None),
            Self::Many(ranges) => (None, Some(ranges.iter().map(|(start, end)| (*start, *end)))),
        };
        one.into_iter().chain(many.into_iter().flatten()).map(|(start, end)| u64::from(start)..u64::from(end))
    }

    /// The first range that ends after `clock`.
    pub(super) fn next(&self, clock: u64) -> Option<Range<u64>> {
        let clock = to_u32(clock);
        let found = match self {
            Self::None => None,
            Self::One(start, end) => Some((*start, *end)),
            Self::Many(ranges) => {
                let before = ranges.range(..=clock).next_back().filter(|(_, end)| **end > clock);
                before.or_else(|| ranges.range(clock..).next()).map(|(start, end)| (*start, *end))
            }
        };
        found.filter(|(_, end)| *end > clock).map(|(start, end)| u64::from(start)..u64::from(end))
    }

    /// True when the set contains all of `range`.
    pub(super) fn contains(&self, range: &Range<u64>) -> bool {
        self.next(range.start).is_some_and(|found| found.start <= range.start && range.end <= found.end)
    }

    /// Adds a range. True when the set did not contain all of it before.
    pub(super) fn insert(&mut self, range: Range<u64>) -> bool {
        if range.is_empty() || self.contains(&range) {
            return false;
        }
        let (mut start, mut end) = (to_u32(range.start), to_u32(range.end));
        match self {
            Self::None => *self = Self::One(start, end),
            Self::One(first, last) if start <= *last && *first <= end => {
                *self = Self::One(start.min(*first), end.max(*last));
            }
            Self::One(first, last) => {
                *self = Self::Many(Box::new(BTreeMap::from([(*first, *last), (start, end)])));
            }
            Self::Many(ranges) => {
                // Absorb the ranges that are adjacent or overlap.
                while let Some((&first, &last)) = ranges.range(..=end).next_back().filter(|(_, last)| **last >= start) {
                    ranges.remove(&first);
                    (start, end) = (start.min(first), end.max(last));
                }
                ranges.insert(start, end);
            }
        }
        true
    }
}

/// Lossless: the scanner refuses clocks above 2^31 - 1.
fn to_u32(clock: u64) -> u32 {
    u32::try_from(clock).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_the_same_clocks_as_a_plain_set() {
        let mut number = 1_u64;
        let mut random = |below: u64| {
            number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (number >> 33) % below
        };
        for round in 0..300 {
            let (mut ranges, mut clocks) = (Ranges::default(), vec![false; 64]);
            for _ in 0..random(40) {
                let start = random(60);
                let range = start..start + random(5);
                let is_new = range.clone().any(|clock| !clocks[clock as usize]);
                assert_eq!(ranges.insert(range.clone()), is_new, "round {round}: {range:?} into {ranges:?}");
                range.for_each(|clock| clocks[clock as usize] = true);
            }
            let held: Vec<u64> = ranges.iter().flatten().collect();
            let wanted: Vec<u64> = (0..64).filter(|clock| clocks[*clock as usize]).collect();
            assert_eq!(held, wanted, "round {round}");
            assert_eq!(ranges.iter().count(), ranges.len());
            for (one, next) in ranges.iter().zip(ranges.iter().skip(1)) {
                assert!(one.end < next.start, "round {round}: adjacent ranges: {ranges:?}");
            }
            for start in 0..60 {
                for len in 1..4 {
                    let range = start..start + len;
                    let all = range.clone().all(|clock| clocks[clock as usize]);
                    assert_eq!(ranges.contains(&range), all, "round {round}: {range:?} in {ranges:?}");
                }
            }
        }
    }
}
