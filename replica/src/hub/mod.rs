//! PURE: a document as a hub keeps it: its structs without integration, the updates that wait for others, and its
//! registers. No tree, so nothing here can break on content.
//!
//! ```text
//! pending    updates that wait for others
//! registers  the current value of each register
//! key_order  the order of one map key's writes, as every reader finds it
//! ```

mod key_order;
mod pending;
mod registers;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::update::raw::Id;
use syncline_protocol::update::{
    EMPTY_UPDATE, ScanError, ScanLimits, StateClock, Structs, Verdict, delete_set, is_circular, update_ranges, verdict,
};
use thiserror::Error;

use crate::known::Known;
use crate::register::RegisterState;
use crate::structs::{Pieces, StructStore, Superseded};
use pending::{Pending, Waiting};
use registers::Registers;

/// A full document is compacted for an update when at least this share of its bytes came since the last time: 1 of 64.
const COMPACTION_SHARE: usize = 64;

/// What a document may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HubLimits {
    /// Bytes of its encoded state.
    pub bytes: usize,
    /// Clients in its whole life.
    pub clients: usize,
    /// Updates that wait for others.
    pub pending_updates: usize,
    /// Bytes of them.
    pub pending_bytes: usize,
}

impl HubLimits {
    /// For what was accepted before.
    const NONE: Self =
        Self { bytes: usize::MAX, clients: usize::MAX, pending_updates: usize::MAX, pending_bytes: usize::MAX };
}

impl Default for HubLimits {
    fn default() -> Self {
        Self { pending_updates: 1_000, pending_bytes: 4 * 1024 * 1024, ..Self::NONE }
    }
}

/// What became of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// It changes nothing: everything in it was known.
    Known,
    /// It changed the document, and perhaps freed others that waited.
    Changed,
    /// It waits for something that has not come.
    Waits,
    /// It would wait, and too much waits already: it was not taken.
    NoRoom,
    /// It would make the document larger than it may be: it was not taken.
    Full(Full),
}

/// What a document has too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Bytes.
    Bytes,
    /// Clients.
    Clients,
    /// Registers.
    Registers,
}

/// Why an update is refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refused {
    /// No Yjs client could read it.
    #[error("it cannot be decoded: {0}")]
    Unreadable(#[from] ScanError),
    /// No Yjs client would ever show it.
    #[error("parts of it wait for each other")]
    Circular,
}

/// One document.
#[derive(Debug)]
pub struct HubDocument {
    /// Under whom the document makes its own edits.
    client: u64,
    limits: HubLimits,
    structs: StructStore,
    /// Of few documents.
    pending: Option<Box<Pending>>,
    /// Of few documents, too.
    registers: Option<Box<Registers>>,
    /// Something waited while this was built from its log.
    has_waited_at_load: bool,
    /// Bytes of the updates entered since the last compaction.
    received_bytes: usize,
}

impl Default for HubDocument {
    fn default() -> Self {
        Self::new(0)
    }
}

impl HubDocument {
    /// A document without anything; its own edits are `client`'s (53 bits).
    pub fn new(client: u64) -> Self {
        Self {
            client,
            limits: HubLimits::NONE,
            structs: StructStore::default(),
            pending: None,
            registers: None,
            has_waited_at_load: false,
            received_bytes: 0,
        }
    }

