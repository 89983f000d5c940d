//! PURE: a document that is kept as bytes until something needs its tree.
//!
//! A yrs tree takes some twenty times the memory of the encoded state, and building it takes longer than everything else
//! about opening a document. But who joins wants bytes, and what is known already changes nothing: both are answered
//! from the encoded state, the clocks beside it and its delete set. The first real change wakes the tree.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::update::{
    ClientRange, EMPTY_UPDATE, ScanLimits, Structs, delete_set, deleted_ranges, join_updates, state_vector_entries,
    verdict,
};
use syncline_protocol::varint::write_var_uint;

use super::clocks::Clocks;
use super::crdt::{CrdtError, Known};
use super::growth::{Full, GrowthLimits, is_much};
use super::held::HeldLimits;
use super::register::RegisterState;
use super::replica::{Replica, Taken};

/// A tree takes at most so many times the bytes of its encoded state.
const TREE_FACTOR: usize = 20;
/// One item of a tree, without its content.
const ITEM_BYTES: usize = 160;
/// A client and its clock.
const CLOCK_BYTES: usize = 48;

/// A document, as a tree or as bytes.
#[derive(Debug)]
pub struct Resting {
    /// Under whom the document makes its own edits.
    client: u64,
    /// What the tree may become.
    growth: GrowthLimits,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Tree(Box<Replica>),
    Bytes(Encoded),
}

/// The whole state as one update, and what is asked of it often.
#[derive(Debug)]
struct Encoded {
    state: Bytes,
    /// Where in it the delete set begins.
    deletes_at: usize,
    clocks: Clocks,
}

impl Resting {
    /// The document of these updates, in the order of its log. Stays bytes when they follow each other simply.
    pub fn load_as(client: u64, updates: &[Bytes]) -> Result<Self, CrdtError> {
        let form = match Encoded::of(updates) {
            Some(encoded) => Form::Bytes(encoded),
            None => Form::Tree(Box::new(Replica::load_as(client, updates.iter().cloned())?)),
        };
        Ok(Self { client, growth: GrowthLimits::NONE, form })
    }

    /// A document without anything.
    pub fn empty() -> Self {
        Self {
            client: 0,
            growth: GrowthLimits::NONE,
            form: Form::Bytes(Encoded::new(Bytes::from_static(&EMPTY_UPDATE), Clocks::default())),
        }
    }

    /// True when it is bytes.
    pub fn is_resting(&self) -> bool {
        matches!(self.form, Form::Bytes(_))
    }

    /// How many bytes would have to be built into a tree; 0 when it is one.
    pub fn resting_bytes(&self) -> usize {
        if let Form::Bytes(encoded) = &self.form { encoded.state.len() } else { 0 }
    }

    /// Gives up the tree, unless updates wait beside it.
    pub fn rest(&mut self) -> Result<(), CrdtError> {
        if let Form::Tree(replica) = &mut self.form
            && replica.held().len() == 0
        {
            let state = replica.encode()?;
            let clocks = std::mem::take(&mut replica.clocks);
            self.form = Form::Bytes(Encoded::new(state, clocks));
        }
        Ok(())
    }

    /// Builds the tree. After an error the document is what it was.
    pub fn wake(&mut self) -> Result<&mut Replica, CrdtError> {
        if let Form::Bytes(encoded) = &self.form {
            let state = Some(encoded.state.clone()).filter(|state| state[..] != EMPTY_UPDATE);
            let mut replica = Replica::load_as(self.client, state.into_iter())
                .map_err(|error| CrdtError::Broken(format!("its stored state does not make a document: {error}")))?;
            if replica.held().len() > 0 {
                return Err(CrdtError::Broken("parts of its stored state are missing".into()));
            }
            replica.watch_registers()?;
            replica.limit_growth(self.growth);
            self.form = Form::Tree(Box::new(replica));
        }
        match &mut self.form {
            Form::Tree(replica) => Ok(replica),
            Form::Bytes(_) => Err(CrdtError::Broken("it could not be built".into())),
        }
    }

    /// See [`Replica::limit_growth`].
    pub fn limit_growth(&mut self, limits: GrowthLimits) {
        self.growth = limits;
        if let Form::Tree(replica) = &mut self.form {
            replica.limit_growth(limits);
        }
    }

    /// See [`Replica::lacks_room_for`].
    pub fn lacks_room_for(&mut self, more: usize) -> Result<Option<Full>, CrdtError> {
        self.wake()?.lacks_room_for(more)
    }

    /// True when taking this update needs the tree, and there is none.
    pub fn must_wake_for(&self, update: &[u8]) -> bool {
        matches!(&self.form, Form::Bytes(encoded) if !encoded.knows(update))
    }

