//! Classifies an update against a document of which only the clocks are known.

use super::walk::{ClientRange, Id, Kind, Struct, Visit, pass, walk};
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
    let mut compare = Compare::new(state, Own::default());
    let summary = walk(update, limits, &mut compare)?;
    if let Some(verdict) = compare.verdict(&summary) {
        return Ok(verdict);
    }
    // More ranges or dependencies than the first pass can keep: repeat with all ranges of the update.
    let mut all = AllRanges(Vec::new());
    pass(update, limits, &mut all)?;
    all.0.sort_unstable_by_key(|range| range.client);
    let mut compare = Compare::new(state, Own::All(all.0));
    pass(update, limits, &mut compare)?;
    let missing = Verdict {
        structs: Structs::MissingDependency,
        deletes: true,
        deletes_ahead: true,
        nested: summary.nested,
        fresh: compare.fresh,
        new_clients: compare.new_clients,
    };
    Ok(compare.verdict(&summary).unwrap_or(missing))
}

/// How many sections, and how many unresolved dependencies on other clients, the first pass keeps.
const REMEMBERED: usize = 8;
const NO_RANGE: ClientRange = ClientRange { client: 0, start: 0, end: 0 };

/// The clock ranges of the update's own sections.
enum Own {
    /// First pass: the first [`REMEMBERED`] ranges. `len` counts all of them.
    Few { ranges: [ClientRange; REMEMBERED], len: usize },
    /// Second pass: all ranges, sorted by client.
    All(Vec<ClientRange>),
}

impl Default for Own {
    fn default() -> Self {
        Own::Few { ranges: [NO_RANGE; REMEMBERED], len: 0 }
    }
}

impl Own {
    fn push(&mut self, range: ClientRange) {
        if let Own::Few { ranges, len } = self {
            if let Some(slot) = ranges.get_mut(*len) {
                *slot = range;
            }
            *len += 1;
        }
    }

    fn has(&self, id: Id) -> bool {
        let range = match self {
            Own::Few { ranges, len } => ranges[..REMEMBERED.min(*len)].iter().find(|range| range.client == id.client),
            Own::All(ranges) => {
                ranges.binary_search_by_key(&id.client, |range| range.client).ok().map(|index| &ranges[index])
            }
        };
        range.is_some_and(|range| range.start <= id.clock && id.clock < range.end)
    }

    fn is_complete(&self) -> bool {
        match self {
            Own::Few { len, .. } => *len <= REMEMBERED,
            Own::All(_) => true,
        }
    }
}

/// Collects the range of every section, up to its last struct that is not a skip.
pub(super) struct AllRanges(pub(super) Vec<ClientRange>);

impl Visit for AllRanges {
    fn section(&mut self, client: u64, clock: u64) {
        self.0.push(ClientRange { client, start: clock, end: clock });
    }

    fn structure(&mut self, found: &Struct) {
        if let (Some(last), false) = (self.0.last_mut(), matches!(found.kind, Kind::Skip)) {
            last.end = found.end;
        }
    }
}

struct Compare<'a, S> {
    state: &'a S,
    own: Own,
    /// The section being read.
    section: ClientRange,
    /// The clock up to which document and update together have the section's client.
    covered: u64,
    /// The last client whose clock was looked up in the document, and that clock.
    asked: Option<(u64, u64)>,
    waiting: [Id; REMEMBERED],
    waiting_len: usize,
    known: bool,
    fresh: u64,
    new_clients: u64,
    overlaps: bool,
    gap: bool,
    deletes: bool,
    deletes_ahead: bool,
    /// A deleted element was not found in the kept ranges, and some ranges were not kept.
    deletes_unsure: bool,
}

impl<'a, S: StateClock> Compare<'a, S> {
    fn new(state: &'a S, own: Own) -> Self {
        Self {
            state,
            own,
            section: NO_RANGE,
            covered: 0,
            asked: None,
            waiting: [Id { client: 0, clock: 0 }; REMEMBERED],
            waiting_len: 0,
            known: false,
            fresh: 0,
            new_clients: 0,
            overlaps: false,
            gap: false,
            deletes: false,
            deletes_ahead: false,
            deletes_unsure: false,
        }
    }

    fn foreign_clock(&mut self, client: u64) -> u64 {
        match self.asked {
            Some((asked, clock)) if asked == client => clock,
            _ => {
                let clock = self.state.clock(client);
                self.asked = Some((client, clock));
                clock
            }
        }
    }

    fn depends_on(&mut self, id: Id) {
        // An earlier clock of the same section is present unless the section has a gap, and `Gap` takes precedence.
        if id.client == self.section.client || id.clock < self.foreign_clock(id.client) || self.own.has(id) {
            return;
        }
        if let Some(slot) = self.waiting.get_mut(self.waiting_len) {
            *slot = id;
        }
        self.waiting_len += 1;
    }

    fn end_section(&mut self) {
        if self.section.end > self.section.start {
            self.own.push(self.section);
            self.section = NO_RANGE;
        }
    }

    /// `None` when the ranges or dependencies that were kept do not suffice to decide.
    fn verdict(mut self, summary: &Summary) -> Option<Verdict> {
        self.end_section();
        let remembered = self.waiting_len.min(REMEMBERED);
        let missing = self.waiting[..remembered].iter().any(|&id| !self.own.has(id));
        let sure = match self.own {
            Own::All(_) => true,
            // A dependency that was not found may be in a range that was not kept; one that was not kept may be missing.
            Own::Few { .. } if missing => self.own.is_complete(),
            Own::Few { .. } => self.waiting_len <= REMEMBERED,
        };
        if (!sure && !self.gap) || self.deletes_unsure {
            return None;
        }
        let missing = missing || self.waiting_len > REMEMBERED;
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

impl<S: StateClock> Visit for Compare<'_, S> {
    fn section(&mut self, client: u64, clock: u64) {
        self.end_section();
        self.section = ClientRange { client, start: clock, end: clock };
        self.covered = self.state.clock(client);
        self.new_clients += u64::from(self.covered == 0);
    }

    #[inline]
    fn structure(&mut self, found: &Struct) {
        // A skip leaves a gap before the next struct, unless the document has the skipped clocks.
        if let Kind::Skip = found.kind {
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
        if let Kind::Item { origin, right_origin, parent, .. } = found.kind {
            for id in [origin, right_origin, parent].into_iter().flatten() {
                self.depends_on(id);
            }
        }
    }

    fn deleted(&mut self, client: u64, _start: u64, end: u64) {
        self.end_section();
        self.deletes = true;
        if end > self.foreign_clock(client) && !self.own.has(Id { client, clock: end - 1 }) {
            self.deletes_ahead |= self.own.is_complete();
            self.deletes_unsure |= !self.own.is_complete();
        }
    }
}