    /// The document of these updates, in the order of its log. What was accepted once is not refused now.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn load(client: u64, updates: &[Bytes]) -> Result<Self, Refused> {
        let mut document = Self::new(client);
        // Mostly a snapshot and some records.
        let adopted = usize::from(updates.first().is_some_and(|first| document.adopt(first)));
        for update in &updates[adopted..] {
            match document.take(update) {
                Ok(taken) => document.has_waited_at_load |= taken == Entered::Waits,
                // An earlier server took it, and no reader ever got it.
                Err(Refused::Circular) => document.has_waited_at_load = true,
                Err(refused) => return Err(refused),
            }
        }
        // Whoever reads a loaded document gets all of it as one difference.
        document.take_freed();
        document.take_touched();
        Ok(document)
    }

    /// From now on these hold for what is taken.
    pub fn limit(&mut self, limits: HubLimits) {
        self.limits = limits;
    }

    /// From now on memory that answers hold when a compaction replaces it is counted here.
    pub fn count_superseded(&mut self, count: Superseded) {
        self.structs.count_superseded(count);
    }

    /// Takes one scanned v1 update.
    ///
    /// # Errors
    /// When no reader could ever make anything of it. The document is what it was.
    pub fn take(&mut self, update: &Bytes) -> Result<Entered, Refused> {
        if update[..] == EMPTY_UPDATE {
            return Ok(Entered::Known);
        }
        let verdict = verdict(update, &self.structs, &ScanLimits::STORED)?;
        let (waits, inserts) = (waits(&verdict), !matches!(verdict.structs, Structs::None | Structs::Known));
        if inserts && !waits && is_circular(update, &self.structs) {
            return Err(Refused::Circular);
        }
        if inserts && let Some(full) = self.lacks_room_for(update.len(), verdict.new_clients) {
            return Ok(Entered::Full(full));
        }
        if waits {
            let pending = self.pending.get_or_insert_default();
            return Ok(pending.add(update, &self.structs, &self.limits));
        }
        if (!inserts && !verdict.deletes) || !self.enter(update) {
            return Ok(Entered::Known);
        }
        self.free_pending(update);
        Ok(Entered::Changed)
    }

    /// Adds an update that waits for nothing. True when something of it was new.
    fn enter(&mut self, update: &[u8]) -> bool {
        let has_registers = self.registers.is_some();
        let ranges = has_registers.then(|| update_ranges(update)).into_iter().flatten();
        let known: Known = ranges.map(|range| (range.client, self.structs.clock(range.client))).collect();
        let mut brings_one = false;
        let is_new = self.structs.add_with(update, |found| brings_one |= Registers::is_first(found));
        self.received_bytes = self.received_bytes.saturating_add(update.len());
        if is_new && (has_registers || brings_one) {
            let registers = self.registers.get_or_insert_default();
            registers.note(update, |client| known.clock(client));
            registers.note_deletions(update);
        }
        is_new
    }

    /// Takes a whole state that waits for nothing as the base of an empty document. False: it is none, or not empty.
    fn adopt(&mut self, state: &Bytes) -> bool {
        let whole = verdict(state, &self.structs, &ScanLimits::STORED);
        if !whole.is_ok_and(|verdict| verdict.structs == Structs::Fresh && !verdict.deletes_ahead)
            || is_circular(state, &self.structs)
        {
            return false;
        }
        let mut brings_registers = false;
        let is_adopted = self.structs.adopt(state, |found| brings_registers |= Registers::is_first(found));
        if is_adopted && brings_registers {
            self.registers.get_or_insert_default().note(state, |_| 0);
        }
        is_adopted
    }

    fn free_pending(&mut self, entered: &[u8]) {
        let Some(mut pending) = self.pending.take() else { return };
        pending.advance(entered, &self.structs);
        while let Some(update) = pending.next_ready(&self.structs) {
            // Circles are dropped: no reader would ever show them.
            if !is_circular(&update, &self.structs) {
                self.enter(&update);
                pending.advance(&update, &self.structs);
                pending.note_freed(update);
            }
        }
        self.pending = Some(pending);
    }

    /// What the document has too much of for `bytes` more and so many new clients.
    pub fn lacks_room_for(&mut self, bytes: usize, clients: u64) -> Option<Full> {
        let limits = self.limits;
        if clients > 0 && self.structs.clients() as u64 + clients > limits.clients as u64 {
            return Some(Full::Clients);
        }
        // What was deleted since the last compaction counts until it is dropped. Compacting goes through all of the document:
        // who has sent little since the last time waits until it is quiet.
        let is_worth_it = self.received_bytes.saturating_mul(COMPACTION_SHARE) >= self.bytes();
        if self.bytes().saturating_add(bytes) > limits.bytes && is_worth_it && !self.is_compact() {
            self.compact();
        }
        (self.bytes().saturating_add(bytes) > limits.bytes).then_some(Full::Bytes)
    }

    /// True when an update inserts nothing new. Whether its deletions are new is not asked.
    pub fn inserts_nothing_new(&self, update: &[u8]) -> bool {
        let verdict = verdict(update, &self.structs, &ScanLimits::STORED);
        verdict.is_ok_and(|verdict| matches!(verdict.structs, Structs::None | Structs::Known))
    }

    /// True when an update changes nothing here.
    pub fn knows(&self, update: &[u8]) -> bool {
        self.inserts_nothing_new(update) && self.structs.knows_deletions_of(delete_set(update))
    }

    /// What the last update freed, in the order in which it was entered.
    pub fn take_freed(&mut self) -> Vec<Bytes> {
        let freed = self.pending.as_mut().map_or_else(Vec::new, |pending| pending.take_freed());
        self.pending.take_if(|pending| pending.waiting().is_empty());
        freed
    }

    /// The updates that wait, in order of arrival.
    pub fn pending(&self) -> impl ExactSizeIterator<Item = &Bytes> {
        static NONE: BTreeMap<u64, Waiting> = BTreeMap::new();
        self.pending.as_ref().map_or(&NONE, |pending| pending.waiting()).values().map(Waiting::update)
    }

    /// True when updates waited while this was built from its log: then its records alone do not tell when readers got
    /// what.
    pub fn has_waited_at_load(&self) -> bool {
        self.has_waited_at_load
    }

    /// The whole state as one v1 update, without what waits.
    pub fn encode(&self) -> Bytes {
        self.structs.encode()
    }

    /// The same, after deleted content was dropped and neighbours were joined. The document shares its memory.
    pub fn compact(&mut self) -> Bytes {
        self.received_bytes = 0;
        self.structs.compact()
    }

    /// True when nothing came since the last compaction.
    pub fn is_compact(&self) -> bool {
        self.structs.is_compact()
    }

    /// What a peer with this (scanned, encoded) state vector lacks, without what waits. Compacts the document first if much
    /// would be copied otherwise.
    pub fn diff(&mut self, state_vector: &[u8]) -> Pieces {
        /// The state vector of who has nothing.
        const NOTHING: &[u8] = &[0];
        self.make_shareable();
        if state_vector == NOTHING && self.is_compact() {
            return Pieces::shared(self.structs.encode());
        }
        self.structs.diff_for(state_vector)
    }

    /// The same for a peer known to have come this far.
    pub fn diff_since(&mut self, known: &Known) -> Pieces {
        self.make_shareable();
        self.structs.diff(known)
    }

    fn make_shareable(&mut self) {
        if self.structs.copies_much() {
            self.compact();
        }
    }

    /// How far the document has come.
    pub fn known(&self) -> Known {
        self.structs.clocks().collect()
    }

    /// The encoded state vector.
    pub fn state_vector(&self) -> Bytes {
        self.structs.state_vector()
    }

    /// Bytes of the encoded state at most, about.
    pub fn bytes(&self) -> usize {
        self.structs.bytes()
    }

    /// Bytes that it takes in memory, about.
    pub fn memory_bytes(&self) -> usize {
        let pending = self.pending.as_ref().map_or(0, |pending| pending.memory_bytes());
        let registers = self.registers.as_ref().map_or(0, |registers| registers.memory_bytes());
        self.structs.memory_bytes() + pending + registers
    }

    /// A register as it is; `None`: no accepted write has made it.
    pub fn read_register(&self, name: &str) -> Option<RegisterState> {
        self.registers.as_ref()?.read(name, &self.structs)
    }

    /// False for one register more than can be decided on.
    pub fn has_room_for_register(&self, name: &str) -> bool {
        self.registers.as_ref().is_none_or(|registers| registers.has_room_for(name))
    }

    /// Every register that accepted writes have made.
    pub fn read_registers(&self) -> impl Iterator<Item = (Arc<str>, RegisterState)> {
        let names = self.registers.iter().flat_map(|registers| registers.names());
        names.filter_map(|name| Some((Arc::clone(name), self.read_register(name)?)))
    }

    /// The registers that were changed since this was asked last, in the order of their names.
    pub fn take_touched(&mut self) -> Vec<Arc<str>> {
        self.registers.as_mut().map_or_else(Vec::new, |registers| registers.take_touched())
    }

    /// Writes a register as the document's own edit, and returns it as a v1 update.
    pub fn write_register(&mut self, name: &str, state: &RegisterState) -> Bytes {
        let own = Id { client: self.client, clock: self.structs.clock(self.client) };
        let update = self.registers.get_or_insert_default().write(name, state, own, &self.structs);
        self.enter(&update);
        update.into()
    }

    /// Deletes the current value of a register as the document's own edit, and returns the edit as a v1 update. `None`: the register
    /// has no value.
    pub fn clear_register(&mut self, name: &str) -> Option<Bytes> {
        let update = self.registers.as_ref()?.clear(name, &self.structs)?;
        self.enter(&update);
        Some(update.into())
    }
}

fn waits(verdict: &Verdict) -> bool {
    matches!(verdict.structs, Structs::Gap | Structs::MissingDependency) || verdict.deletes_ahead
}
