//! PURE: the structs of one client: a section of the last compaction's bytes, and the structs that were added since.

use std::ops::Range;

use syncline_protocol::update::raw::{JoinPoint, RawSection, RawStruct, write_section_header};

use super::pieces::PieceWriter;
use super::ranges::Ranges;

/// Distance between marks: at most this many bytes of structs, or one struct, are skipped to find a clock.
pub(super) const MARK_EVERY: usize = 1024;
/// Nothing is joined to a struct of this size, because a difference that begins within a struct has to cut it.
pub(super) const MAX_JOINED_BYTES: usize = 16 * 1024;
/// Memory that a client takes for structs added since the last compaction, with the smallest allocation for their bytes.
pub(super) const FRESH_BYTES: usize = size_of::<FreshStructs>() + 32;

/// The position of a struct in a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    clock: u32,
    /// Offset from the beginning of the run.
    at: u32,
    /// Number of structs before this one in the run.
    structs: u32,
}

/// Consecutive encoded structs of one client, with marks for finding a clock.
#[derive(Debug, Default, Clone, Copy)]
struct StructRun<'a> {
    start: u64,
    end: u64,
    structs: u64,
    bytes: &'a [u8],
    marks: &'a [Mark],
}

/// The section of one client in the document's base.
#[derive(Debug, Default)]
struct BaseSection {
    at: u32,
    len: u32,
    structs: u32,
    end: u32,
    marks: Marks,
}

/// Marks, sorted by clock. Most clients have none.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "a slice is larger, and every client has one")]
struct Marks(Option<Box<Vec<Mark>>>);

impl Marks {
    fn as_slice(&self) -> &[Mark] {
        self.0.as_ref().map_or(&[], |marks| marks)
    }
}

impl From<Vec<Mark>> for Marks {
    fn from(mut marks: Vec<Mark>) -> Self {
        marks.shrink_to_fit();
        Self((!marks.is_empty()).then(|| Box::new(marks)))
    }
}

/// The structs that were added since the last compaction.
#[derive(Debug, Default)]
struct FreshStructs {
    bytes: Vec<u8>,
    /// `None` for a single struct. Each page load is a client, and most of them edit little.
    written: Option<Box<StructWriter>>,
}

/// Writes consecutive structs; a struct that continues the last one is joined to it.
#[derive(Debug)]
pub(crate) struct StructWriter {
    /// Offset of the first struct in the output.
    at: usize,
    structs: u64,
    marks: Vec<Mark>,
    /// Offset of the last struct in the output.
    last: usize,
    /// How a struct can be joined to the last one; `None` if none can.
    join_point: Option<JoinPoint>,
    /// Nothing is joined to a struct of at least this size.
    max_joined_bytes: usize,
}

/// What a client keeps of a [`StructWriter`] for its section of the base: the number of structs, and the marks.
pub(super) struct SectionIndex {
    structs: u32,
    marks: Marks,
}

impl From<StructWriter> for SectionIndex {
    fn from(written: StructWriter) -> Self {
        Self { structs: written.structs as u32, marks: written.marks.into() }
    }
}

impl Default for StructWriter {
    fn default() -> Self {
        Self::at(0, MAX_JOINED_BYTES)
    }
}

/// The structs and deletions of one client.
#[derive(Debug, Default)]
pub(super) struct ClientStructs {
    end: u32,
    base: BaseSection,
    fresh: Option<Box<FreshStructs>>,
    deleted: Ranges,
}

