//! PURE: a state vector that is independent of the document.

use std::collections::BTreeMap;

use syncline_protocol::update::StateClock;

/// A state vector: the next clock of each client.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Known(BTreeMap<u64, u64>);

impl Known {
    /// The next clock of a client; 0 when the client is unknown.
    pub fn clock(&self, client: u64) -> u64 {
        self.0.get(&client).copied().unwrap_or(0)
    }

    /// Number of clients.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there are no clients.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every client and its next clock.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(client, clock)| (*client, *clock))
    }
}

impl StateClock for Known {
    fn clock(&self, client: u64) -> u64 {
        Known::clock(self, client)
    }
}

impl FromIterator<(u64, u64)> for Known {
    fn from_iter<T: IntoIterator<Item = (u64, u64)>>(clocks: T) -> Self {
        Self(clocks.into_iter().collect())
    }
}
