//! PURE: pending updates of a [`Replica`]: updates with missing dependencies, kept until the dependencies arrive.
//!
//! Each pending update lists the clocks that it needs, so that releasing a thousand of them costs about as much as applying
//! them.

use bytes::Bytes;
use syncline_protocol::update::{StateClock, Verdict, needs};

use super::clocks::Clocks;
use super::replica::{Replica, Taken, Weight};

/// Limits for pending updates.
#[derive(Debug, Clone, Copy)]
pub struct HeldLimits {
    /// Number of pending updates.
    pub updates: usize,
    /// Total size of the pending updates.
    pub bytes: usize,
}

impl Default for HeldLimits {
    fn default() -> Self {
        Self { updates: 1_000, bytes: 4 * 1024 * 1024 }
    }
}

impl HeldLimits {
    /// No limits, for updates that were accepted before.
    pub(crate) const NONE: Self = Self { updates: usize::MAX, bytes: usize::MAX };
}

#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) update: Bytes,
    nested: u64,
    /// Clients and the clocks that the document must reach before the update can be applied. Reached ones are removed
    /// from the end.
    needs: Vec<(u64, u64)>,
}

impl Held {
    fn waits(&mut self, clocks: &Clocks) -> bool {
        while self.needs.pop_if(|(client, next)| clocks.clock(*client) >= *next).is_some() {}
        !self.needs.is_empty()
    }
}

/// A released update broke the CRDT.
#[derive(Debug)]
pub(crate) struct Breaker;

impl Replica {
    /// The pending updates, in order of arrival.
    pub fn held(&self) -> impl ExactSizeIterator<Item = &Bytes> {
        self.held.iter().map(|held| &held.update)
    }

    /// Keeps an update with missing dependencies.
    pub(crate) fn hold(&mut self, update: &Bytes, verdict: &Verdict, limits: &HeldLimits) -> Taken {
        if self.held().any(|held| held == update) {
            return Taken::Known;
        }
        if self.held.len() >= limits.updates || self.held_bytes + update.len() > limits.bytes {
            return Taken::NoRoom;
        }
        // A copy, because a slice would keep the whole received frame in memory.
        let needs = needs(update, &self.clocks).unwrap_or_default();
        self.held.push(Held { update: Bytes::copy_from_slice(update), nested: verdict.nested, needs });
        self.held_bytes += update.len();
        Taken::Held
    }

    /// Applies every pending update whose dependencies have arrived, until a pass releases none. After an error the replica
    /// must be discarded.
    pub(crate) fn free_held(&mut self) -> Result<(), Breaker> {
        while !self.held.is_empty() {
            let mut still_held = Vec::new();
            let before = self.held.len();
            for mut held in std::mem::take(&mut self.held) {
                if held.waits(&self.clocks) || matches!(self.weigh(&held.update), Ok((Weight::Waits, _))) {
                    still_held.push(held);
                } else {
                    self.free(held)?;
                }
            }
            self.held = still_held;
            self.held_bytes = self.held().map(Bytes::len).sum();
            if self.held.len() == before {
                break;
            }
        }
        Ok(())
    }

    fn free(&mut self, held: Held) -> Result<(), Breaker> {
        let applied = self.bound_depth(&held.update, held.nested).and_then(|()| self.apply(&held.update));
        if applied.is_err() || self.crdt.has_missing() {
            return Err(Breaker);
        }
        self.freed.push(held.update);
        Ok(())
    }
}
