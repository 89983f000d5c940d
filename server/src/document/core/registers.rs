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
pub(super) struct Registers {
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

impl Registers {
    /// The registers of a document that was just loaded; `None` if it has none.
    pub(super) fn of(document: &HubDocument) -> Option<Box<Self>> {
        let mut registers: Option<Box<Self>> = None;
        document.read_registers().for_each(|(name, state)| registers.get_or_insert_default().decide(&name, &state));
        registers
    }

    fn decide(&mut self, name: &str, state: &RegisterState) {
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

    fn decided(&self, name: &str) -> Option<RegisterState> {
        self.decided.get(name).and_then(|state| RegisterState::decode(state))
    }

    /// Estimated memory use in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes + self.decided.len() * REGISTER_BYTES + self.refused.len() * size_of::<u128>()
    }
}

impl Core {
    /// Records a state that the document wrote itself, or that continues from the decided one.
    pub(super) fn decided(&mut self, name: &str, state: &RegisterState) {
        self.registers.get_or_insert_default().decide(name, state);
    }

    /// Remembers that a write was refused, so that a repeated proposal gets the same result.
    pub(super) fn refused(&mut self, id: u128) {
        if self.has_refused(id) {
            return;
        }
        let refused = &mut self.registers.get_or_insert_default().refused;
        if refused.len() == MAX_REFUSED {
            refused.pop_front();
        }
        refused.push_back(id);
    }

    /// True if the write was refused before.
    pub(super) fn has_refused(&self, id: u128) -> bool {
        self.registers.as_ref().is_some_and(|registers| registers.refused.contains(&id))
    }

    /// True if a refused write is among the ancestors of this state.
    fn accepts_refused(&self, state: &RegisterState) -> bool {
        state.ids.iter().any(|&id| self.has_refused(id))
    }

    /// Checks the registers that the last update changed against the decisions and restores those that
    /// conflict.
    pub(super) fn hold_registers(&mut self, effects: &mut Vec<Effect>) {
        for name in self.document.take_touched() {
            let now = self.document.read_register(&name);
            let decided = self.registers.as_ref().and_then(|registers| registers.decided(&name));
            let is_kept = match (&now, &decided) {
                (None, decided) => decided.is_none(),
                (Some(now), None) => !self.accepts_refused(now),
                (Some(now), Some(decided)) => {
                    now == decided || (now.ids.contains(&decided.version.id) && !self.accepts_refused(now))
                }
            };
            match (now, decided) {
                (Some(now), _) if is_kept => self.decided(&name, &now),
                (None, _) if is_kept => {}
                (_, Some(decided)) => self.write_register(&name, &decided, effects),
                (_, None) => {
                    let update = self.document.clear_register(&name);
                    update.into_iter().for_each(|update| self.change_own(update, effects));
                }
            }
        }
        // Our own writes need no check.
        self.document.take_touched();
    }

    /// Writes a register as the document's own edit.
    pub(super) fn write_register(&mut self, name: &str, state: &RegisterState, effects: &mut Vec<Effect>) {
        let update = self.document.write_register(name, state);
        self.change_own(update, effects);
    }

    /// Logs and broadcasts an edit that the document made itself.
    fn change_own(&mut self, update: Bytes, effects: &mut Vec<Effect>) {
        self.append(update.clone(), effects);
        self.broadcast(Frame::at(self.last, Message::Update(update)), None, effects);
    }
}
