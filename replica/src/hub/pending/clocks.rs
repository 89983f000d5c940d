//! PURE: the clocks of all pending structs, to recognise structs that are sent again.
//!
//! A client sends the same elements in other bytes: it joins structs and drops deleted content, also behind a gap. So structs are
//! recognised by their clocks. Two clients may hold different bytes for the same clocks (a device that was restored from
//! a copy, an attacker), and the version that is pending may wait for something that never comes: so a struct is left out only if
//! its clocks are pending in structs that wait for nothing else than it does, and any other version is kept as well, once.

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;

use syncline_protocol::update::Id;
use syncline_protocol::update::raw::RawStruct;

/// Approximate memory of a run, and of a client.
const RUN_BYTES: usize = 40;

/// Runs that are compared with one struct. What a client joins is pending in one or two.
const MAX_RUNS_PER_STRUCT: usize = 16;

/// What a struct needs of other clients: at most two elements, in ascending order.
type Needs = [Option<Id>; 2];

/// Runs of clocks of one client whose structs need the same.
#[derive(Debug, Default)]
pub(super) struct PendingClocks {
    /// From the hash of client and needs, and the first clock, to the clock after the last one.
    runs: BTreeMap<(u64, u64), u64>,
    /// Number of runs of each client that has any.
    runs_of: HashMap<u64, usize>,
    hasher: RandomState,
}

impl PendingClocks {
    /// Approximate memory use, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        (self.runs.len() + self.runs_of.len()) * RUN_BYTES
    }

    /// True if structs of a client are pending.
    pub(super) fn has_client(&self, client: u64) -> bool {
        self.runs_of.contains_key(&client)
    }

    /// Adds the clocks of a struct.
    pub(super) fn add(&mut self, found: &RawStruct<'_>) {
        let (key, start, mut end) = (self.key(found.client, needs_of(found)), found.start, found.end);
        while let Some((&(of, before), until)) = self.runs.range_mut(..=(key, end)).next_back()
            && of == key
            && *until >= start
        {
            end = end.max(*until);
            if before <= start {
                *until = end;
                return;
            }
            self.remove_run(found.client, (key, before));
        }
        self.insert_run(found.client, (key, start), end);
    }

    /// Removes the clocks of a struct.
    pub(super) fn remove(&mut self, found: &RawStruct<'_>) {
        let (client, key, start, end) = (found.client, self.key(found.client, needs_of(found)), found.start, found.end);
        while let Some((&(of, before), &until)) = self.runs.range(..(key, end)).next_back()
            && of == key
            && until > start
        {
            self.remove_run(client, (key, before));
            if before < start {
                self.insert_run(client, (key, before), start);
            }
            if until > end {
                self.insert_run(client, (key, end), until);
            }
        }
    }

    fn insert_run(&mut self, client: u64, run: (u64, u64), end: u64) {
        self.runs.insert(run, end);
        *self.runs_of.entry(client).or_default() += 1;
    }

    fn remove_run(&mut self, client: u64, run: (u64, u64)) {
        self.runs.remove(&run);
        if let Entry::Occupied(mut runs) = self.runs_of.entry(client) {
            *runs.get_mut() -= 1;
            if *runs.get() == 0 {
                runs.remove();
            }
        }
    }

    /// The first clock of a struct that is not pending; its end if all are that the document, which has those below `known`, lacks.
    pub(super) fn first_missing(&self, found: &RawStruct<'_>, known: u64) -> u64 {
        let [first, second] = needs_of(found);
        let subsets: &[Needs] = match (first, second) {
            (None, None) => &[[None; 2]],
            (None, _) => &[[None; 2], [None, second]],
            _ => &[[None; 2], [None, first], [None, second], [first, second]],
        };
        let begin = found.start.max(known);
        let mut clock = begin;
        for _ in 0..MAX_RUNS_PER_STRUCT {
            let ends = subsets.iter().filter_map(|needs| self.end_of_run(self.key(found.client, *needs), clock));
            let Some(end) = ends.max() else { break };
            if end >= found.end {
                return found.end;
            }
            clock = end;
        }
        if clock == begin { found.start } else { clock }
    }

    /// The clock after the run that contains `clock`.
    fn end_of_run(&self, key: u64, clock: u64) -> Option<u64> {
        let (&(of, _), &end) = self.runs.range(..=(key, clock)).next_back()?;
        (of == key && end > clock).then_some(end)
    }

    fn key(&self, client: u64, needs: Needs) -> u64 {
        self.hasher.hash_one((client, needs))
    }
}

/// A struct needs no other client's element for what it names of its own client: those elements come before it.
fn needs_of(found: &RawStruct<'_>) -> Needs {
    let mut ids = found.dependencies().filter(|id| id.client != found.client);
    let mut needs = [ids.next(), ids.next()];
    needs.sort_unstable();
    if needs[0] == needs[1] {
        needs[0] = None;
    }
    needs
}

#[cfg(test)]
mod tests {
    use syncline_protocol::update::raw::RawSection;

    use super::*;

    /// Adds, removes, or finds the first missing clock of `len` letters of client 5 that need this element.
    fn with_letters<T>(clock: u64, len: u8, need: Option<u8>, then: impl FnOnce(&RawStruct<'_>) -> T) -> T {
        let origin = need.map_or([5, 0], |client| [client, 0]);
        let bytes = [&[0x84, origin[0], origin[1], len][..], &vec![b'x'; usize::from(len)]].concat();
        then(&RawSection::new(5, clock, 1, &bytes).next().unwrap())
    }

    #[test]
    fn clocks_are_pending_if_structs_with_no_other_needs_have_them() {
        let mut clocks = PendingClocks::default();
        for (clock, len, need) in [(10, 2, None), (12, 3, Some(7)), (20, 5, None), (15, 5, None)] {
            with_letters(clock, len, need, |found| clocks.add(found));
        }
        assert_eq!((clocks.runs.len(), clocks.runs_of[&5]), (3, 3));
        let first_missing = |clocks: &PendingClocks, clock, len, need| {
            with_letters(clock, len, need, |found| clocks.first_missing(found, 0))
        };
        for (clock, len, need, expected) in [
            (10, 2, None, 12),
            (10, 5, None, 12),
            (10, 20, Some(7), 25),
            (10, 20, Some(8), 12),
            (16, 4, None, 20),
            (9, 4, None, 9),
            (24, 4, None, 25),
        ] {
            assert_eq!(
                first_missing(&clocks, clock, len, need),
                expected,
                "{len} letters at {clock} that need {need:?}"
            );
        }
        with_letters(17, 2, None, |found| clocks.remove(found));
        assert_eq!((first_missing(&clocks, 15, 10, None), first_missing(&clocks, 19, 6, None)), (17, 25));
        with_letters(0, 100, None, |found| clocks.remove(found));
        assert_eq!((clocks.runs.len(), first_missing(&clocks, 12, 3, Some(7))), (1, 15));
        with_letters(0, 100, Some(7), |found| clocks.remove(found));
        assert!(clocks.runs.is_empty() && !clocks.has_client(5));
    }
}
