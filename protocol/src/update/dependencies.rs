//! The missing dependencies of an update: which clocks a document must reach before the update can be applied.

use std::collections::HashMap;

use super::id::Id;
use super::parse::{ClientRange, StructHeader, StructKind, Visitor, walk_once};
use super::verdict::{RangeCollector, StateClock};
use super::{ScanError, ScanLimits};

/// For each client of which a document with `state` lacks something that `update` depends on or deletes, the next clock
/// that the document must have of it. Empty when nothing is missing ([`super::verdict`]).
///
/// # Errors
/// As [`super::scan_update`].
pub fn needs(update: &[u8], state: &impl StateClock) -> Result<Vec<(u64, u64)>, ScanError> {
    let mut all = RangeCollector(Vec::new());
    walk_once(update, &ScanLimits::STORED, &mut all)?;
    let own_ranges = all.0.into_iter().map(|range| (range.client, range)).collect();
    let mut visitor = NeedsVisitor { state, own_ranges, client: 0, covered: 0, needs: HashMap::new() };
    walk_once(update, &ScanLimits::STORED, &mut visitor)?;
    Ok(visitor.needs.into_iter().collect())
}

struct NeedsVisitor<'a, S> {
    state: &'a S,
    /// The clocks that the update itself has of each client.
    own_ranges: HashMap<u64, ClientRange>,
    /// Client of the current section.
    client: u64,
    /// The clock up to which document and update together have that client.
    covered: u64,
    needs: HashMap<u64, u64>,
}

impl<S: StateClock> NeedsVisitor<'_, S> {
    fn require(&mut self, client: u64, next: u64) {
        let needed = self.needs.entry(client).or_default();
        *needed = next.max(*needed);
    }

    fn is_present(&self, client: u64, clock: u64) -> bool {
        let is_own = |range: &ClientRange| range.start <= clock && clock < range.end;
        clock < self.state.clock(client) || self.own_ranges.get(&client).is_some_and(is_own)
    }
}

impl<S: StateClock> Visitor for NeedsVisitor<'_, S> {
    fn visit_section(&mut self, client: u64, _clock: u64) {
        (self.client, self.covered) = (client, self.state.clock(client));
    }

    fn visit_struct(&mut self, found: &StructHeader) {
        if matches!(found.kind, StructKind::Skip) || found.end <= self.covered {
            return;
        }
        if found.start > self.covered {
            self.require(self.client, found.start);
        }
        self.covered = found.end;
        let StructKind::Item { origin, right_origin, parent, .. } = found.kind else { return };
        for Id { client, clock } in [origin, right_origin, parent].into_iter().flatten() {
            if client != self.client && !self.is_present(client, clock) {
                self.require(client, clock + 1);
            }
        }
    }

    fn visit_deletion(&mut self, client: u64, _start: u64, end: u64) {
        if !self.is_present(client, end - 1) {
            self.require(client, end);
        }
    }
}
