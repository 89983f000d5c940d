//! PURE: a document in a hub: its structs without integration, its pending updates, and its registers. There is no tree,
//! so no content can make it fail.
//!
//! ```text
//! weighing   what an update would do: it is weighed first, then entered
//! pending    what has missing dependencies
//! registers  the current value of each register
//! key_order  the writes of one map key, in the order that every reader computes
//! ```

mod key_order;
mod pending;
mod registers;
mod weighing;

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::update::Id;
use syncline_protocol::update::{
    EMPTY_STATE_VECTOR, ScanLimits, StateClock, Structs, is_circular, update_ranges, verdict,
};

use crate::known::Known;
use crate::register::RegisterState;
use crate::structs::{Pieces, StructStore, Superseded};
use pending::Pending;
pub use pending::{Released, Source};
use registers::Registers;
pub use weighing::{Full, HubLimits, Refused, WeighOutcome, Weighed};

/// One document in a hub.
#[derive(Debug)]
pub struct HubDocument {
    /// The client id of the document's own edits.
    client: u64,
    limits: HubLimits,
    structs: StructStore,
    /// `None` while no update is pending, as in most documents.
    pending: Option<Box<Pending>>,
    /// `None` until a register is written, as in most documents.
    registers: Option<Box<Registers>>,
    /// Some update was pending while the document was loaded from its log.
    was_pending_at_load: bool,
    /// Size of the updates applied since the last compaction.
    received_bytes: usize,
}

impl Default for HubDocument {
    fn default() -> Self {
        Self::new(0)
    }
}

impl HubDocument {
    /// An empty document that makes its own edits as `client` (53 bits).
    pub fn new(client: u64) -> Self {
        Self {
            client,
            limits: HubLimits::NONE,
            structs: StructStore::default(),
            pending: None,
            registers: None,
            was_pending_at_load: false,
            received_bytes: 0,
        }
    }

    /// Builds a document from the updates of its log, in order. No limits apply, because the updates were accepted before.
    ///
    /// # Errors
    /// When an update cannot be decoded.
    pub fn load(client: u64, updates: &[Bytes]) -> Result<Self, Refused> {
        let mut document = Self::new(client);
        // The log usually consists of a snapshot and some records.
        let adopted = usize::from(updates.first().is_some_and(|first| document.adopt(first)));
        for update in &updates[adopted..] {
            match document.take(update) {
                Ok(_) => document.was_pending_at_load |= document.pending.is_some(),
                // Accepted by an earlier server version, which never sent it to a reader.
                Err(Refused::Circular) => document.was_pending_at_load = true,
                Err(refused) => return Err(refused),
            }
        }
        // A reader of a loaded document receives all of it in one difference.
        document.take_released();
        document.take_touched();
        Ok(document)
    }

    /// Sets the limits for updates that are weighed from now on.
    pub fn limit(&mut self, limits: HubLimits) {
        self.limits = limits;
    }

    /// Counts in `count` the memory that a compaction replaces while answers still hold it.
    pub fn count_superseded(&mut self, count: Superseded) {
        self.structs.count_superseded(count);
    }

    /// [`HubDocument::weigh`], then [`HubDocument::enter`].
    ///
    /// # Errors
    /// As [`HubDocument::weigh`]. The document is unchanged.
    pub fn take(&mut self, update: &Bytes) -> Result<WeighOutcome, Refused> {
        let weighed = self.weigh(update)?;
        let outcome = weighed.outcome();
        self.enter(weighed, None);
        Ok(outcome)
    }

