//! How much work an update would be: items that were put into the same gap apart from each other.
//!
//! An item names its left and right neighbour at the time it was made. Where they are no longer side by side, every Yjs
//! implementation compares it with what lies between. In real editing each gap is used once: whoever inserts next to
//! the same neighbour sees what was inserted before. So items of one gap are taken in the order of their dependencies,
//! as a CRDT would take them, and an item is a *conflict* if its right neighbour is not the newest beside its left one.
//!
//! Nothing is remembered about gaps that only a few items name, so this needs about a megabyte for the largest update.

use std::collections::HashMap;

use super::walk::{Id, Kind, Struct, Visit, pass};
use super::{ScanLimits, StateClock};

/// A gap that fewer items name costs nothing worth counting.
const HARMLESS: u8 = 8;
const MIN_COUNTERS: usize = 1 << 10;
const MAX_COUNTERS: usize = 1 << 20;

/// What [`conflicts`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conflicts {
    /// Items that meet others in their gap.
    pub items: u64,
    /// How many they meet, in all: comparisons at least.
    pub meetings: u64,
}

/// Counts the conflicts among the items of `updates` that a document with `state` lacks. The updates have passed
/// [`super::scan_update`]; `fresh` is about how many items those are.
pub fn conflicts<'a>(
    updates: impl Iterator<Item = &'a [u8]> + Clone,
    state: &impl StateClock,
    fresh: u64,
) -> Conflicts {
    let counters = usize::try_from(fresh).unwrap_or(MAX_COUNTERS).next_power_of_two();
    let mut named = Named(vec![0; counters.clamp(MIN_COUNTERS, MAX_COUNTERS)]);
    for update in updates.clone() {
        walk_fresh(update, state, |_, gap, _| named.count(gap));
    }
    let mut gaps: HashMap<Gap, Vec<Item>> = HashMap::new();
    for update in updates {
        walk_fresh(update, state, |id, gap, right| {
            if named.is_crowded(gap) {
                gaps.entry(gap).or_default().push(Item { id, right });
            }
        });
    }
    let mut found = Conflicts::default();
    for (&gap, items) in &gaps {
        fill_gap(gap, items, &mut found);
    }
    found
}

/// The left end of a gap: an item, or the beginning of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Gap {
    After(u64, u64),
    Beginning(u64),
    /// Of a list that only the right neighbour knows.
    SomeBeginning,
}

#[derive(Debug)]
struct Item {
    id: (u64, u64),
    right: Option<(u64, u64)>,
}

/// How often gaps are named, several of them sharing a counter.
struct Named(Vec<u8>);

impl Named {
    fn place(&self, gap: Gap) -> usize {
        let mixed = match gap {
            Gap::After(client, clock) => client.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ clock,
            Gap::Beginning(place) => place,
            Gap::SomeBeginning => 0,
        };
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize & (self.0.len() - 1)
    }

    fn count(&mut self, gap: Gap) {
        let place = self.place(gap);
        self.0[place] = self.0[place].saturating_add(1);
    }

    fn is_crowded(&self, gap: Gap) -> bool {
        self.0[self.place(gap)] >= HARMLESS
    }
}

/// One gap as it fills.
#[derive(Debug, Default)]
struct Filled {
    taken: u64,
    /// The right neighbour of the left end now, if it is one of these items.
    newest: Option<(u64, u64)>,
}

impl Filled {
    fn take(&mut self, item: &Item, found: &mut Conflicts) {
        let is_first = self.taken == 0;
        let is_beside = item.right.is_some() && item.right == self.newest;
        if !is_first && !is_beside {
            found.items += 1;
            found.meetings += self.taken;
        }
        self.taken += 1;
        // Of two in conflict, the one of the smaller client comes first.
        if is_first || is_beside || self.newest.is_some_and(|(client, _)| item.id.0 < client) {
            self.newest = Some(item.id);
        }
    }
}

/// Takes the items of one gap, each after its right neighbour. [`Gap::SomeBeginning`] is one gap for each list: that of
/// the right neighbour.
fn fill_gap(gap: Gap, items: &[Item], found: &mut Conflicts) {
    let places: HashMap<_, _> = items.iter().enumerate().map(|(index, item)| (item.id, index)).collect();
    let mut filled: HashMap<Option<(u64, u64)>, Filled> = HashMap::new();
    // The right neighbour of a list's first item stands for the list.
    let mut list_of: Vec<Option<Option<(u64, u64)>>> = vec![None; items.len()];
    let mut waiting = Vec::new();
    for first in 0..items.len() {
        waiting.push(first);
        while let Some(&index) = waiting.last() {
            let item = &items[index];
            let right = item.right.and_then(|right| places.get(&right)).copied();
            // A circle is the document's to refuse.
            let waits = right.filter(|&right| list_of[right].is_none() && waiting.len() <= items.len());
            if let (None, Some(right)) = (list_of[index], waits) {
                waiting.push(right);
                continue;
            }
            waiting.pop();
            if list_of[index].is_some() {
                continue;
            }
            let own_list = if gap == Gap::SomeBeginning { item.right } else { None };
            let list = right.and_then(|right| list_of[right]).unwrap_or(own_list);
            list_of[index] = Some(list);
            filled.entry(list).or_default().take(item, found);
        }
    }
}

