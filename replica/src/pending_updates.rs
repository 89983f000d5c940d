//! PURE: pending updates of a [`Replica`]: updates with missing dependencies, kept until the dependencies arrive.
//!
//! Each pending update lists the clocks that it needs, so that releasing a thousand of them costs about as much as applying
//! them.

use bytes::Bytes;
use syncline_protocol::update::{StateClock, Verdict, needs};

use super::clocks::Clocks;
use super::replica::{Relation, Replica, UpdateOutcome};

/// Limits for pending updates.
#[derive(Debug, Clone, Copy)]
pub struct PendingLimits {
    /// Number of pending updates.
    pub updates: usize,
    /// Total size of the pending updates.
    pub bytes: usize,
}

impl Default for PendingLimits {
    fn default() -> Self {
        Self { updates: 1_000, bytes: 4 * 1024 * 1024 }
    }
}

impl PendingLimits {
    /// No limits, for updates that were accepted before.
    pub(crate) const NONE: Self = Self { updates: usize::MAX, bytes: usize::MAX };
}

#[derive(Debug)]
pub(crate) struct PendingUpdate {
    pub(crate) update: Bytes,
    nested: u64,
    /// Clients and the clocks that the document must reach before the update can be applied. Reached ones are removed
    /// from the end.
    needs: Vec<(u64, u64)>,
}

impl PendingUpdate {
    fn has_unmet_needs(&mut self, clocks: &Clocks) -> bool {
        while self.needs.pop_if(|(client, next)| clocks.clock(*client) >= *next).is_some() {}
        !self.needs.is_empty()
    }
}

/// A released update broke the CRDT.
#[derive(Debug)]
pub(crate) struct BrokenByUpdate;

impl Replica {
    /// The pending updates, in order of arrival.
    pub fn pending(&self) -> impl ExactSizeIterator<Item = &Bytes> {
        self.pending.iter().map(|pending| &pending.update)
    }

    /// Keeps an update with missing dependencies.
    pub(crate) fn add_pending(&mut self, update: &Bytes, verdict: &Verdict, limits: &PendingLimits) -> UpdateOutcome {
        if self.pending().any(|pending| pending == update) {
            return UpdateOutcome::Known;
        }
        if self.pending.len() >= limits.updates || self.pending_bytes + update.len() > limits.bytes {
            return UpdateOutcome::NoRoom;
        }
        // A copy, because a slice would keep the whole received frame in memory.
        let needs = needs(update, &self.clocks).unwrap_or_default();
        self.pending.push(PendingUpdate { update: Bytes::copy_from_slice(update), nested: verdict.nested, needs });
        self.pending_bytes += update.len();
        UpdateOutcome::Pending
    }

    /// Applies every pending update whose dependencies have arrived, until a pass releases none. After an error the replica
    /// must be discarded.
    pub(crate) fn apply_released(&mut self) -> Result<(), BrokenByUpdate> {
        while !self.pending.is_empty() {
            let mut still_pending = Vec::new();
            let before = self.pending.len();
            for mut pending in std::mem::take(&mut self.pending) {
                if pending.has_unmet_needs(&self.clocks)
                    || matches!(self.classify(&pending.update), Ok((Relation::Pending, _)))
                {
                    still_pending.push(pending);
                } else {
                    self.apply_pending(pending)?;
                }
            }
            self.pending = still_pending;
            self.pending_bytes = self.pending().map(Bytes::len).sum();
            if self.pending.len() == before {
                break;
            }
        }
        Ok(())
    }

    fn apply_pending(&mut self, pending: PendingUpdate) -> Result<(), BrokenByUpdate> {
        let applied = self.check_depth(&pending.update, pending.nested).and_then(|()| self.apply(&pending.update));
        if applied.is_err() || self.crdt.has_missing() {
            return Err(BrokenByUpdate);
        }
        self.released.push(pending.update);
        Ok(())
    }
}
