//! PURE: keeps decisions on versioned registers final.
//!
//! A decision is relayed before it is on disk, like every change. If the server crashes in between, it
//! decides again, and a client that received the lost decision sends it as an ordinary change: the CRDT
//! would then pick a winner by chance. So an update's effect on a register counts only if it continues from
//! the state decided here and accepts no write that was refused here; otherwise the document writes its
//! decision again, on top. If it has none, it clears the register.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use syncline_replica::{HubDocument, RegisterState};

use super::Core;
use crate::document::event::Effect;
use crate::document::frame::{Frame, Message};

/// Refused writes remembered; the oldest are dropped.
const MAX_REFUSED: usize = 1_000;
/// Memory of a refused write: its id twice, with its share of a tree node.
const REFUSED_BYTES: usize = 64;
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
    refused: RefusedWrites,
}

/// The most recently refused writes, at most [`MAX_REFUSED`]; a restart forgets them. After a crash a client may still send a
/// lost decision that accepted one of them, and the base of a refused write may arrive after the refusal.
#[derive(Debug, Default)]
struct RefusedWrites {
    /// Oldest first.
    order: VecDeque<u128>,
    /// The same ids.
    ids: BTreeSet<u128>,
}

impl RefusedWrites {
    fn add(&mut self, id: u128) {
        if !self.ids.insert(id) {
            return;
        }
        if self.order.len() == MAX_REFUSED {
            self.order.pop_front().inspect(|oldest| _ = self.ids.remove(oldest));
        }
        self.order.push_back(id);
    }
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
        self.bytes + self.decided.len() * REGISTER_BYTES + self.refused.ids.len() * REFUSED_BYTES
    }
}

impl Core {
    /// Records a state that the document wrote itself, or that continues from the decided one.
    pub(super) fn record_decision(&mut self, name: &str, state: &RegisterState) {
        self.decisions.get_or_insert_default().set(name, state);
    }

    /// Remembers that a write was refused, so that a repeated proposal gets the same result.
    pub(super) fn record_refusal(&mut self, id: u128) {
        self.decisions.get_or_insert_default().refused.add(id);
    }

    /// True if the write was refused before.
    pub(super) fn was_refused(&self, id: u128) -> bool {
        self.decisions.as_ref().is_some_and(|decisions| decisions.refused.ids.contains(&id))
    }

    /// True if a refused write is among the ancestors of this state.
    fn follows_refused_write(&self, state: &RegisterState) -> bool {
        state.ids.iter().any(|&id| self.was_refused(id))
    }

    /// Checks the registers that the last update changed against the decisions and restores those that
    /// conflict.
    pub(super) fn enforce_decisions(&mut self, effects: &mut Vec<Effect>) {
        loop {
            for name in self.document.take_touched() {
                self.enforce_decision(&name, effects);
            }
            if !self.broadcast_released(effects) {
                break;
            }
            // Updates that waited for a write of our own were applied with it.
        }
        // Our own writes need no check.
        self.document.take_touched();
    }

    fn enforce_decision(&mut self, name: &str, effects: &mut Vec<Effect>) {
        let now = self.document.read_register(name);
        let decided = self.decisions.as_ref().and_then(|decisions| decisions.get(name));
        let is_kept = match (&now, &decided) {
            (None, decided) => decided.is_none(),
            (Some(now), None) => !self.follows_refused_write(now),
            (Some(now), Some(decided)) => {
                now == decided || (now.ids.contains(&decided.version.id) && !self.follows_refused_write(now))
            }
        };
        match (now, decided) {
            (Some(now), _) if is_kept => self.record_decision(name, &now),
            (None, _) if is_kept => {}
            (_, Some(decided)) => self.write_register(name, &decided, effects),
            (_, None) => {
                let update = self.document.clear_register(name);
                update.into_iter().for_each(|update| self.apply_own_edit(update, effects));
            }
        }
    }

    /// Writes a register as the document's own edit. An update that waited for it is released, and to be broadcast.
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
