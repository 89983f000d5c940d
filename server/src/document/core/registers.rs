//! PURE: keeps decisions on versioned registers final.
//!
//! A decision is relayed before it is on disk, like every change. If the server crashes in between, it
//! decides again, and a client that received the lost decision sends it back as an ordinary change: the CRDT
//! would then pick a winner by chance. So an update's effect on a register counts only if it continues from
//! the state decided here and accepts no write that was refused here; otherwise the document writes its
//! decision again, on top.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use syncline_replica::{HubDocument, RegisterState};

use super::Core;
use crate::document::event::Effect;
use crate::document::frame::{Frame, Message};

/// Refused writes remembered; the oldest are dropped.
const MAX_REFUSED: usize = 1_000;
/// Memory of a register here, besides its name and its state.
const REGISTER_BYTES: usize = 96;

/// Decisions of one document.
#[derive(Debug, Default)]
pub(super) struct RegisterDecisions {
    /// State of each register, as decided here or as found when the document was loaded. Encoded: a decoded
    /// value may take twenty times the memory.
    decided: BTreeMap<Arc<str>, Bytes>,
    /// Bytes of the names and states in `decided`.
    bytes: usize,
    /// Ids of the most recently refused writes. After a crash another client may send a lost decision that
    /// accepted one of them, although its author received the refusal; the base of such a write may
    /// also arrive after the refusal.
    refused: VecDeque<u128>,
}

impl RegisterDecisions {
    /// The registers of a document that was just loaded; `None` if it has none.
    pub(super) fn of(document: &HubDocument) -> Option<Box<Self>> {
        let mut decisions: Option<Box<Self>> = None;
        document.read_registers().for_each(|(name, state)| decisions.get_or_insert_default().set(&name, &state));
        decisions
    }

    fn set(&mut self, name: &str, state: &RegisterState) {
        let state = state.encode();
        self.bytes += state.len();
        match self.decided.get_mut(name) {
            Some(before) => self.bytes -= std::mem::replace(before, state).len(),
            None => {
                self.bytes += name.len();
                self.decided.insert(name.into(), state);
            }
        }
    }

    fn get(&self, name: &str) -> Option<RegisterState> {
        self.decided.get(name).and_then(|state| RegisterState::decode(state))
    }

    /// Estimated memory use in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes + self.decided.len() * REGISTER_BYTES + self.refused.len() * size_of::<u128>()
    }
}

impl Core {
    /// Records a state that the document wrote itself, or that continues from the decided one.
    pub(super) fn record_decision(&mut self, name: &str, state: &RegisterState) {
        self.decisions.get_or_insert_default().set(name, state);
    }

    /// Remembers that a write was refused, so that a repeated proposal gets the same result.
    pub(super) fn record_refusal(&mut self, id: u128) {
        if self.was_refused(id) {
            return;
        }
        let refused = &mut self.decisions.get_or_insert_default().refused;
        if refused.len() == MAX_REFUSED {
            refused.pop_front();
        }
        refused.push_back(id);
    }

    /// True if the write was refused before.
    pub(super) fn was_refused(&self, id: u128) -> bool {
        self.decisions.as_ref().is_some_and(|decisions| decisions.refused.contains(&id))
    }

    /// True if a refused write is among the ancestors of this state.
    fn follows_refused_write(&self, state: &RegisterState) -> bool {
        state.ids.iter().any(|&id| self.was_refused(id))
    }

    /// Checks the registers that the last update changed against the decisions and restores those that
    /// conflict.
    pub(super) fn enforce_decisions(&mut self, effects: &mut Vec<Effect>) {
        for name in self.document.take_touched() {
            let now = self.document.read_register(&name);
            let decided = self.decisions.as_ref().and_then(|decisions| decisions.get(&name));
            let is_kept = match (&now, &decided) {
                (None, decided) => decided.is_none(),
                (Some(now), None) => !self.follows_refused_write(now),
                (Some(now), Some(decided)) => {
                    now == decided || (now.ids.contains(&decided.version.id) && !self.follows_refused_write(now))
                }
            };
            match (now, decided) {
                (Some(now), _) if is_kept => self.record_decision(&name, &now),
                (None, _) if is_kept => {}
                (_, Some(decided)) => self.write_register(&name, &decided, effects),
                (_, None) => {
                    let update = self.document.clear_register(&name);
                    update.into_iter().for_each(|update| self.apply_own_edit(update, effects));
                }
            }
        }
        // Our own writes need no check.
        self.document.take_touched();
    }

    /// Writes a register as the document's own edit.
    pub(super) fn write_register(&mut self, name: &str, state: &RegisterState, effects: &mut Vec<Effect>) {
        let update = self.document.write_register(name, state);
        self.apply_own_edit(update, effects);
    }

    /// Logs and broadcasts an edit that the document made itself.
    fn apply_own_edit(&mut self, update: Bytes, effects: &mut Vec<Effect>) {
        self.append(update.clone(), effects);
        self.broadcast(Frame::at(self.last, Message::Update(update)), None, effects);
    }
}