impl ClientStructs {
    /// Reads a client from its section of a complete state of `len` bytes, which becomes the base. Also returns whether some
    /// structs could be joined. `None` if the section does not begin at clock 0, or has a gap.
    pub(super) fn adopt(
        section: &mut RawSection<'_>,
        len: usize,
        visit: &mut impl FnMut(&RawStruct<'_>),
    ) -> Option<(Self, bool)> {
        if section.clock != 0 {
            return None;
        }
        let at = len - section.rest().len();
        let (mut client, mut written, mut next) = (Self::default(), StructWriter::default(), at);
        let mut joins = false;
        for found in section.by_ref() {
            if found.is_skip() {
                return None;
            }
            visit(&found);
            joins |= written.join_point.is_some_and(|join_point| found.continues(&join_point));
            written.join_point = found.join_point();
            written.count(&found, next - at);
            next += found.bytes.len();
            if found.is_deleted() {
                client.deleted.insert(found.start..found.end);
            }
        }
        client.end = section.clock as u32;
        client.replace_base(at, next - at, written.into());
        Some((client, joins))
    }

    /// The next clock.
    pub(super) fn end(&self) -> u64 {
        u64::from(self.end)
    }

    /// Size of the structs that were added since the last compaction.
    pub(super) fn fresh_bytes(&self) -> usize {
        self.fresh.as_ref().map_or(0, |fresh| fresh.bytes.len())
    }

    /// True for a struct that was added since the last compaction.
    pub(super) fn is_fresh(&self, found: &RawStruct<'_>) -> bool {
        found.start >= u64::from(self.base.end)
    }

    /// True when the element at `clock` is garbage.
    pub(super) fn is_gc(&self, base: &[u8], id: u64, clock: u64) -> bool {
        // Checked first because it is cheaper: most elements are not deleted.
        let holds = |run: &StructRun<'_>| run.start <= clock && clock < run.end;
        self.is_deleted(clock..clock + 1)
            && self.runs(base).iter().find(|run| holds(run)).is_some_and(|run| run.find(id, clock).0.is_at_gc())
    }

    /// Number of deleted ranges.
    pub(super) fn deleted_ranges(&self) -> usize {
        self.deleted.len()
    }

    /// The deleted ranges, in ascending order.
    pub(super) fn deleted(&self) -> impl Iterator<Item = Range<u64>> {
        self.deleted.iter()
    }

    /// True when all of `clocks` are deleted.
    pub(super) fn is_deleted(&self, clocks: Range<u64>) -> bool {
        self.deleted.contains(&clocks)
    }

    /// The first deleted range that ends after `clock`.
    pub(super) fn next_deleted(&self, clock: u64) -> Option<Range<u64>> {
        self.deleted.next(clock)
    }

    /// Deletes the ranges that a delete set lists for this client. True when they differ from what was deleted before.
    pub(super) fn delete_listed(&mut self, listed: &Ranges) -> bool {
        let differs = self.deleted != *listed;
        if differs {
            listed.iter().for_each(|clocks| _ = self.deleted.insert(clocks));
        }
        differs
    }

    /// Deletes `clocks`. True when not all of them were deleted before.
    pub(super) fn delete(&mut self, clocks: Range<u64>) -> bool {
        self.deleted.insert(clocks)
    }

    /// Adds the new part of a struct, which must begin no later than this client's end.
    pub(super) fn push(&mut self, found: &RawStruct<'_>) {
        let end = self.end();
        if found.end <= end {
            return;
        }
        debug_assert!(found.start <= end, "a gap");
        if found.is_deleted() {
            self.deleted.insert(found.start.max(end)..found.end);
        }
        let mut part = Vec::new();
        let cut = (found.start < end).then(|| {
            let mut cutter = found.cut();
            cutter.skip_to(end);
            cutter.write_to(found.end, &mut part);
            RawSection::new(found.client, end, 1, &part).next()
        });
        match cut {
            None => self.append_new(found),
            Some(rest) => rest.iter().for_each(|rest| self.append_new(rest)),
        }
    }

    fn append_new(&mut self, found: &RawStruct<'_>) {
        let start = self.end();
        self.end = found.end as u32;
        let fresh = self.fresh.get_or_insert_default();
        if fresh.bytes.is_empty() {
            return fresh.bytes.extend_from_slice(found.bytes);
        }
        let first = RawSection::new(found.client, u64::from(self.base.end), 1, &fresh.bytes);
        let written = fresh.written.get_or_insert_with(|| Box::new(StructWriter::of(first)));
        let deleted = &self.deleted;
        let same_deletion_state = || deleted.contains(&(start - 1..start)) == deleted.contains(&(start..start + 1));
        written.push(found, same_deletion_state, &mut fresh.bytes);
    }

    /// Appends this client's section of an update: every element from `clock` on. `clock` must be before the end.
    pub(super) fn write_since(&self, base: &[u8], id: u64, clock: u64, out: &mut PieceWriter<'_>) {
        let [of_base, fresh] = self.runs(base).map(|run| run.since(id, clock));
        let mut head = Vec::new();
        write_section_header(of_base.structs + fresh.structs, id, clock, &mut head);
        // If the whole section of the base is written, its header is in the base too, directly before it.
        let (at, end) = (self.base.at as usize, (self.base.at + self.base.len) as usize);
        let in_base = at.saturating_sub(head.len())..at;
        if base.get(in_base.clone()) == Some(&head[..]) {
            out.share(in_base)
        } else {
            out.copy(&head)
        }
        out.copy(&of_base.first);
        out.share(end - of_base.rest.len()..end);
        out.copy(&fresh.first);
        out.copy(fresh.rest);
    }

    /// All structs of this client, in order.
    pub(super) fn structs<'a>(&'a self, base: &'a [u8], id: u64) -> impl Iterator<Item = RawStruct<'a>> + Clone {
        self.runs(base).into_iter().flat_map(move |run| RawSection::new(id, run.start, run.structs, run.bytes))
    }

    fn runs<'a>(&'a self, base: &'a [u8]) -> [StructRun<'a>; 2] {
        let of = &self.base;
        let bytes = base.get(of.at as usize..(of.at + of.len) as usize).unwrap_or_default();
        let (end, structs) = (u64::from(of.end), u64::from(of.structs));
        let base = StructRun { start: 0, end, structs, bytes, marks: of.marks.as_slice() };
        let fresh = self.fresh.as_ref().map_or_else(StructRun::default, |fresh| {
            let (structs, marks) =
                fresh.written.as_ref().map_or((1, &[][..]), |written| (written.structs, &written.marks[..]));
            StructRun { start: end, end: self.end(), structs, bytes: &fresh.bytes, marks }
        });
        [base, fresh]
    }

