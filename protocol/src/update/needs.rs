//! The missing dependencies of an update: which clocks a document must reach before the update can be applied.

use std::collections::HashMap;

use super::verdict::{AllRanges, StateClock};
use super::walk::{ClientRange, Id, Kind, Struct, Visit, pass};
use super::{ScanError, ScanLimits};

/// For each client of which a document with `state` lacks something that `update` depends on or deletes, the next clock
/// that the document must have of it. Empty when nothing is missing ([`super::verdict`]).
///
/// # Errors
/// As [`super::scan_update`].
pub fn needs(update: &[u8], state: &impl StateClock) -> Result<Vec<(u64, u64)>, ScanError> {
    let mut all = AllRanges(Vec::new());
    pass(update, &ScanLimits::STORED, &mut all)?;
    let own = all.0.into_iter().map(|range| (range.client, range)).collect();
    let mut visitor = Needs { state, own, client: 0, covered: 0, needs: HashMap::new() };
    pass(update, &ScanLimits::STORED, &mut visitor)?;
    Ok(visitor.needs.into_iter().collect())
}

struct Needs<'a, S> {
    state: &'a S,
    /// The clocks that the update itself has of each client.
    own: HashMap<u64, ClientRange>,
    /// Client of the current section.
    client: u64,
    /// The clock up to which document and update together have that client.
    covered: u64,
    needs: HashMap<u64, u64>,
}

impl<S: StateClock> Needs<'_, S> {
    fn need(&mut self, client: u64, next: u64) {
        let needed = self.needs.entry(client).or_default();
        *needed = next.max(*needed);
    }

    fn is_there(&self, client: u64, clock: u64) -> bool {
        let is_own = |range: &ClientRange| range.start <= clock && clock < range.end;
        clock < self.state.clock(client) || self.own.get(&client).is_some_and(is_own)
    }
}

impl<S: StateClock> Visit for Needs<'_, S> {
    fn section(&mut self, client: u64, _clock: u64) {
        (self.client, self.covered) = (client, self.state.clock(client));
    }

    fn structure(&mut self, found: &Struct) {
        if matches!(found.kind, Kind::Skip) || found.end <= self.covered {
            return;
        }
        if found.start > self.covered {
            self.need(self.client, found.start);
        }
        self.covered = found.end;
        let Kind::Item { origin, right_origin, parent, .. } = found.kind else { return };
        for Id { client, clock } in [origin, right_origin, parent].into_iter().flatten() {
            if client != self.client && !self.is_there(client, clock) {
                self.need(client, clock + 1);
            }
        }
    }

    fn deleted(&mut self, client: u64, _start: u64, end: u64) {
        if !self.is_there(client, end - 1) {
            self.need(client, end);
        }
    }
}
