//! PURE: a CRDT document with its tree, and the updates that wait for others which have not come. For whoever reads and
//! edits a document: the client. A hub keeps a [`crate::HubDocument`].
//!
//! yrs 0.28.1 is never given an update that it could not integrate at once: it can be made to integrate behind a
//! hole, and merging two pending updates that overlap underflows a length. The scanner's verdict tells such updates
//! apart without yrs; they are *held* here, as received, and given to yrs when what they need has come.
//! What it is given has been prepared for it (`yrs_input.rs`).
//!
//! An update with one part that waits is held whole. One that breaks yrs when its turn comes is to blame, not the
//! update that it waited for: that one is taken, and the document is loaded again without the culprit.

use bytes::Bytes;
use syncline_protocol::limits::MAX_TREE_TYPE_DEPTH;
use syncline_protocol::update::{EMPTY_UPDATE, ScanLimits, Structs, Verdict, type_depth, verdict};

use super::clocks::Clocks;
use super::crdt::{Crdt, CrdtError};
use super::hub::HubDocument;
use super::json::{JsonError, to_json};
use super::known::Known;
use super::pending_updates::{Held, HeldLimits};
use super::register::RegisterState;
use super::register_watch::Touched;
use super::yrs_input::Intake;

/// What became of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It changes nothing: everything in it was known.
    Known,
    /// It changed the document, and perhaps freed others that waited.
    Changed,
    /// It would have changed the document, but one that waited for it broke the CRDT: take it, then load again.
    FreedABreaker,
    /// It waits for something that has not come.
    Held,
    /// It would wait, and too much waits already: it was not taken.
    NoRoom,
}

/// What an update is to a document, by its clocks alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    Nothing,
    Waits,
    Something,
}

/// One document, with what waits for it.
#[derive(Debug, Default)]
pub struct Replica {
    pub(crate) crdt: Crdt,
    pub(crate) clocks: Clocks,
    /// In order of arrival.
    pub(crate) held: Vec<Held>,
    pub(crate) held_bytes: usize,
    /// Freed and not yet told to the readers; emptied by [`Replica::take_freed`].
    pub(crate) freed: Vec<Bytes>,
    /// Types lie at most this deep within types, with what is held. Rises with every nested item; measured anew
    /// when it reaches the limit.
    depth_bound: u64,
    pub(crate) intake: Intake,
    pub(crate) touched: Touched,
}

impl Replica {
    /// Builds a document from the updates of its log, in order. The tree is built once, of all of them together.
    ///
    /// # Errors
    /// When one cannot be read, or when together they break yrs.
    pub fn load(updates: impl Iterator<Item = Bytes>) -> Result<Self, CrdtError> {
        let mut replica = Self::default();
        let updates: Vec<Bytes> = updates.collect();
        let mut all = HubDocument::load(0, &updates).map_err(|refused| CrdtError::Undecodable(refused.to_string()))?;
        let state = all.compact();
        if state[..] != EMPTY_UPDATE {
            let (_, verdict) = replica.weigh(&state)?;
            replica.bound_depth(&state, verdict.nested)?;
            replica.apply(&state)?;
        }
        for update in all.pending() {
            let (_, verdict) = replica.weigh(update)?;
            replica.hold(update, &verdict, &HeldLimits::NONE);
        }
        Ok(replica)
    }

    /// Takes one scanned v1 update.
    pub fn take(&mut self, update: &Bytes, limits: &HeldLimits) -> Result<Taken, CrdtError> {
        let (weight, verdict) = self.weigh(update)?;
        match weight {
            Weight::Nothing => return Ok(Taken::Known),
            Weight::Waits => return Ok(self.hold(update, &verdict, limits)),
            Weight::Something => {}
        }
        self.bound_depth(update, verdict.nested)?;
        let changed = self.apply(update)?;
        if self.crdt.has_missing() {
            // Clocks cannot tell: parts of it that wait for each other. Nobody's editor makes such a thing.
            return Err(CrdtError::Broken("parts of it wait for each other".into()));
        }
        if !changed {
            return Ok(Taken::Known);
        }
        Ok(if self.free_held().is_ok() { Taken::Changed } else { Taken::FreedABreaker })
    }