/// Tells of every item that the document lacks: its id, the gap's left end, its right neighbour.
fn walk_fresh(update: &[u8], state: &impl StateClock, tell: impl FnMut((u64, u64), Gap, Option<(u64, u64)>)) {
    let mut visitor = Fresh { state, covered: 0, tell };
    // Sound, or it would not have come here.
    pass(update, &ScanLimits::STORED, &mut visitor).ok();
}

struct Fresh<'a, S, F> {
    state: &'a S,
    covered: u64,
    tell: F,
}

impl<S: StateClock, F: FnMut((u64, u64), Gap, Option<(u64, u64)>)> Visit for Fresh<'_, S, F> {
    fn section(&mut self, client: u64, _clock: u64) {
        self.covered = self.state.clock(client);
    }

    fn structure(&mut self, found: &Struct) {
        let Kind::Item { origin, right_origin, place, .. } = found.kind else { return };
        if found.end <= self.covered {
            return;
        }
        let pair = |id: Id| (id.client, id.clock);
        let gap = match (origin, right_origin) {
            (Some(left), _) => Gap::After(left.client, left.clock),
            (None, None) => Gap::Beginning(place),
            (None, Some(_)) => Gap::SomeBeginning,
        };
        (self.tell)((found.client, found.start), gap, right_origin.map(pair));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::varint::write_var_uint;

    /// One letter each: (client, clock, origin, right origin), grouped by client.
    fn update(items: &[(u64, u64, Option<(u64, u64)>, Option<(u64, u64)>)]) -> Vec<u8> {
        let mut update = Vec::new();
        let sections: Vec<_> = items.chunk_by(|one, other| one.0 == other.0).collect();
        write_var_uint(&mut update, sections.len() as u64);
        for section in sections {
            for number in [section.len() as u64, section[0].0, section[0].1] {
                write_var_uint(&mut update, number);
            }
            for (_, _, origin, right) in section {
                update.push(4 | u8::from(origin.is_some()) << 7 | u8::from(right.is_some()) << 6);
                for (client, clock) in origin.iter().chain(right) {
                    write_var_uint(&mut update, *client);
                    write_var_uint(&mut update, *clock);
                }
                if origin.is_none() && right.is_none() {
                    update.extend([1, 1, b't']);
                }
                update.extend([1, b'x']);
            }
        }
        update.push(0);
        crate::update::scan_update(&update, &ScanLimits::default()).unwrap();
        update
    }

    fn count(items: &[(u64, u64, Option<(u64, u64)>, Option<(u64, u64)>)]) -> Conflicts {
        let update = update(items);
        conflicts([&update[..]].into_iter(), &|_| 0, items.len() as u64)
    }

    #[test]
    fn typing_and_prepending_conflict_with_nothing() {
        let typed: Vec<_> =
            (0..1_000u64).map(|clock| (1, clock, clock.checked_sub(1).map(|left| (1, left)), None)).collect();
        assert_eq!(count(&typed), Conflicts::default());
        let prepended: Vec<_> =
            (0..1_000u64).map(|clock| (1, clock, None, clock.checked_sub(1).map(|right| (1, right)))).collect();
        assert_eq!(count(&prepended), Conflicts::default());
    }

    #[test]
    fn two_who_take_turns_in_one_gap_do_not_conflict() {
        // Of a full state, where one client's items all come before the other's: each names the other's as its right.
        let mut items = vec![(1, 0, Some((9, 0)), Some((9, 1)))];
        items.extend((1..500).map(|clock| (1, clock, Some((9, 0)), Some((2, clock - 1)))));
        items.extend((0..500).map(|clock| (2, clock, Some((9, 0)), Some((1, clock)))));
        assert_eq!(count(&items), Conflicts::default());
        // Nor in two lists by turns.
        let mut lists = vec![(1, 0, None, Some((9, 0))), (1, 1, None, Some((9, 100)))];
        lists.extend((2..1_000).map(|clock| (1, clock, None, Some((1, clock - 2)))));
        assert_eq!(count(&lists), Conflicts::default());
    }

    #[test]
    fn apart_from_each_other_they_do() {
        // One gap, a right neighbour for each.
        let spread: Vec<_> = (0..1_000).map(|clock| (1, clock, Some((9, 0)), Some((9, clock + 1)))).collect();
        assert_eq!(count(&spread), Conflicts { items: 999, meetings: 999 * 1_000 / 2 });
        // Many clients begin one list.
        let beginnings: Vec<_> = (0..100).map(|client| (client + 1, 0, None, None)).collect();
        assert_eq!(count(&beginnings).items, 99);
        // Two chains in one gap: each item of the second passes the first.
        let chain = |client: u64| {
            (0..500).map(move |clock| {
                (client, clock, Some((9, 0)), Some(if clock == 0 { (9, 1) } else { (client, clock - 1) }))
            })
        };
        let chains: Vec<_> = chain(1).chain(chain(2)).collect();
        assert_eq!(count(&chains).items, 500);
    }
}
