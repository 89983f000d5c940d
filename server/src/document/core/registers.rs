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

/// Refused writes remembered; the oldest are dropped.
const MAX_REFUSED: usize = 1_000;
/// Memory of a refused write: its id twice, with its share of a tree node.
const REFUSED_BYTES: usize = 64;
/// Memory of a register here, besides its name and its state.
const REGISTER_BYTES: usize = 96;

/// Decisions of one document; `None` in the many documents without registers.
#[derive(Debug, Default)]
pub(super) struct RegisterDecisions(Option<Box<Decisions>>);

#[derive(Debug, Default)]
struct Decisions {
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

impl Decisions {
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
}

/// What the document does about a register that an update changed.
#[derive(Debug)]
pub(super) enum Correction {
    /// The register continues from what was decided, or was not decided and is not written.
    Keep,
    /// Writes the decided state again.
    Write(RegisterState),
    /// Deletes the value: there is no decision, and the update accepts a refused write.
    Clear,
}

impl RegisterDecisions {
    /// The registers of a document that was just loaded.
    pub(super) fn of(document: &HubDocument) -> Self {
        let mut decisions = Self::default();
        document.read_registers().for_each(|(name, state)| decisions.record(&name, &state));
        decisions
    }

    /// Records a state that the document wrote itself, or that continues from the decided one.
    pub(super) fn record(&mut self, name: &str, state: &RegisterState) {
        self.0.get_or_insert_default().set(name, state);
    }

    /// Remembers that a write was refused, so that a repeated proposal gets the same result.
    pub(super) fn record_refusal(&mut self, id: u128) {
        self.0.get_or_insert_default().refused.add(id);
    }

    /// True if the write was refused before.
    pub(super) fn was_refused(&self, id: u128) -> bool {
        self.0.as_ref().is_some_and(|decisions| decisions.refused.ids.contains(&id))
    }

    /// Compares a register that an update changed with the decision, and records its state if that is kept.
    pub(super) fn check(&mut self, name: &str, now: Option<&RegisterState>) -> Correction {
        let decided = self.0.as_ref().and_then(|decisions| RegisterState::decode(decisions.decided.get(name)?));
        let follows_refused_write = |state: &RegisterState| state.ids.iter().any(|&id| self.was_refused(id));
        let is_kept = match (now, &decided) {
            (None, decided) => decided.is_none(),
            (Some(now), None) => !follows_refused_write(now),
            (Some(now), Some(decided)) => {
                now == decided || (now.ids.contains(&decided.version.id) && !follows_refused_write(now))
            }
        };
        if is_kept {
            now.inspect(|now| self.record(name, now));
            return Correction::Keep;
        }
        decided.map_or(Correction::Clear, Correction::Write)
    }

    /// Estimated memory use in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        let of = |decisions: &Decisions| {
            decisions.bytes + decisions.decided.len() * REGISTER_BYTES + decisions.refused.ids.len() * REFUSED_BYTES
        };
        self.0.as_deref().map_or(0, of)
    }
}