    /// See [`Replica::take`].
    pub fn take(&mut self, update: &Bytes, limits: &HeldLimits) -> Result<Taken, CrdtError> {
        self.take_while(update, limits, &mut || true)
    }

    /// See [`Replica::take_while`].
    pub fn take_while(
        &mut self,
        update: &Bytes,
        limits: &HeldLimits,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Taken, CrdtError> {
        if self.is_resting() && !self.must_wake_for(update) {
            return Ok(Taken::Known);
        }
        self.wake()?.take_while(update, limits, go_on)
    }

    /// See [`Replica::is_much`].
    pub fn is_much(&self, update: &[u8]) -> bool {
        match &self.form {
            Form::Tree(replica) => replica.is_much(update),
            Form::Bytes(encoded) => is_much(encoded.state.len(), update.len()) && !encoded.knows(update),
        }
    }

    /// About how many bytes the encoded state has.
    pub fn bytes(&self) -> usize {
        match &self.form {
            Form::Tree(replica) => replica.growth.bytes,
            Form::Bytes(encoded) => encoded.state.len(),
        }
    }

    /// Bytes that it takes in memory, about. Of a tree the upper bounds of its bytes and items are known, which rise with every
    /// update: it takes at most so much when nothing in it could be joined.
    pub fn memory_bytes(&self) -> usize {
        match &self.form {
            Form::Tree(replica) => {
                let growth = &replica.growth;
                let items = usize::try_from(growth.items).unwrap_or(usize::MAX).saturating_mul(ITEM_BYTES);
                let tree = items.saturating_add(growth.bytes * 2).min(growth.bytes.saturating_mul(TREE_FACTOR));
                tree.saturating_add(replica.held_bytes + replica.clocks.len() * CLOCK_BYTES)
            }
            Form::Bytes(encoded) => encoded.state.len() + encoded.clocks.len() * CLOCK_BYTES,
        }
    }

    /// See [`Replica::inserts_nothing_new`].
    pub fn inserts_nothing_new(&self, update: &[u8]) -> bool {
        match &self.form {
            Form::Tree(replica) => replica.inserts_nothing_new(update),
            Form::Bytes(encoded) => encoded.clocks.know_structs_of(update),
        }
    }

    /// See [`Replica::knows`].
    pub fn knows(&self, update: &[u8]) -> Result<bool, CrdtError> {
        match &self.form {
            Form::Tree(replica) => replica.knows(update),
            Form::Bytes(encoded) => Ok(encoded.knows(update)),
        }
    }

    /// See [`Replica::take_freed`].
    pub fn take_freed(&mut self) -> Vec<Bytes> {
        if let Form::Tree(replica) = &mut self.form { replica.take_freed() } else { Vec::new() }
    }

    /// See [`Replica::take_touched`].
    pub fn take_touched(&mut self) -> Vec<Arc<str>> {
        if let Form::Tree(replica) = &mut self.form { replica.take_touched() } else { Vec::new() }
    }

    /// See [`Replica::encode`].
    pub fn encode(&self) -> Result<Bytes, CrdtError> {
        match &self.form {
            Form::Tree(replica) => replica.encode(),
            Form::Bytes(encoded) => Ok(encoded.state.clone()),
        }
    }

    /// See [`Replica::diff`]. Wakes the tree for who has a part.
    pub fn diff(&mut self, state_vector: &[u8]) -> Result<Bytes, CrdtError> {
        if let Form::Bytes(encoded) = &self.form {
            let theirs: HashMap<_, _> = state_vector_entries(state_vector).collect();
            if let Some(diff) = encoded.diff(|client| theirs.get(&client).copied().unwrap_or(0)) {
                return Ok(diff);
            }
        }
        self.wake()?.diff(state_vector)
    }

    /// See [`Replica::diff_since`]. Wakes the tree for who has a part.
    pub fn diff_since(&mut self, known: &Known) -> Result<Bytes, CrdtError> {
        if let Form::Bytes(encoded) = &self.form
            && let Some(diff) = encoded.diff(|client| known.clock(client))
        {
            return Ok(diff);
        }
        self.wake()?.diff_since(known)
    }

    /// See [`Replica::known`].
    pub fn known(&self) -> Known {
        match &self.form {
            Form::Tree(replica) => replica.known(),
            Form::Bytes(encoded) => encoded.clocks.iter().collect(),
        }
    }

    /// See [`Replica::state_vector`].
    pub fn state_vector(&self) -> Bytes {
        match &self.form {
            Form::Tree(replica) => replica.state_vector(),
            Form::Bytes(encoded) => encoded.state_vector(),
        }
    }

    /// See [`Replica::read_register`].
    pub fn read_register(&mut self, name: &str) -> Result<Option<RegisterState>, CrdtError> {
        self.wake()?.read_register(name)
    }

    /// See [`Replica::write_register`].
    pub fn write_register(&mut self, name: &str, state: &RegisterState) -> Result<Bytes, CrdtError> {
        self.wake()?.write_register(name, state)
    }

    /// See [`Replica::held_at_load`].
    pub fn held_at_load(&self) -> bool {
        matches!(&self.form, Form::Tree(replica) if replica.held_at_load())
    }

    /// See [`Replica::held`].
    pub fn held(&self) -> impl ExactSizeIterator<Item = &Bytes> {
        match &self.form {
            Form::Tree(replica) => replica.held_entries(),
            Form::Bytes(_) => [].iter(),
        }
        .map(|held| &held.update)
    }
}

impl From<Replica> for Resting {
    fn from(replica: Replica) -> Self {
        Self { client: replica.client_id(), growth: replica.growth.limits, form: Form::Tree(Box::new(replica)) }
    }
}

impl Encoded {
    fn new(state: Bytes, clocks: Clocks) -> Self {
        let deletes_at = state.len() - delete_set(&state).len();
        Self { state, deletes_at, clocks }
    }

