//! PURE: the next clock of every client of a document.

use std::collections::HashMap;

use syncline_protocol::update::{StateClock, update_ranges};

/// The next clock of every client: the state vector, kept up to date without asking yrs for a copy.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    next: HashMap<u64, u64>,
}

impl Clocks {
    /// Notes what an integrated update brought.
    pub(crate) fn advance(&mut self, update: &[u8]) {
        for range in update_ranges(update) {
            let clock = self.next.entry(range.client).or_default();
            *clock = range.end.max(*clock);
        }
    }
}

impl StateClock for Clocks {
    fn clock(&self, client: u64) -> u64 {
        self.next.get(&client).copied().unwrap_or(0)
    }
}
