//! Addresses of a Hocuspocus session whose documents are not open: left by the client, or refused.

use std::collections::hash_map::RandomState;
use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher;

use crate::auth::Admission;

/// Documents whose rights are remembered after they were left: the default limit on open documents.
const MAX_LEFT: usize = 1_000;
/// Refused addresses of one session, 8 bytes each. A session with more is closed.
const MAX_DENIED: usize = 10_000;

/// Rights of documents that were left with Close. A provider that shares its socket and document name with a
/// destroyed one continues after that Close without a token: React's strict mode creates such pairs.
#[derive(Default)]
pub(super) struct LeftDocuments(VecDeque<(Box<str>, Admission)>);

impl LeftDocuments {
    pub(super) fn insert(&mut self, address: &str, granted: Admission) {
        if self.0.len() >= MAX_LEFT {
            self.0.pop_front();
        }
        self.0.push_back((address.into(), granted));
    }

    pub(super) fn contains(&self, address: &str) -> bool {
        self.0.iter().any(|(left, _)| **left == *address)
    }

    pub(super) fn remove(&mut self, address: &str) -> Option<Admission> {
        let at = self.0.iter().position(|(left, _)| **left == *address)?;
        self.0.remove(at).map(|(_, admission)| admission)
    }
}

/// Hashes of refused addresses.
#[derive(Default)]
pub(super) struct DeniedAddresses {
    hashes: HashSet<u64>,
    hasher: RandomState,
}

impl DeniedAddresses {
    /// Returns false if there are too many.
    pub(super) fn insert(&mut self, address: &str) -> bool {
        self.hashes.insert(self.hasher.hash_one(address));
        self.hashes.len() <= MAX_DENIED
    }

    pub(super) fn contains(&self, address: &str) -> bool {
        self.hashes.contains(&self.hasher.hash_one(address))
    }

    pub(super) fn remove(&mut self, address: &str) {
        self.hashes.remove(&self.hasher.hash_one(address));
    }
}
