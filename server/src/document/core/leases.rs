//! PURE: the leases of a document: who is asked for what, who is owed which acknowledgements, and who was closed.

use std::collections::BTreeSet;

use super::step2::Step2State;
use crate::document::lease_map::LeaseMap;
use crate::document::outcome::Acks;
use crate::ids::LeaseId;

/// Cost of a session that has the document open, without the session itself.
const LEASE_BYTES: usize = 512;

/// The leases of one document.
#[derive(Debug)]
pub(super) struct Leases {
    states: LeaseMap<Step2State>,
    /// Number of native leases in `states`.
    native: usize,
    /// Memory of the updates in `states` that could not be stored, in bytes.
    unstored_bytes: usize,
    /// Leases closed by the document that have not left yet: their events are ignored.
    ended: BTreeSet<LeaseId>,
}

impl Leases {
    pub(super) fn new() -> Self {
        Self { states: LeaseMap::new(), native: 0, unstored_bytes: 0, ended: BTreeSet::new() }
    }

    pub(super) fn open(&mut self, lease: LeaseId, acks: Acks) {
        let state = Step2State::new(acks);
        self.native += usize::from(state.is_native());
        let before = self.states.insert(lease, state);
        self.uncount(before);
    }

    pub(super) fn leave(&mut self, lease: LeaseId) {
        let left = self.states.remove(lease);
        self.uncount(left);
        self.ended.remove(&lease);
    }

    fn uncount(&mut self, state: Option<Step2State>) {
        if let Some(state) = state {
            self.native -= usize::from(state.is_native());
            self.unstored_bytes -= state.unstored_bytes();
        }
    }

    /// The document has closed this lease: its events are ignored until it leaves.
    pub(super) fn end(&mut self, lease: LeaseId) {
        self.ended.insert(lease);
    }

    pub(super) fn has_ended(&self, lease: LeaseId) -> bool {
        self.ended.contains(&lease)
    }

    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    pub(super) fn contains(&self, lease: LeaseId) -> bool {
        self.states.get(lease).is_some()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = LeaseId> {
        self.states.iter().map(|(lease, _)| lease)
    }

    pub(super) fn get(&self, lease: LeaseId) -> Option<&Step2State> {
        self.states.get(lease)
    }

    pub(super) fn is_native(&self, lease: LeaseId) -> bool {
        self.states.get(lease).is_some_and(Step2State::is_native)
    }

    pub(super) fn has_native(&self) -> bool {
        self.native > 0
    }

    /// Current round of a session; acks of earlier rounds are not sent.
    pub(super) fn round(&self, lease: LeaseId) -> u32 {
        self.states.get(lease).map_or(0, Step2State::round)
    }

    /// The leases whose echoes are held back.
    pub(super) fn holding_echoes(&self) -> impl Iterator<Item = LeaseId> {
        self.states.iter().filter(|(_, state)| state.holds_echoes()).map(|(lease, _)| lease)
    }

    /// Changes what a lease is asked for and owed; `None` if it is not open.
    pub(super) fn change<R>(&mut self, lease: LeaseId, change: impl FnOnce(&mut Step2State) -> R) -> Option<R> {
        let state = self.states.get_mut(lease)?;
        let before = state.unstored_bytes();
        let result = change(state);
        self.unstored_bytes = self.unstored_bytes + state.unstored_bytes() - before;
        Some(result)
    }

    /// Less is pending in the document than before. Returns the leases to be asked for what was not stored.
    pub(super) fn note_released(&mut self, pending_len: usize) -> impl Iterator<Item = LeaseId> {
        let states = self.states.iter_mut();
        states.filter_map(move |(lease, state)| state.note_released(pending_len).then_some(lease))
    }

    /// Estimated memory use in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.states.len() * LEASE_BYTES + self.unstored_bytes
    }
}
