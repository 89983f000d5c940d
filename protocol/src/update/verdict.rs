//! Classifies an update against a document of which only the clocks are known.

use super::id::Id;
use super::parse::{ClientRange, StructHeader, StructKind, Visitor, walk, walk_once};
use super::{ScanError, ScanLimits, Summary};

/// A state vector, however it is stored.
pub trait StateClock {
    /// The next clock of `client`: 0 when the client is unknown.
    fn clock(&self, client: u64) -> u64;
}

impl<F: Fn(u64) -> u64> StateClock for F {
    fn clock(&self, client: u64) -> u64 {
        self(client)
    }
}

/// How the structs of an update relate to a document. When several variants apply, the first in this order is reported:
/// `Gap`, `MissingDependency`, `Overlaps`, then `Fresh` or `Known`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Structs {
    /// The update has no structs.
    None,
    /// The document has all of them.
    Known,
    /// The document has none of them, and nothing that they depend on is missing.
    Fresh,
    /// The document has some of them.
    Overlaps,
    /// A struct depends on an element that is neither in the document nor in the update.
    MissingDependency,
    /// A struct starts after the next clock of its client: structs in between are missing.
    Gap,
}

/// The effect of an update on a document, as far as clocks show it. Cyclic dependencies within the update are not
/// detected (see [`super::is_circular`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// How the structs relate to the document.
    pub structs: Structs,
    /// The delete set is not empty. Clocks do not show whether its elements were deleted before.
    pub deletes: bool,
    /// An element is deleted that neither the document nor the update has: the deletion would stay pending.
    pub deletes_ahead: bool,
    /// Items whose parent is another item: an upper bound for the levels that the update adds to the nesting of types.
    pub nested: u64,
    /// Number of structs that the document lacks.
    pub fresh: u64,
    /// Number of clients that the document does not know.
    pub new_clients: u64,
}

/// Scans `update` and compares it with `state`.
///
/// # Errors
/// As [`super::scan_update`].
pub fn verdict(update: &[u8], state: &impl StateClock, limits: &ScanLimits) -> Result<Verdict, ScanError> {
    let mut comparison = Comparison::new(state, OwnRanges::default());
    let summary = walk(update, limits, &mut comparison)?;
    if let Some(verdict) = comparison.verdict(&summary) {
        return Ok(verdict);
    }
    // More ranges or dependencies than the first pass can keep: repeat with all ranges of the update.
    let mut all = RangeCollector(Vec::new());
    walk_once(update, limits, &mut all)?;
    all.0.sort_unstable_by_key(|range| range.client);
    let mut comparison = Comparison::new(state, OwnRanges::All(all.0));
    walk_once(update, limits, &mut comparison)?;
    let missing = Verdict {
        structs: Structs::MissingDependency,
        deletes: true,
        deletes_ahead: true,
        nested: summary.nested,
        fresh: comparison.fresh,
        new_clients: comparison.new_clients,
    };
    Ok(comparison.verdict(&summary).unwrap_or(missing))
}

/// How many sections, and how many unresolved dependencies on other clients, the first pass keeps.
const MAX_KEPT: usize = 8;
const NO_RANGE: ClientRange = ClientRange { client: 0, start: 0, end: 0 };

/// The clock ranges of the update's own sections.
enum OwnRanges {
    /// First pass: the first [`MAX_KEPT`] ranges. `len` counts all of them.
    First { ranges: [ClientRange; MAX_KEPT], len: usize },
    /// Second pass: all ranges, sorted by client.
    All(Vec<ClientRange>),
}

impl Default for OwnRanges {
    fn default() -> Self {
        OwnRanges::First { ranges: [NO_RANGE; MAX_KEPT], len: 0 }
    }
}

impl OwnRanges {
    fn push(&mut self, range: ClientRange) {
        if let OwnRanges::First { ranges, len } = self {
            if let Some(slot) = ranges.get_mut(*len) {
                *slot = range;
            }
            *len += 1;
        }
    }

    fn contains(&self, id: Id) -> bool {
        let range = match self {
            OwnRanges::First { ranges, len } => {
                ranges[..MAX_KEPT.min(*len)].iter().find(|range| range.client == id.client)
            }
            OwnRanges::All(ranges) => {
                ranges.binary_search_by_key(&id.client, |range| range.client).ok().map(|index| &ranges[index])
            }
        };
        range.is_some_and(|range| range.start <= id.clock && id.clock < range.end)
    }

    fn is_complete(&self) -> bool {
        match self {
            OwnRanges::First { len, .. } => *len <= MAX_KEPT,
            OwnRanges::All(_) => true,
        }
    }
}

/// Collects the range of every section, up to its last struct that is not a skip.
pub(super) struct RangeCollector(pub(super) Vec<ClientRange>);

impl Visitor for RangeCollector {
    fn visit_section(&mut self, client: u64, clock: u64) {
        self.0.push(ClientRange { client, start: clock, end: clock });
    }

    fn visit_struct(&mut self, found: &StructHeader) {
        if let (Some(last), false) = (self.0.last_mut(), matches!(found.kind, StructKind::Skip)) {
            last.end = found.end;
        }
    }
}