    /// Replaces the structs by the ones that were written into a new base.
    pub(super) fn replace_base(&mut self, at: usize, len: usize, SectionIndex { structs, marks }: SectionIndex) {
        self.base = BaseSection { at: at as u32, len: len as u32, structs, end: self.end, marks };
        self.fresh = None;
    }
}

/// The part of a run from some clock on.
struct RunTail<'a> {
    structs: u64,
    /// The new beginning of the first struct, if that was cut; otherwise empty.
    first: Vec<u8>,
    /// The bytes after `first`: the end of the run's bytes.
    rest: &'a [u8],
}

impl<'a> StructRun<'a> {
    /// The part of the run from `clock` on.
    fn since(&self, client: u64, clock: u64) -> RunTail<'a> {
        if self.end <= clock {
            return RunTail { structs: 0, first: Vec::new(), rest: &[] };
        }
        if self.start >= clock {
            return RunTail { structs: self.structs, first: Vec::new(), rest: self.bytes };
        }
        let (mut section, before) = self.find(client, clock);
        let (mut first, mut rest) = (Vec::new(), section.rest().len());
        if let Some(found) = section.next().filter(|found| found.start < clock) {
            let mut cutter = found.cut();
            cutter.skip_to(clock);
            rest = cutter.write_rest(&mut first).len() + section.rest().len();
        }
        RunTail { structs: self.structs - before, first, rest: &self.bytes[self.bytes.len() - rest..] }
    }

    /// The structs of this run from the one that contains `clock` on, and the number of structs before it.
    fn find(&self, client: u64, clock: u64) -> (RawSection<'a>, u64) {
        let after = self.marks.partition_point(|mark| u64::from(mark.clock) <= clock);
        let mark = after.checked_sub(1).map(|at| self.marks[at]);
        let (start, at, mut before) =
            mark.map_or((self.start, 0, 0), |mark| (u64::from(mark.clock), mark.at as usize, u64::from(mark.structs)));
        let mut section = RawSection::new(client, start, self.structs - before, &self.bytes[at..]);
        let next_mark = self.marks.get(after).map_or(self.structs, |mark| u64::from(mark.structs));
        loop {
            // If only one struct is left before the next mark, it contains the clock; it need not be read.
            if next_mark - before == 1 {
                return (section, before);
            }
            let mut next = section.clone();
            match next.next() {
                Some(found) if found.end <= clock => (section, before) = (next, before + 1),
                _ => return (section, before),
            }
        }
    }
}

impl StructWriter {
    /// Starts to write structs to an output of `at` bytes. Nothing is joined to a struct of at least `max_joined_bytes`.
    pub(crate) fn at(at: usize, max_joined_bytes: usize) -> Self {
        Self { at, structs: 0, marks: Vec::new(), last: at, join_point: None, max_joined_bytes }
    }

    /// The state after a single struct was written.
    fn of(section: RawSection<'_>) -> Self {
        let mut written = Self::default();
        for found in section {
            written.count(&found, 0);
            written.join_point = found.join_point();
        }
        written
    }

    /// Number of structs.
    pub(crate) fn structs(&self) -> u64 {
        self.structs
    }

    /// Appends a struct. It is joined to the last one if it continues that one and `same_deletion_state` returns true:
    /// either both structs are deleted or neither is.
    #[inline]
    pub(crate) fn push(
        &mut self,
        found: &RawStruct<'_>,
        same_deletion_state: impl FnOnce() -> bool,
        out: &mut Vec<u8>,
    ) {
        if let Some(join_point) = &mut self.join_point
            && out.len() - self.last < self.max_joined_bytes
            && found.continues(join_point)
            && same_deletion_state()
        {
            return join_point.join(found, self.last, out);
        }
        self.last = out.len();
        self.count(found, self.last - self.at);
        out.extend_from_slice(found.bytes);
        self.join_point = found.join_point();
    }

    /// Counts a struct at the offset `at` from the first one, and sets a mark if one is due.
    fn count(&mut self, found: &RawStruct<'_>, at: usize) {
        let is_due = self.marks.last().map_or(0, |mark| mark.at as usize) + MARK_EVERY <= at;
        if is_due || found.bytes.len() >= MARK_EVERY {
            self.marks.push(Mark { clock: found.start as u32, at: at as u32, structs: self.structs as u32 });
        }
        self.structs += 1;
    }
}
