//! PURE: the leases of a document: who is asked for what, who is owed which acknowledgements, and who was closed.

use std::collections::BTreeSet;

use super::step2::Step2State;
use crate::document::lease_map::LeaseMap;
use crate::document::outcome::Acks;
use crate::ids::LeaseId;

/// Cost of a session that has the document open, without the session itself.
const LEASE_BYTES: usize = 512;
/// While the leases of a document keep more than this, they keep no further clocks of clients.
const MAX_KEPT_BYTES: usize = 16 * 1024 * 1024;

/// The leases of one document.
#[derive(Debug)]
pub(super) struct Leases {
    states: LeaseMap<Step2State>,
    /// Number of native leases in `states`.
    native: usize,
    /// Memory of what `states` keep of their clients' messages, in bytes.
    kept_bytes: usize,
    /// Leases closed by the document that have not left yet: their events are ignored.
    ended: BTreeSet<LeaseId>,
}

impl Leases {
    pub(super) fn new() -> Self {
        Self { states: LeaseMap::new(), native: 0, kept_bytes: 0, ended: BTreeSet::new() }
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
            self.kept_bytes -= state.kept_bytes();
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
        let before = state.kept_bytes();
        let result = change(state);
        self.kept_bytes = self.kept_bytes + state.kept_bytes() - before;
        Some(result)
    }

    /// The client has sent a step 1, whether or not it is answered now.
    pub(super) fn note_step1(&mut self, lease: LeaseId, state_vector: &[u8]) {
        let room_bytes = MAX_KEPT_BYTES.saturating_sub(self.kept_bytes);
        self.change(lease, |step2| step2.note_step1(state_vector, room_bytes));
    }

    /// Less is pending in the document than before. Returns the leases to be asked for what was not stored.
    pub(super) fn note_released(&mut self, pending_len: usize) -> impl Iterator<Item = LeaseId> {
        let states = self.states.iter_mut();
        states.filter_map(move |(lease, state)| state.note_released(pending_len).then_some(lease))
    }

    /// Estimated memory use in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.states.len() * LEASE_BYTES + self.kept_bytes
    }
}
