//! What an update would do to a document that is known only by how far each of its clients has come.

use super::parse::{ClientRange, Id, Kind, Struct, Visit, pass, walk};
use super::{ScanError, ScanLimits, Summary};

/// How far each client is known: a state vector, however it is stored.
pub trait StateClock {
    /// The next clock of `client`: 0 when it is unknown.
    fn clock(&self, client: u64) -> u64;
}

impl<F: Fn(u64) -> u64> StateClock for F {
    fn clock(&self, client: u64) -> u64 {
        self(client)
    }
}

/// What the structs of an update are to a document. When several hold, the first of this order is told:
/// `Gap`, `MissingDependency`, `Overlaps`, then `Fresh` or `Known`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Structs {
    /// There are none.
    None,
    /// The document has them all.
    Known,
    /// Each follows what the document has, and depends on nothing it lacks.
    Fresh,
    /// The document has some of them.
    Overlaps,
    /// One depends on something that is neither in the document nor in the update.
    MissingDependency,
    /// One comes later than the next clock of its client: something between is missing.
    Gap,
}

/// What an update would do. It looks at clocks only: that no circle of dependencies hides in an update is not
/// checked (see [`super::is_circular`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The structs.
    pub structs: Structs,
    /// Something is deleted. Whether it already was, clocks do not tell.
    pub deletes: bool,
    /// Something is deleted that neither the document nor the update has: it would stay pending.
    pub deletes_ahead: bool,
    /// Items that name another item as their parent: types lie at most this much deeper after the update.
    pub nested: u64,
    /// Structs that the document lacks.
    pub fresh: u64,
    /// Clients that the document does not know.
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
    // Too much to remember: once more, with all the update's ranges at hand.
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

/// Sections, and foreign dependencies still unexplained, that the first pass remembers.
const REMEMBERED: usize = 8;
const NO_RANGE: ClientRange = ClientRange { client: 0, start: 0, end: 0 };

/// The ranges of the update itself.
enum Own {
    /// As they come, up to a few.
    Few { ranges: [ClientRange; REMEMBERED], len: usize },
    /// All, sorted by client: the second pass.
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

/// Collects every section up to its last struct that is no skip.
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
    /// The section being read, and how far its client is covered by document and update together.
    section: ClientRange,
    covered: u64,
    /// The foreign client asked for last, and its clock.
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
    /// A deletion was not explained by the ranges remembered, and there were more.
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
        // Earlier in its own section: there unless the section has a gap, which is told first.
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

    /// `None` when more would have had to be remembered.
    fn verdict(mut self, summary: &Summary) -> Option<Verdict> {
        self.end_section();
        let remembered = self.waiting_len.min(REMEMBERED);
        let missing = self.waiting[..remembered].iter().any(|&id| !self.own.has(id));
        let sure = match self.own {
            Own::All(_) => true,
            // What is found is found; what is not may be among the ranges or dependencies not remembered.
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
        // A skip is a hole: what follows it is a gap, unless the document has the hole filled.
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