    /// Joins the updates of a log. `None` when one waits for something, overlaps another, or cannot be read.
    fn of(updates: &[Bytes]) -> Option<Self> {
        let mut clocks = Clocks::default();
        let mut wanted = Vec::with_capacity(updates.len());
        for update in updates {
            let verdict = verdict(update, &clocks, &ScanLimits::STORED).ok()?;
            match verdict.structs {
                _ if verdict.deletes_ahead => return None,
                Structs::Gap | Structs::MissingDependency | Structs::Overlaps => return None,
                Structs::Known if !verdict.deletes => continue,
                Structs::Known => return None,
                Structs::None if !verdict.deletes => continue,
                Structs::None | Structs::Fresh => {}
            }
            clocks.advance(update);
            wanted.push(update);
        }
        let state = match wanted[..] {
            [] => Bytes::from_static(&EMPTY_UPDATE),
            [only] => only.clone(),
            _ => join_updates(wanted.iter().map(|update| &update[..]))?.into(),
        };
        Some(Self::new(state, clocks))
    }

    /// True when an update changes nothing here.
    fn knows(&self, update: &[u8]) -> bool {
        if update == EMPTY_UPDATE {
            return true;
        }
        if !self.clocks.know_structs_of(update) {
            return false;
        }
        let deletes = deleted_ranges(delete_set(update));
        deletes.is_empty() || covers(deleted_ranges(self.delete_set()), &deletes)
    }

    fn delete_set(&self) -> &[u8] {
        &self.state[self.deletes_at..]
    }

    /// What a peer with these clocks lacks: all, or nothing but perhaps deletions. `None` for a peer with a part.
    fn diff(&self, theirs: impl Fn(u64) -> u64) -> Option<Bytes> {
        if self.clocks.iter().all(|(client, _)| theirs(client) == 0) {
            return Some(self.state.clone());
        }
        let in_sync = self.clocks.iter().all(|(client, clock)| theirs(client) >= clock);
        in_sync.then(|| {
            let deletes = self.delete_set();
            let mut diff = Vec::with_capacity(1 + deletes.len());
            diff.push(0);
            diff.extend_from_slice(deletes);
            diff.into()
        })
    }

    fn state_vector(&self) -> Bytes {
        let mut out = Vec::new();
        write_var_uint(&mut out, self.clocks.iter().count() as u64);
        for (client, clock) in self.clocks.iter() {
            write_var_uint(&mut out, client);
            write_var_uint(&mut out, clock);
        }
        out.into()
    }
}

/// True when every one of `wanted` lies in one of `ranges`; both as in delete sets.
pub(crate) fn covers(mut ranges: Vec<ClientRange>, wanted: &[ClientRange]) -> bool {
    ranges.sort_unstable_by_key(|range| (range.client, range.start));
    // Neighbours are one.
    ranges.dedup_by(|next, range| {
        let joins = next.client == range.client && next.start <= range.end;
        if joins {
            range.end = range.end.max(next.end);
        }
        joins
    });
    wanted.iter().all(|want| {
        let after = ranges.partition_point(|range| (range.client, range.start) <= (want.client, want.start));
        let range = after.checked_sub(1).map(|at| ranges[at]);
        range.is_some_and(|range| range.client == want.client && want.end <= range.end)
    })
}
