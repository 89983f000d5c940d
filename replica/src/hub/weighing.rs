//! PURE: what an update would do to a hub document.
//!
//! *Weighing* an update changes nothing: the document has it already, no reader could ever read it, it exceeds a limit, or
//! it can be entered. *Entering* it changes the document, and refuses nothing. Between the two nothing else may be entered;
//! other updates may be weighed, and the document may be read or compacted.

use std::collections::BTreeSet;

use bytes::Bytes;
use syncline_protocol::update::split::{Split, split};
use syncline_protocol::update::{
    EMPTY_UPDATE, ScanError, ScanLimits, StateClock, Structs, Verdict, delete_set, is_circular, verdict,
};
use thiserror::Error;

use super::HubDocument;
use super::pending::{NewPending, ready_part};

/// A full document is compacted for an update if at least 1/64 of its bytes arrived since the last compaction.
const COMPACTION_SHARE: usize = 64;

/// A document may grow to this multiple of its size limit by deletions alone: each splits a struct and adds a range of
/// the delete set. So people can always delete from a full document.
const DELETIONS_FACTOR: usize = 2;

/// Limits for one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HubLimits {
    /// Size of the encoded state. Updates that only delete may exceed it: twice as much is accepted.
    pub bytes: usize,
    /// Number of clients that ever edited the document.
    pub clients: usize,
    /// Number of pending entries: runs of consecutive structs of one client.
    pub pending_entries: usize,
    /// Total size of what is pending.
    pub pending_bytes: usize,
}

impl HubLimits {
    /// No limits, for updates that were accepted before.
    pub(super) const NONE: Self =
        Self { bytes: usize::MAX, clients: usize::MAX, pending_entries: usize::MAX, pending_bytes: usize::MAX };
}

impl Default for HubLimits {
    fn default() -> Self {
        Self { pending_entries: 10_000, pending_bytes: 4 * 1024 * 1024, ..Self::NONE }
    }
}

/// What an update does to a document, or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeighOutcome {
    /// The document already has everything in the update.
    Known,
    /// The update changes the document, and may release what is pending. A part of it with missing dependencies is kept
    /// pending.
    Changed,
    /// The update has missing dependencies and is kept pending.
    Pending,
    /// A part of the update has missing dependencies, and the limits for what is pending are reached: it is not entered.
    NoRoom,
    /// The update would exceed a limit of the document: it is not entered.
    Full(Full),
}

/// The limit of a document that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// [`HubLimits::bytes`].
    Bytes,
    /// [`HubLimits::clients`].
    Clients,
    /// [`syncline_protocol::limits::MAX_REGISTERS`].
    Registers,
}

/// Why an update can never be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refused {
    /// No Yjs client could read it.
    #[error("it cannot be decoded: {0}")]
    Unreadable(#[from] ScanError),
    /// No Yjs client could ever integrate it.
    #[error("its structs depend on each other in a cycle")]
    Circular,
}

/// An update with what it would do to the document, from [`HubDocument::weigh`] for [`HubDocument::enter`].
#[derive(Debug)]
pub struct Weighed<'u> {
    pub(super) update: &'u Bytes,
    outcome: WeighOutcome,
    inserts: bool,
    /// The two parts of the update, if one has missing dependencies.
    pub(super) parts: Option<Box<Parts>>,
}

/// The parts of an update of which one has missing dependencies.
#[derive(Debug)]
pub(super) struct Parts {
    /// The part that can be applied, as an update, if there is one. It may be known.
    pub(super) ready: Option<Bytes>,
    /// What becomes pending: the other part without what is pending already.
    pub(super) pending: NewPending,
}

impl<'u> Weighed<'u> {
    /// What entering it does.
    pub fn outcome(&self) -> WeighOutcome {
        self.outcome
    }

    /// True if it has structs that are neither applied nor pending. An update without them may delete something.
    pub fn inserts(&self) -> bool {
        self.inserts
    }

    /// The update.
    pub fn update(&self) -> &'u Bytes {
        self.update
    }

    /// True if a part of the update has missing dependencies.
    pub fn is_split(&self) -> bool {
        self.parts.is_some()
    }

    /// The part of the update that has no missing dependencies, as an update, if there is another part.
    pub fn ready(&self) -> Option<Bytes> {
        self.parts.as_ref().and_then(|parts| parts.ready.clone())
    }
}