    /// Enters an update: applies what can be applied, and keeps the rest pending. One that is known, or too much, is not
    /// entered: nothing happens. It must have been weighed after the last update was entered. Returns what became pending,
    /// as an update.
    ///
    /// If a part becomes pending, the other part is among [`HubDocument::take_released`].
    pub fn enter(&mut self, weighed: Weighed<'_>, source: Source) -> Option<Bytes> {
        if !matches!(weighed.outcome(), WeighOutcome::Changed | WeighOutcome::Pending) {
            return None;
        }
        let Weighed { update, parts, .. } = weighed;
        let Some(parts) = parts else {
            let is_new = self.apply(update);
            debug_assert!(is_new, "it was weighed before an update that was entered since");
            self.apply_released(update);
            return None;
        };
        let added = self.pending.get_or_insert_default().add(parts.pending, source);
        if let Some(update) = parts.ready
            && self.apply(&update)
        {
            self.pending.get_or_insert_default().push_released(Released { update: update.clone(), source });
            self.apply_released(&update);
        }
        added
    }

    /// Adds an update without missing dependencies. True when anything in it was new.
    fn apply(&mut self, update: &[u8]) -> bool {
        let has_registers = self.registers.is_some();
        let ranges = has_registers.then(|| update_ranges(update)).into_iter().flatten();
        let known: Known = ranges.map(|range| (range.client, self.structs.clock(range.client))).collect();
        let mut has_register_write = false;
        let is_new = self.structs.add_with(update, |found| has_register_write |= Registers::is_first(found));
        self.received_bytes = self.received_bytes.saturating_add(update.len());
        if is_new && (has_registers || has_register_write) {
            let registers = self.registers.get_or_insert_default();
            registers.add_writes(update, |client| known.clock(client));
            registers.note_deleted_values(update);
        }
        is_new
    }

    /// Adopts a complete state as the base of an empty document, without copying it. Returns false, and changes nothing, if
    /// the document is not empty or `state` is not a complete state without missing dependencies.
    fn adopt(&mut self, state: &Bytes) -> bool {
        let whole = verdict(state, &self.structs, &ScanLimits::STORED);
        if !whole.is_ok_and(|verdict| verdict.structs == Structs::Fresh && !verdict.deletes_ahead)
            || is_circular(state, &self.structs)
        {
            return false;
        }
        let mut has_register_write = false;
        let is_adopted = self.structs.adopt(state, |found| has_register_write |= Registers::is_first(found));
        if is_adopted && has_register_write {
            self.registers.get_or_insert_default().add_writes(state, |_| 0);
        }
        is_adopted
    }

    /// Applies what is pending and waited for `entered`, which was applied.
    fn apply_released(&mut self, entered: &[u8]) {
        let Some(mut pending) = self.pending.take() else { return };
        pending.note_applied(entered, &self.structs);
        let mut ready = pending.ready_deletions(entered, &self.structs);
        loop {
            for released in ready {
                self.apply(&released.update);
                pending.push_released(released);
            }
            let Some(released) = pending.next_ready(&self.structs) else { break };
            self.apply(&released.update);
            pending.note_applied(&released.update, &self.structs);
            ready = pending.ready_deletions(&released.update, &self.structs);
            pending.push_released(released);
        }
        self.pending = Some(pending);
    }

    /// Takes what was pending and was applied, in that order.
    pub fn take_released(&mut self) -> Vec<Released> {
        let released = self.pending.as_mut().map_or_else(Vec::new, |pending| pending.take_released());
        self.pending.take_if(|pending| pending.is_empty());
        released
    }

    /// What is pending, as updates: structs in order of arrival, then deletions.
    pub fn pending(&self) -> Vec<Bytes> {
        self.pending.as_ref().map_or_else(Vec::new, |pending| pending.updates())
    }

    /// Number of updates that [`HubDocument::pending`] returns.
    pub fn pending_len(&self) -> usize {
        self.pending.as_ref().map_or(0, |pending| pending.len())
    }

    /// Approximate size of what is pending.
    pub fn pending_bytes(&self) -> usize {
        self.pending.as_ref().map_or(0, |pending| pending.bytes())
    }

    /// True when an update was pending while the document was loaded from its log. In that case the log does not show
    /// which record readers received first.
    pub fn was_pending_at_load(&self) -> bool {
        self.was_pending_at_load
    }

    /// The whole state as one v1 update, without pending updates.
    pub fn encode(&self) -> Bytes {
        self.structs.encode()
    }