struct Comparison<'a, S> {
    state: &'a S,
    own_ranges: OwnRanges,
    /// The section being read.
    section: ClientRange,
    /// The clock up to which document and update together have the section's client.
    covered: u64,
    /// The last client whose clock was looked up in the document, and that clock.
    last_lookup: Option<(u64, u64)>,
    unresolved: [Id; MAX_KEPT],
    unresolved_len: usize,
    known: bool,
    fresh: u64,
    new_clients: u64,
    overlaps: bool,
    gap: bool,
    deletes: bool,
    deletes_ahead: bool,
    /// A deleted element was not found in the kept ranges, and some ranges were not kept.
    deletes_undecided: bool,
}

impl<'a, S: StateClock> Comparison<'a, S> {
    fn new(state: &'a S, own_ranges: OwnRanges) -> Self {
        Self {
            state,
            own_ranges,
            section: NO_RANGE,
            covered: 0,
            last_lookup: None,
            unresolved: [Id { client: 0, clock: 0 }; MAX_KEPT],
            unresolved_len: 0,
            known: false,
            fresh: 0,
            new_clients: 0,
            overlaps: false,
            gap: false,
            deletes: false,
            deletes_ahead: false,
            deletes_undecided: false,
        }
    }

    fn document_clock(&mut self, client: u64) -> u64 {
        match self.last_lookup {
            Some((last_client, clock)) if last_client == client => clock,
            _ => {
                let clock = self.state.clock(client);
                self.last_lookup = Some((client, clock));
                clock
            }
        }
    }

    fn depends_on(&mut self, id: Id) {
        // An earlier clock of the same section is present unless the section has a gap, and `Gap` takes precedence.
        if id.client == self.section.client || id.clock < self.document_clock(id.client) || self.own_ranges.contains(id)
        {
            return;
        }
        if let Some(slot) = self.unresolved.get_mut(self.unresolved_len) {
            *slot = id;
        }
        self.unresolved_len += 1;
    }

    fn end_section(&mut self) {
        if self.section.end > self.section.start {
            self.own_ranges.push(self.section);
            self.section = NO_RANGE;
        }
    }

    /// `None` when the ranges or dependencies that were kept do not suffice to decide.
    fn verdict(mut self, summary: &Summary) -> Option<Verdict> {
        self.end_section();
        let kept = self.unresolved_len.min(MAX_KEPT);
        let missing = self.unresolved[..kept].iter().any(|&id| !self.own_ranges.contains(id));
        let is_decided = match self.own_ranges {
            OwnRanges::All(_) => true,
            // A dependency that was not found may be in a range that was not kept; one that was not kept may be missing.
            OwnRanges::First { .. } if missing => self.own_ranges.is_complete(),
            OwnRanges::First { .. } => self.unresolved_len <= MAX_KEPT,
        };
        if (!is_decided && !self.gap) || self.deletes_undecided {
            return None;
        }
        let missing = missing || self.unresolved_len > MAX_KEPT;
        let structs = match (self.gap, missing, self.overlaps || (self.known && self.fresh > 0)) {
            (true, _, _) => Structs::Gap,
            (_, true, _) => Structs::MissingDependency,
            (_, _, true) => Structs::Overlaps,
            _ if self.fresh > 0 => Structs::Fresh,
            _ if self.known => Structs::Known,
            _ => Structs::None,
        };
        Some(Verdict {
            structs,
            deletes: self.deletes,
            deletes_ahead: self.deletes_ahead,
            nested: summary.nested,
            fresh: self.fresh,
            new_clients: self.new_clients,
        })
    }
}

impl<S: StateClock> Visitor for Comparison<'_, S> {
    fn visit_section(&mut self, client: u64, clock: u64) {
        self.end_section();
        self.section = ClientRange { client, start: clock, end: clock };
        self.covered = self.state.clock(client);
        self.new_clients += u64::from(self.covered == 0);
    }

    #[inline]
    fn visit_struct(&mut self, found: &StructHeader) {
        // A skip leaves a gap before the next struct, unless the document has the skipped clocks.
        if let StructKind::Skip = found.kind {
            return;
        }
        self.section.end = found.end;
        if found.end <= self.covered {
            self.known = true;
            return;
        }
        self.gap |= found.start > self.covered;
        self.overlaps |= found.start < self.covered;
        self.fresh += 1;
        self.covered = found.end;
        if let StructKind::Item { origin, right_origin, parent, .. } = found.kind {
            for id in [origin, right_origin, parent].into_iter().flatten() {
                self.depends_on(id);
            }
        }
    }

    fn visit_deletion(&mut self, client: u64, _start: u64, end: u64) {
        self.end_section();
        self.deletes = true;
        if end > self.document_clock(client) && !self.own_ranges.contains(Id { client, clock: end - 1 }) {
            self.deletes_ahead |= self.own_ranges.is_complete();
            self.deletes_undecided |= !self.own_ranges.is_complete();
        }
    }
}