    /// What the last update freed, in the order in which it was integrated.
    pub fn take_freed(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.freed)
    }

    /// The whole state as one v1 update, without what is held.
    pub fn encode(&self) -> Result<Bytes, CrdtError> {
        self.crdt.encode()
    }

    /// What a peer with this (scanned, encoded) state vector lacks, without what is held.
    pub fn diff(&self, state_vector: &[u8]) -> Result<Bytes, CrdtError> {
        self.crdt.diff(state_vector)
    }

    /// What a peer known to have come this far lacks, without what is held.
    pub fn diff_since(&self, known: &Known) -> Result<Bytes, CrdtError> {
        self.crdt.diff_since(known)
    }

    /// How far the document has come.
    pub fn known(&self) -> Known {
        self.crdt.known()
    }

    /// The encoded state vector.
    pub fn state_vector(&self) -> Bytes {
        self.crdt.state_vector()
    }

    /// Every root type as JSON, without what is held. `docs/formats.md` says what becomes what.
    pub fn to_json(&self) -> Result<serde_json::Value, JsonError> {
        to_json(&self.encode()?)
    }

    /// A register as it is; `None`: no accepted write has made it.
    pub fn read_register(&self, name: &str) -> Result<Option<RegisterState>, CrdtError> {
        self.crdt.read_register(name)
    }

    /// Writes a register as the document's own edit, and returns it as a v1 update.
    pub fn write_register(&mut self, name: &str, state: &RegisterState) -> Result<Bytes, CrdtError> {
        let update = self.crdt.write_register(name, state)?;
        self.clocks.advance(&update);
        Ok(update)
    }

    pub(crate) fn weigh(&self, update: &[u8]) -> Result<(Weight, Verdict), CrdtError> {
        let verdict = verdict(update, &self.clocks, &ScanLimits::STORED)
            .map_err(|error| CrdtError::Undecodable(error.to_string()))?;
        let weight = match verdict.structs {
            Structs::Gap | Structs::MissingDependency => Weight::Waits,
            _ if verdict.deletes_ahead => Weight::Waits,
            Structs::None | Structs::Known if !verdict.deletes => Weight::Nothing,
            // Deletions move no clock: only yrs knows whether they are new.
            _ => Weight::Something,
        };
        Ok((weight, verdict))
    }

    /// Refuses what would lie too deep: yrs goes down it by recursion.
    pub(crate) fn bound_depth(&mut self, update: &[u8], nested: u64) -> Result<(), CrdtError> {
        if nested > 0 && self.depth_bound + nested > MAX_TREE_TYPE_DEPTH {
            let refuse = |error: &dyn std::fmt::Display| CrdtError::Undecodable(error.to_string());
            let depth_of = |update: &[u8]| type_depth(update).map(u64::from).map_err(|error| refuse(&error));
            let (depth, more) = (depth_of(&self.crdt.encode()?)?, depth_of(update)?);
            if depth + more > MAX_TREE_TYPE_DEPTH {
                return Err(refuse(&format_args!("its types lie more than {MAX_TREE_TYPE_DEPTH} levels deep")));
            }
            self.depth_bound = depth + more;
            return Ok(());
        }
        self.depth_bound += nested;
        Ok(())
    }

    /// True when the document is not what it was.
    pub(crate) fn apply(&mut self, update: &[u8]) -> Result<bool, CrdtError> {
        let changed = self.crdt.apply(&self.intake.prepare(update))?;
        self.clocks.advance(update);
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use yrs::{Doc, Text, Transact};

    use super::*;

    fn typed(texts: &[&str]) -> Vec<Bytes> {
        let doc = Doc::with_client_id(1);
        let text = doc.get_or_insert_text("text");
        let type_one = |part: &&str| {
            let mut txn = doc.transact_mut();
            let end = text.len(&txn);
            text.insert(&mut txn, end, part);
            Bytes::from(txn.encode_update_v1())
        };
        texts.iter().map(type_one).collect()
    }

    #[test]
    fn updates_in_reverse_order_are_held_and_freed_together() {
        let updates = typed(&["a", "b", "c", "d"]);
        let mut replica = Replica::default();
        for update in updates[1..].iter().rev() {
            assert_eq!(replica.take(update, &HeldLimits::NONE), Ok(Taken::Held));
            assert_eq!(replica.take(update, &HeldLimits::NONE), Ok(Taken::Known), "the same again is not held twice");
        }
        assert_eq!(replica.encode().unwrap()[..], [0, 0], "yrs has seen none of it");
        assert_eq!(replica.take(&updates[0], &HeldLimits::NONE), Ok(Taken::Changed));
        assert_eq!(replica.held().len(), 0);
        assert_eq!(replica.held_bytes, 0);
        let in_order = Replica::load(updates.into_iter()).unwrap();
        assert_eq!(replica.encode(), in_order.encode());
    }

    #[test]
    fn two_updates_behind_a_hole_that_overlap_do_not_reach_yrs() {
        // GC ranges 82..86 and 81..85 of client 1: merged as pending they underflow a length in yrs 0.28.1.
        let mut replica = Replica::default();
        for update in [[1, 1, 1, 82, 0, 4, 0], [1, 1, 1, 81, 0, 4, 0]] {
            assert_eq!(replica.take(&Bytes::copy_from_slice(&update), &HeldLimits::NONE), Ok(Taken::Held));
        }
        assert_eq!(replica.held().len(), 2);
    }

    #[test]
    fn what_is_known_changes_nothing() {
        let updates = typed(&["a", "b"]);
        let mut replica = Replica::load(updates.clone().into_iter()).unwrap();
        assert_eq!(replica.take(&updates[1], &HeldLimits::NONE), Ok(Taken::Known));
    }
}