    /// The whole state as one v1 update, with what is pending behind skips, as Yjs encodes a document. Compacts the document.
    pub fn encode_all(&mut self) -> Bytes {
        let state = self.compact();
        self.with_pending(&state)
    }

    /// A state or difference of this document, with what is pending behind skips.
    pub fn with_pending(&self, update: &Bytes) -> Bytes {
        self.pending.as_ref().map_or_else(|| update.clone(), |pending| pending.append_to(update))
    }

    /// Drops deleted content, joins adjacent structs, and returns the whole state as one v1 update. The document shares the
    /// memory of the result.
    pub fn compact(&mut self) -> Bytes {
        self.received_bytes = 0;
        self.structs.compact()
    }

    /// True when nothing changed since the last compaction.
    pub fn is_compact(&self) -> bool {
        self.structs.is_compact()
    }

    /// What a peer with this (scanned, encoded) state vector lacks, without pending updates. Compacts the document first if
    /// the difference would copy much otherwise.
    pub fn diff(&mut self, state_vector: &[u8]) -> Pieces {
        self.compact_if_diff_copies_much();
        if state_vector == EMPTY_STATE_VECTOR && self.is_compact() {
            return Pieces::shared(self.structs.encode());
        }
        self.structs.diff_for(state_vector)
    }

    /// [`HubDocument::diff`] for a decoded state vector.
    pub fn diff_since(&mut self, known: &Known) -> Pieces {
        self.compact_if_diff_copies_much();
        self.structs.diff(known)
    }

    fn compact_if_diff_copies_much(&mut self) {
        if self.structs.diff_copies_much() {
            self.compact();
        }
    }

    /// The state vector.
    pub fn known(&self) -> Known {
        self.structs.clocks().collect()
    }

    /// The encoded state vector.
    pub fn state_vector(&self) -> Bytes {
        self.structs.state_vector()
    }

    /// Approximate upper bound for the size of the encoded state.
    pub fn bytes(&self) -> usize {
        self.structs.bytes()
    }

    /// Approximate memory use, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let pending = self.pending.as_ref().map_or(0, |pending| pending.memory_bytes());
        let registers = self.registers.as_ref().map_or(0, |registers| registers.memory_bytes());
        self.structs.memory_bytes() + pending + registers
    }

    /// The state of a register; `None` if no accepted write has set it.
    pub fn read_register(&self, name: &str) -> Option<RegisterState> {
        self.registers.as_ref()?.read(name, &self.structs)
    }

    /// False if `name` would be a new register and the document is at its register limit.
    pub fn has_room_for_register(&self, name: &str) -> bool {
        self.registers.as_ref().is_none_or(|registers| registers.has_room_for(name))
    }

    /// Every register whose value was set by an accepted write.
    pub fn read_registers(&self) -> impl Iterator<Item = (Arc<str>, RegisterState)> {
        let names = self.registers.iter().flat_map(|registers| registers.names());
        names.filter_map(|name| Some((Arc::clone(name), self.read_register(name)?)))
    }

    /// The registers that were changed since the last call, sorted by name.
    pub fn take_touched(&mut self) -> Vec<Arc<str>> {
        self.registers.as_mut().map_or_else(Vec::new, |registers| registers.take_touched())
    }

    /// Writes a register as an edit of the document itself, and returns the edit as a v1 update. It may release what is pending:
    /// see [`HubDocument::take_released`].
    pub fn write_register(&mut self, name: &str, state: &RegisterState) -> Bytes {
        let own = Id { client: self.client, clock: self.structs.clock(self.client) };
        let update = self.registers.get_or_insert_default().write(name, state, own, &self.structs);
        self.apply(&update);
        self.apply_released(&update);
        update.into()
    }

    /// Deletes the value of a register as an edit of the document itself, and returns the edit as a v1 update. `None` if
    /// the register has no value.
    pub fn clear_register(&mut self, name: &str) -> Option<Bytes> {
        let update = self.registers.as_ref()?.clear(name, &self.structs)?;
        self.apply(&update);
        Some(update.into())
    }
}
