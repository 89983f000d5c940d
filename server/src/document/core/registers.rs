//! PURE: what was decided on a register stays decided.
//!
//! A decision is relayed before it is on disk, like every change. If the server crashes in between, it decides again, and a client
//! that received the lost decision sends it as an ordinary change: the CRDT would let one of the two win by chance. So a change of a
//! register counts only if it succeeds the current decision and accepts no write that was refused. Otherwise the document
//! writes its own decision on top; if it has none, it clears the register.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use syncline_replica::{HubDocument, RegisterState};

use super::Core;
use crate::document::event::Effect;
use crate::document::frame::{Frame, Message};

/// Most refused writes remembered.
const MAX_REFUSED: usize = 1_000;
/// What a refused write takes: its id twice, with its share of a tree node.
const REFUSED_BYTES: usize = 64;
/// What a register takes here besides its name and its state.
const REGISTER_BYTES: usize = 96;

/// What was decided.
#[derive(Debug, Default)]
pub(super) struct Registers {
    /// The state of each, decided or there when the document was loaded. Encoded: in memory a value may take twenty times as
    /// much.
    decided: BTreeMap<Arc<str>, Bytes>,
    /// Bytes of the names and states in `decided`.
    bytes: usize,
    refused: RefusedWrites,
}

/// The newest refused writes, at most [`MAX_REFUSED`]; a restart forgets them. After a crash a client may still send a lost decision that
/// accepted one of them, and the version that a refused write is based on may arrive after the refusal.
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

impl Registers {
    /// Those of a document that was just loaded. `None`: it has none.
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

    /// Bytes that it takes in memory, about.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes + self.decided.len() * REGISTER_BYTES + self.refused.ids.len() * REFUSED_BYTES
    }
}

impl Core {
    /// The document itself wrote it, or it goes on from what is decided.
    pub(super) fn decided(&mut self, name: &str, state: &RegisterState) {
        self.registers.get_or_insert_default().decide(name, state);
    }

    /// Remembers a refused write: a retry of it is refused as well.
    pub(super) fn refused(&mut self, id: u128) {
        self.registers.get_or_insert_default().refused.add(id);
    }

    /// True for a write that was refused before.
    pub(super) fn has_refused(&self, id: u128) -> bool {
        self.registers.as_ref().is_some_and(|registers| registers.refused.ids.contains(&id))
    }

    /// True for a state that one of the refused writes has led to.
    fn accepts_refused(&self, state: &RegisterState) -> bool {
        state.ids.iter().any(|&id| self.has_refused(id))
    }

    /// Looks at the registers that the last update changed.
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
        // Its own writes are no news.
        self.document.take_touched();
    }

    /// The document's own edit, for all readers.
    pub(super) fn write_register(&mut self, name: &str, state: &RegisterState, effects: &mut Vec<Effect>) {
        let update = self.document.write_register(name, state);
        self.change_own(update, effects);
    }

    /// Logs and broadcasts an edit of the document itself.
    fn change_own(&mut self, update: Bytes, effects: &mut Vec<Effect>) {
        self.append(update.clone(), effects);
        self.broadcast(Frame::at(self.last, Message::Update(update)), None, effects);
    }
}
