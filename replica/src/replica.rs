//! PURE: a CRDT document with its tree and its pending updates, for a client that reads and edits it. A hub keeps a
//! [`crate::HubDocument`] instead.
//!
//! yrs 0.28.1 never receives an update that it could not integrate immediately: it can be made to integrate structs after
//! a gap, and merging two pending updates that overlap underflows a length. The scanner's verdict identifies such updates
//! without yrs. They are kept here as *pending*, as received, and applied when their dependencies have arrived. Every
//! update is prepared for yrs first (`yrs_input.rs`).
//!
//! An update is kept pending as a whole, even if only a part of it has missing dependencies. If a released update breaks
//! yrs, the update that released it is not to blame: it is accepted, and the caller reloads the document without the
//! faulty one.

use bytes::Bytes;
use syncline_protocol::limits::MAX_TREE_TYPE_DEPTH;
use syncline_protocol::update::{EMPTY_UPDATE, ScanLimits, Structs, Verdict, type_depth, verdict};

use super::clocks::Clocks;
use super::crdt::{Crdt, CrdtError};
use super::hub::HubDocument;
use super::json::{JsonError, to_json};
use super::known::Known;
use super::pending_updates::{PendingLimits, PendingUpdate};
use super::register::RegisterState;
use super::register_watch::ChangedRegisters;
use super::yrs_input::UpdatePreparer;

/// The outcome of [`Replica::take`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateOutcome {
    /// The document already had everything in the update.
    Known,
    /// The update changed the document, and may have released pending updates.
    Changed,
    /// The update is valid, but a pending update that it released broke the CRDT: store it, then reload the document
    /// without the faulty one.
    BrokenByReleased,
    /// The update has missing dependencies and is pending.
    Pending,
    /// The update has missing dependencies, but the limits for pending updates are reached: it was dropped.
    NoRoom,
}

/// How an update relates to a document, as far as clocks show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    /// The update changes nothing.
    Known,
    /// The update has missing dependencies.
    Pending,
    /// The update can be applied. If it only deletes, it may still change nothing.
    Applicable,
}

/// One document with its pending updates.
#[derive(Debug, Default)]
pub struct Replica {
    pub(crate) crdt: Crdt,
    pub(crate) clocks: Clocks,
    /// Updates with missing dependencies, in order of arrival.
    pub(crate) pending: Vec<PendingUpdate>,
    pub(crate) pending_bytes: usize,
    /// Released pending updates that the readers have not received yet; emptied by [`Replica::take_released`].
    pub(crate) released: Vec<Bytes>,
    /// Upper bound for the nesting depth of types. Raised by every nested item; measured again when it exceeds the limit.
    type_depth_bound: u64,
    pub(crate) preparer: UpdatePreparer,
    pub(crate) touched: ChangedRegisters,
}

impl Replica {
    /// Builds a document from the updates of its log, in order. All updates are merged first, so that the tree is built
    /// once.
    ///
    /// # Errors
    /// When an update cannot be decoded, or when the merged updates break yrs.
    pub fn load(updates: impl Iterator<Item = Bytes>) -> Result<Self, CrdtError> {
        let mut replica = Self::default();
        let updates: Vec<Bytes> = updates.collect();
        let mut all = HubDocument::load(0, &updates).map_err(|refused| CrdtError::Undecodable(refused.to_string()))?;
        let state = all.compact();
        if state[..] != EMPTY_UPDATE {
            let (_, verdict) = replica.classify(&state)?;
            replica.check_depth(&state, verdict.nested)?;
            replica.apply(&state)?;
        }
        for update in &all.pending() {
            let (_, verdict) = replica.classify(update)?;
            replica.add_pending(update, &verdict, &PendingLimits::NONE);
        }
        Ok(replica)
    }

    /// Applies one scanned v1 update, or keeps it pending.
    pub fn take(&mut self, update: &Bytes, limits: &PendingLimits) -> Result<UpdateOutcome, CrdtError> {
        let (relation, verdict) = self.classify(update)?;
        match relation {
            Relation::Known => return Ok(UpdateOutcome::Known),
            Relation::Pending => return Ok(self.add_pending(update, &verdict, limits)),
            Relation::Applicable => {}
        }
        self.check_depth(update, verdict.nested)?;
        let changed = self.apply(update)?;
        if self.crdt.has_missing() {
            // Clocks do not show cyclic dependencies. No editor creates them.
            return Err(CrdtError::Broken("structs of the update depend on each other in a cycle".into()));
        }
        if !changed {
            return Ok(UpdateOutcome::Known);
        }
        Ok(if self.apply_released().is_ok() { UpdateOutcome::Changed } else { UpdateOutcome::BrokenByReleased })
    }

