//! PURE: step 1 messages that are not answered immediately. A diff takes time linear in the document, so a client that
//! sends step 1 faster than it reads, or faster than they are answered, is sent one diff for all of them.
//!
//! The newest state vector is kept: the diff from it has everything that the older ones ask for and the client has not
//! received, and every change that was not sent because the reader was behind.

use bytes::Bytes;
use syncline_protocol::update::EMPTY_STATE_VECTOR;

use crate::document::lease_map::LeaseMap;
use crate::ids::LeaseId;

/// A longer state vector is not kept: the client is sent the whole document.
const MAX_OWED_BYTES: usize = 16 * 1024;

/// The newest state vector of each lease whose step 1 is not answered yet.
#[derive(Debug)]
pub(super) struct OwedDiffs {
    state_vectors: LeaseMap<Bytes>,
    bytes: usize,
}

impl OwedDiffs {
    pub(super) fn new() -> Self {
        Self { state_vectors: LeaseMap::new(), bytes: 0 }
    }

    /// Keeps a step 1 for later.
    pub(super) fn defer(&mut self, lease: LeaseId, state_vector: &Bytes) {
        // Copied: it may be a slice of a much longer message.
        let is_short = state_vector.len() <= MAX_OWED_BYTES;
        let kept =
            if is_short { Bytes::copy_from_slice(state_vector) } else { Bytes::from_static(&EMPTY_STATE_VECTOR) };
        self.bytes += kept.len();
        let before = self.state_vectors.insert(lease, kept);
        self.bytes -= before.map_or(0, |before| before.len());
    }

    /// The state vector of a step 1 that was deferred; none is owed any more.
    pub(super) fn take(&mut self, lease: LeaseId) -> Option<Bytes> {
        let owed = self.state_vectors.remove(lease)?;
        self.bytes -= owed.len();
        Some(owed)
    }

    /// Bytes of the state vectors.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
