//! PURE: the state vector of a [`crate::Replica`], maintained in addition to its tree.

use std::collections::HashMap;

use syncline_protocol::update::{StateClock, update_ranges};

/// The next clock of every client, maintained so that yrs need not be asked for a copy of its state vector.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    next: HashMap<u64, u64>,
}

impl Clocks {
    /// Advances the clocks by an applied update.
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
