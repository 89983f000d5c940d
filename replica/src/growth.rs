//! PURE: how large a document may become, and how much work one update may be.
//!
//! A limit is asked before an update is taken, never when a stored document is read. What would make the document larger
//! is then refused; deletions are taken, so it can be made smaller again.

use std::collections::HashSet;

use syncline_protocol::update::{Conflicts, StateClock, Structs, Verdict, conflicts, update_ranges};

use super::crdt::CrdtError;
use super::replica::Replica;

/// A full group in the fullest table that chance makes holds 14 ids on average, and fewer than 50 at worst (as in the
/// scanner's `clients.rs`, which looks at one message).
const SLACK: u16 = 48;
/// Places of a group in yrs' tables.
const GROUP: u64 = 16;
/// Fewer clients than this cost nothing however they collide.
const HARMLESS_CLIENTS: usize = 64;

/// An update of fewer steps is too little to be watched: yrs makes about a million a second at worst.
const UNWATCHED_STEPS: u64 = 1_000_000;
/// The same for bytes that cuts in long strings copy: about five billion a second.
const UNWATCHED_COPIES: u64 = 1 << 28;
/// Shortest item, and shortest deleted range.
const MIN_ITEM_BYTES: usize = 4;
pub(crate) const MIN_PART_BYTES: usize = 2;
/// Work of one piece of an update that is watched, at worst.
const PIECE_STEPS: u64 = 2 * UNWATCHED_STEPS;
const PIECE_COPIES: u64 = 4 * UNWATCHED_COPIES;

/// What a document may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrowthLimits {
    /// Bytes of its state as a v1 update.
    pub bytes: usize,
    /// Clients in its whole life.
    pub clients: usize,
    /// Meetings of items in the gaps of one update ([`Conflicts`]).
    pub meetings: u64,
    /// Conflicts of one update, times the items it may have to pass: those of the document and its own.
    pub steps: u64,
}

impl GrowthLimits {
    /// None at all.
    pub const NONE: Self = Self { bytes: usize::MAX, clients: usize::MAX, meetings: u64::MAX, steps: u64::MAX };
}

impl Default for GrowthLimits {
    /// Work is limited so that one message costs seconds at most: yrs makes about two million comparisons a second.
    fn default() -> Self {
        Self { meetings: 2_000_000, steps: 100_000_000, ..Self::NONE }
    }
}

impl GrowthLimits {
    /// An update of `fresh` items need not be looked at: even if all of them were in conflict it would not be too much.
    pub(crate) fn is_harmless(&self, fresh: u64, items: u64) -> bool {
        fresh.saturating_mul(fresh) / 2 <= self.meetings / 16 && fresh.saturating_mul(items) <= self.steps / 16
    }

    pub(crate) fn allows(&self, found: Conflicts, items: u64) -> bool {
        found.meetings <= self.meetings && found.items.saturating_mul(items) <= self.steps
    }
}

/// [`Replica::is_much`] by lengths alone, for a document of `state` bytes.
pub(crate) fn is_much(state: usize, update: usize) -> bool {
    let growth = Growth { bytes: state, items: (state / MIN_ITEM_BYTES) as u64, ..Growth::default() };
    !growth.is_little(update, (update / MIN_PART_BYTES) as u64)
}

/// What a document has too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Bytes.
    Bytes,
    /// Clients.
    Clients,
}

/// How large a document is.
#[derive(Debug)]
pub(crate) struct Growth {
    pub(crate) limits: GrowthLimits,
    /// Its state has at most this many bytes. Rises with every update; measured anew when it reaches the limit.
    pub(crate) bytes: usize,
    /// Something was taken since the last measurement.
    is_stale: bool,
    /// It has at most this many items.
    pub(crate) items: u64,
}

impl Default for Growth {
    fn default() -> Self {
        Self { limits: GrowthLimits::NONE, bytes: 0, is_stale: false, items: 0 }
    }
}