    /// Takes the pending updates that were released, in the order in which they were applied.
    pub fn take_released(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.released)
    }

    /// The whole state as one v1 update, without pending updates.
    pub fn encode(&self) -> Result<Bytes, CrdtError> {
        self.crdt.encode()
    }

    /// What a peer with this (scanned, encoded) state vector lacks, without pending updates.
    pub fn diff(&self, state_vector: &[u8]) -> Result<Bytes, CrdtError> {
        self.crdt.diff(state_vector)
    }

    /// What a peer with this state vector lacks, without pending updates.
    pub fn diff_since(&self, known: &Known) -> Result<Bytes, CrdtError> {
        self.crdt.diff_since(known)
    }

    /// The state vector.
    pub fn known(&self) -> Known {
        self.crdt.known()
    }

    /// The encoded state vector.
    pub fn state_vector(&self) -> Bytes {
        self.crdt.state_vector()
    }

    /// Every root type as JSON, without pending updates. The mapping is described in `docs/backup.md`.
    pub fn to_json(&self) -> Result<serde_json::Value, JsonError> {
        to_json(&self.encode()?)
    }

    /// The state of a register; `None` if no accepted write has set it.
    pub fn read_register(&self, name: &str) -> Result<Option<RegisterState>, CrdtError> {
        self.crdt.read_register(name)
    }

    /// Writes a register as an edit of the document itself, and returns the edit as a v1 update.
    pub fn write_register(&mut self, name: &str, state: &RegisterState) -> Result<Bytes, CrdtError> {
        let update = self.crdt.write_register(name, state)?;
        self.clocks.advance(&update);
        Ok(update)
    }

    pub(crate) fn classify(&self, update: &[u8]) -> Result<(Relation, Verdict), CrdtError> {
        let verdict = verdict(update, &self.clocks, &ScanLimits::STORED)
            .map_err(|error| CrdtError::Undecodable(error.to_string()))?;
        let relation = match verdict.structs {
            Structs::Gap | Structs::MissingDependency => Relation::Pending,
            _ if verdict.deletes_ahead => Relation::Pending,
            Structs::None | Structs::Known if !verdict.deletes => Relation::Known,
            // Deletions do not advance clocks: only yrs knows whether they are new.
            _ => Relation::Applicable,
        };
        Ok((relation, verdict))
    }

    /// Refuses an update that would nest types too deep for yrs, which deletes them by recursion.
    pub(crate) fn check_depth(&mut self, update: &[u8], nested: u64) -> Result<(), CrdtError> {
        if nested > 0 && self.type_depth_bound + nested > MAX_TREE_TYPE_DEPTH {
            let refuse = |error: &dyn std::fmt::Display| CrdtError::Undecodable(error.to_string());
            let depth_of = |update: &[u8]| type_depth(update).map(u64::from).map_err(|error| refuse(&error));
            let (depth, more) = (depth_of(&self.crdt.encode()?)?, depth_of(update)?);
            if depth + more > MAX_TREE_TYPE_DEPTH {
                return Err(refuse(&format_args!("its types are nested more than {MAX_TREE_TYPE_DEPTH} levels deep")));
            }
            self.type_depth_bound = depth + more;
            return Ok(());
        }
        self.type_depth_bound += nested;
        Ok(())
    }

    /// Applies an update without missing dependencies. True when the document changed.
    pub(crate) fn apply(&mut self, update: &[u8]) -> Result<bool, CrdtError> {
        let changed = self.crdt.apply(&self.preparer.prepare(update))?;
        self.clocks.advance(update);
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use yrs::{Doc, Text, Transact};

    use super::*;

    fn typing_updates(texts: &[&str]) -> Vec<Bytes> {
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
    fn updates_in_reverse_order_are_pending_and_released_together() {
        let updates = typing_updates(&["a", "b", "c", "d"]);
        let mut replica = Replica::default();
        for update in updates[1..].iter().rev() {
            assert_eq!(replica.take(update, &PendingLimits::NONE), Ok(UpdateOutcome::Pending));
            assert_eq!(
                replica.take(update, &PendingLimits::NONE),
                Ok(UpdateOutcome::Known),
                "a duplicate is not kept twice"
            );
        }
        assert_eq!(replica.encode().unwrap()[..], [0, 0], "yrs has seen none of it");
        assert_eq!(replica.take(&updates[0], &PendingLimits::NONE), Ok(UpdateOutcome::Changed));
        assert_eq!(replica.pending().len(), 0);
        assert_eq!(replica.pending_bytes, 0);
        let in_order = Replica::load(updates.into_iter()).unwrap();
        assert_eq!(replica.encode(), in_order.encode());
    }

    #[test]
    fn overlapping_updates_after_a_gap_do_not_reach_yrs() {
        // GC ranges 82..86 and 81..85 of client 1: merging them as pending underflows a length in yrs 0.28.1.
        let mut replica = Replica::default();
        for update in [[1, 1, 1, 82, 0, 4, 0], [1, 1, 1, 81, 0, 4, 0]] {
            assert_eq!(
                replica.take(&Bytes::copy_from_slice(&update), &PendingLimits::NONE),
                Ok(UpdateOutcome::Pending)
            );
        }
        assert_eq!(replica.pending().len(), 2);
    }

    #[test]
    fn known_update_changes_nothing() {
        let updates = typing_updates(&["a", "b"]);
        let mut replica = Replica::load(updates.clone().into_iter()).unwrap();
        assert_eq!(replica.take(&updates[1], &PendingLimits::NONE), Ok(UpdateOutcome::Known));
    }
}
