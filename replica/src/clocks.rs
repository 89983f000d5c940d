//! PURE: the next clock of every client of a document.

use std::collections::HashMap;

use syncline_protocol::update::{ScanLimits, StateClock, Structs, update_ranges, verdict};

use super::growth::Crowd;

/// The next clock of every client: the state vector, kept up to date without asking yrs for a copy.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    next: HashMap<u64, u64>,
    pub(crate) crowd: Crowd,
}

impl Clocks {
    /// Notes what an integrated update brought.
    pub(crate) fn advance(&mut self, update: &[u8]) {
        for range in update_ranges(update) {
            let clock = self.next.entry(range.client).or_insert_with(|| {
                self.crowd.add(range.client);
                0
            });
            *clock = range.end.max(*clock);
        }
    }

    /// Every client and its next clock.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.next.iter().map(|(client, clock)| (*client, *clock))
    }

    /// How many clients there are.
    pub(crate) fn len(&self) -> usize {
        self.next.len()
    }

    /// True when an update inserts nothing beyond these.
    pub(crate) fn know_structs_of(&self, update: &[u8]) -> bool {
        let verdict = verdict(update, self, &ScanLimits::STORED);
        verdict.is_ok_and(|verdict| matches!(verdict.structs, Structs::None | Structs::Known))
    }
}

impl StateClock for Clocks {
    fn clock(&self, client: u64) -> u64 {
        self.next.get(&client).copied().unwrap_or(0)
    }
}