impl Growth {
    /// An update of this length, with so many structs and deleted ranges, needs no watching: at worst each of them passes
    /// every item of the document (it lies behind one of them, and its right neighbour far from that) and copies all its
    /// bytes (it cuts a string in two).
    pub(crate) fn is_little(&self, len: usize, parts: u64) -> bool {
        let (items, bytes) = self.with(len, parts);
        parts.saturating_mul(items) <= UNWATCHED_STEPS && parts.saturating_mul(bytes) <= UNWATCHED_COPIES
    }

    /// How many structs and deleted ranges of an update make a piece; `None`: it needs no pieces.
    pub(crate) fn piece_of(&self, len: usize, verdict: &Verdict) -> Option<usize> {
        let parts = verdict.fresh.saturating_add(verdict.delete_ranges);
        if parts < 2 || self.is_little(len, parts) {
            return None;
        }
        let (items, bytes) = self.with(len, parts);
        let most = (PIECE_STEPS / items.max(1)).min(PIECE_COPIES / bytes.max(1)).max(1);
        Some(usize::try_from(most).unwrap_or(usize::MAX))
    }

    /// The items and bytes that the document has with an update at most.
    fn with(&self, len: usize, parts: u64) -> (u64, u64) {
        (self.items.saturating_add(parts), self.bytes.saturating_add(len) as u64)
    }

    /// Something was taken.
    pub(crate) fn note(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.is_stale = true;
    }
}

impl Replica {
    /// From now on these hold for what is taken.
    pub fn limit_growth(&mut self, limits: GrowthLimits) {
        self.growth.limits = limits;
    }

    /// What the document has too much of for `more` bytes.
    pub fn lacks_room_for(&mut self, more: usize) -> Result<Option<Full>, CrdtError> {
        let Growth { limits, bytes, is_stale, .. } = self.growth;
        if bytes.saturating_add(more) > limits.bytes && is_stale {
            self.growth.bytes = self.encode()?.len();
            self.growth.is_stale = false;
        }
        Ok((self.growth.bytes.saturating_add(more) > limits.bytes).then_some(Full::Bytes))
    }

    /// `Some`: it would make the document too large. An error: nobody's editor makes such a thing.
    pub(crate) fn refuses_growth(
        &mut self,
        update: &[u8],
        verdict: &Verdict,
        waits: bool,
    ) -> Result<Option<Full>, CrdtError> {
        if matches!(verdict.structs, Structs::None | Structs::Known) {
            return Ok(None);
        }
        if verdict.new_clients > 0 {
            let clocks = &self.clocks;
            let newcomers: Vec<_> =
                update_ranges(update).map(|range| range.client).filter(|&client| clocks.clock(client) == 0).collect();
            if clocks.crowd.len() + newcomers.len() > self.growth.limits.clients {
                return Ok(Some(Full::Clients));
            }
            if self.growth.limits.clients < usize::MAX && clocks.crowd.would_collide(&newcomers) {
                return Err(CrdtError::Undecodable("its client ids are chosen to collide with others".into()));
            }
        }
        self.refuse_work(update, verdict, waits)?;
        self.lacks_room_for(update.len())
    }

    /// True when an update would wait with others, and setting them free could be too much work.
    pub(crate) fn would_burden(&self, update: &[u8], verdict: &Verdict) -> bool {
        let Growth { limits, items, .. } = self.growth;
        let waiting = self.held_items().saturating_add(verdict.fresh);
        waiting.saturating_mul(items.saturating_add(waiting)) > limits.steps
            && !self.held().any(|held| held[..] == *update)
    }

    /// What waits is set free at once: it is one with what is there already.
    fn refuse_work(&self, update: &[u8], verdict: &Verdict, waits: bool) -> Result<(), CrdtError> {
        let Growth { limits, items, .. } = self.growth;
        let waiting = if waits { self.held_items() } else { 0 };
        let (fresh, items) = (verdict.fresh + waiting, items + verdict.fresh);
        if limits.is_harmless(fresh, items) {
            return Ok(());
        }
        let held = self.held().filter(|_| waits).map(|held| &held[..]);
        let updates: Vec<_> = held.chain([update]).collect();
        let found = conflicts(updates.iter().copied(), &self.clocks, fresh);
        if limits.allows(found, items) {
            return Ok(());
        }
        let why = format!("{} of its items were put into the same places apart from each other", found.items);
        Err(CrdtError::Undecodable(why))
    }