impl HubDocument {
    /// Decides what a scanned v1 update would do. Changes nothing. [`Full::Bytes`] counts deleted content that was not
    /// dropped yet: [`HubDocument::make_room_for`] may help.
    ///
    /// # Errors
    /// When no reader could ever decode or integrate the update.
    pub fn weigh<'u>(&self, update: &'u Bytes) -> Result<Weighed<'u>, Refused> {
        if update[..] == EMPTY_UPDATE {
            return Ok(Weighed { update, outcome: WeighOutcome::Known, inserts: false, parts: None });
        }
        let verdict = verdict(update, &self.structs, &ScanLimits::STORED)?;
        if has_missing_dependencies(&verdict) {
            let split = split(update, &self.structs);
            let pending = NewPending::new(&split, self.pending.as_deref(), &self.structs);
            let inserts = !split.ready.is_empty() || pending.entries() > 0;
            let parts = Parts { ready: ready_part(&split), pending };
            let outcome = self.weigh_parts(&split, &parts, inserts);
            return Ok(Weighed { update, outcome, inserts, parts: Some(Box::new(parts)) });
        }
        let inserts = !matches!(verdict.structs, Structs::None | Structs::Known);
        if inserts && is_circular(update, &self.structs) {
            return Err(Refused::Circular);
        }
        let deletes = !inserts && verdict.deletes && !self.structs.knows_deletions_of(delete_set(update));
        let outcome = match self.exceeded_limit(update.len(), inserts, deletes, verdict.new_clients) {
            Some(full) => WeighOutcome::Full(full),
            None if inserts || deletes => WeighOutcome::Changed,
            None => WeighOutcome::Known,
        };
        Ok(Weighed { update, outcome, inserts, parts: None })
    }

    fn weigh_parts(&self, split: &Split<'_>, Parts { ready, pending: new }: &Parts, inserts: bool) -> WeighOutcome {
        let changes = |ready: &Bytes| !split.ready.is_empty() || !self.structs.knows_deletions_of(delete_set(ready));
        let (changes, is_pending) = (ready.as_ref().is_some_and(changes), !new.is_empty());
        let clients = split.ready.iter().map(|section| section.client).chain(new.clients());
        let new_clients: BTreeSet<u64> = clients.filter(|client| self.structs.clock(*client) == 0).collect();
        let bytes = ready.as_ref().map_or(0, Bytes::len) + new.bytes();
        if let Some(full) = self.exceeded_limit(bytes, inserts, changes && !inserts, new_clients.len() as u64) {
            return WeighOutcome::Full(full);
        }
        let is_over = self.pending_len() + new.entries() > self.limits.pending_entries
            || self.pending_bytes() + new.bytes() > self.limits.pending_bytes;
        match (changes, is_pending) {
            (_, true) if is_over => WeighOutcome::NoRoom,
            (true, _) => WeighOutcome::Changed,
            (false, true) => WeighOutcome::Pending,
            (false, false) => WeighOutcome::Known,
        }
    }

    /// The limit that an update of `bytes` with `clients` new clients would exceed.
    fn exceeded_limit(&self, bytes: usize, inserts: bool, deletes: bool, clients: u64) -> Option<Full> {
        if inserts && clients > 0 && self.structs.clients() as u64 + clients > self.limits.clients as u64 {
            return Some(Full::Clients);
        }
        let is_over = (inserts && !self.has_room_for(bytes)) || (deletes && !self.has_room_to_delete(bytes));
        is_over.then_some(Full::Bytes)
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        self.bytes().saturating_add(bytes) <= self.limits.bytes
    }

    /// True when an update of `bytes` that only deletes fits into the document.
    fn has_room_to_delete(&self, bytes: usize) -> bool {
        self.bytes().saturating_add(bytes) <= self.limits.bytes.saturating_mul(DELETIONS_FACTOR)
    }

    /// True when `bytes` more fit into the document. Content that was deleted since the last compaction counts until it is
    /// dropped: compacts a full document first if that may make room.
    pub fn make_room_for(&mut self, bytes: usize) -> bool {
        if self.has_room_for(bytes) {
            return true;
        }
        // A compaction reads the whole document: if little arrived since the last one, it is left to the compaction that
        // runs when the document is idle.
        let is_worth_compacting = self.received_bytes.saturating_mul(COMPACTION_SHARE) >= self.bytes();
        if is_worth_compacting && !self.is_compact() {
            self.compact();
        }
        self.has_room_for(bytes)
    }
}

fn has_missing_dependencies(verdict: &Verdict) -> bool {
    matches!(verdict.structs, Structs::Gap | Structs::MissingDependency) || verdict.deletes_ahead
}
