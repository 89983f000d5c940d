//! PURE: what a client has according to its step 1: the clocks of a state vector, in little memory.

use std::collections::BTreeMap;

use syncline_protocol::update::state_vector_entries;

/// The most memory that the clocks of one client take: 4,096 entries.
const MAX_BYTES: usize = 64 * 1024;
const ENTRY_BYTES: usize = size_of::<(u64, u64)>();

/// The clocks of a state vector.
#[derive(Debug)]
pub(super) enum ClientClocks {
    /// Pairs of client and clock, sorted by client.
    Entries(Box<[(u64, u64)]>),
    /// There were too many to keep: any clock counts as reached.
    TooMany,
}

/// Those of a client that has nothing.
impl Default for ClientClocks {
    fn default() -> Self {
        Self::Entries(Box::default())
    }
}

impl ClientClocks {
    /// Reads a state vector. `room_bytes`: memory that its clocks may take at most.
    pub(super) fn read(state_vector: &[u8], room_bytes: usize) -> Self {
        let max_entries = room_bytes.min(MAX_BYTES) / ENTRY_BYTES;
        if state_vector_entries(state_vector).nth(max_entries).is_some() {
            return Self::TooMany;
        }
        // The last entry of a client is valid.
        let sorted: BTreeMap<u64, u64> = state_vector_entries(state_vector).collect();
        Self::Entries(sorted.into_iter().collect())
    }

    /// Clock up to which the client has the structs of `author`.
    pub(super) fn clock(&self, author: u64) -> u64 {
        match self {
            Self::Entries(entries) => {
                let index = entries.binary_search_by_key(&author, |&(author, _)| author);
                index.ok().and_then(|index| entries.get(index)).map_or(0, |&(_, clock)| clock)
            }
            Self::TooMany => u64::MAX,
        }
    }

    /// True if `other` has everything that these clocks have, and more.
    pub(super) fn are_behind(&self, other: &Self) -> bool {
        other.have_all_of(self) && !self.have_all_of(other)
    }

    fn have_all_of(&self, other: &Self) -> bool {
        match other {
            Self::Entries(entries) => entries.iter().all(|&(author, clock)| self.clock(author) >= clock),
            Self::TooMany => false,
        }
    }

    /// Memory of the entries, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Entries(entries) => entries.len() * ENTRY_BYTES,
            Self::TooMany => 0,
        }
    }
}