    /// The clients of an update that is held.
    pub(crate) fn wait_in_crowd(&mut self, update: &[u8]) {
        for client in update_ranges(update).map(|range| range.client) {
            if self.clocks.clock(client) == 0 {
                self.clocks.crowd.add_waiting(client);
            }
        }
    }
}

/// The clients of a document as keys in yrs' tables, which hash an id to itself: how many share each group of places.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    clients: Vec<u64>,
    /// Those of updates that wait: counted already.
    waiting: HashSet<u64>,
    filled: Vec<u16>,
}

impl Crowd {
    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Of an update that was taken.
    pub(crate) fn add(&mut self, client: u64) {
        if !self.waiting.remove(&client) {
            self.count(client);
        }
    }

    /// Of an update that waits.
    pub(crate) fn add_waiting(&mut self, client: u64) {
        if self.waiting.insert(client) {
            self.count(client);
        }
    }

    fn count(&mut self, client: u64) {
        self.clients.push(client);
        let groups = groups_for(self.clients.len());
        if groups == self.filled.len() {
            let group = place(client, groups);
            self.filled[group] = self.filled[group].saturating_add(1);
        } else {
            self.filled = vec![0; groups];
            for &client in &self.clients {
                let filled = &mut self.filled[place(client, groups)];
                *filled = filled.saturating_add(1);
            }
        }
    }

    /// Whether `newcomers` would make a group fuller than chance ever makes one.
    pub(crate) fn would_collide(&self, newcomers: &[u64]) -> bool {
        let total = self.clients.len() + newcomers.len();
        if total <= HARMLESS_CLIENTS {
            return false;
        }
        // As in the table that yrs will have.
        let groups = groups_for(total);
        let mean = u16::try_from(total / groups).unwrap_or(u16::MAX);
        let limit = mean.saturating_add(mean / 4).saturating_add(SLACK);
        if groups == self.filled.len() {
            return newcomers.iter().any(|&client| self.filled[place(client, groups)] >= limit);
        }
        let mut filled = vec![0u16; groups];
        self.clients.iter().chain(newcomers).any(|&client| {
            let filled = &mut filled[place(client, groups)];
            *filled = filled.saturating_add(1);
            *filled > limit
        })
    }
}

fn groups_for(clients: usize) -> usize {
    let places = (clients * 8 / 7 + 1).next_power_of_two();
    (places / GROUP as usize).max(1)
}

fn place(client: u64, groups: usize) -> usize {
    (client / GROUP) as usize & (groups - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd_of(clients: impl Iterator<Item = u64>) -> (Crowd, usize) {
        let (mut crowd, mut refused) = (Crowd::default(), 0);
        for client in clients {
            if crowd.would_collide(&[client]) {
                refused += 1;
            } else {
                crowd.add(client);
            }
        }
        (crowd, refused)
    }

    #[test]
    fn ids_by_chance_and_ids_in_a_row_do_not_collide() {
        let mixed = (1..100_000u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32);
        assert_eq!(crowd_of(mixed).1, 0);
        assert_eq!(crowd_of(1..100_000).1, 0);
    }

    #[test]
    fn chosen_ids_do_one_by_one() {
        let (crowd, refused) = crowd_of((0..20_000).map(|n| n << 21));
        assert!(crowd.len() < 100 && refused > 19_900, "{} taken", crowd.len());
    }

    #[test]
    fn what_waited_is_counted_once() {
        let mut crowd = Crowd::default();
        crowd.add_waiting(7);
        crowd.add_waiting(7);
        crowd.add(7);
        assert_eq!(crowd.len(), 1);
    }
}
