//! PURE: splits an update with missing dependencies into two parts: what a document can apply now is *ready*, the rest is
//! *pending*. As Yjs does when it integrates an update (npm yjs 13.6.33, `src/utils/encoding.js`, `integrateStructs`), the
//! structs of each client are ready in order up to the first one that needs something missing.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use super::StateClock;
use super::id::Id;
use super::raw::{RawSection, RawUpdate, read_delete_set, write_section_header};
use crate::varint::write_var_uint;

/// Consecutive structs of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section<'a> {
    /// Client id.
    pub client: u64,
    /// The first clock.
    pub clock: u64,
    /// The clock after the last one.
    pub end: u64,
    /// Number of structs.
    pub structs: u64,
    /// The encoded structs.
    pub bytes: &'a [u8],
}

/// Consecutive structs between two positions in a section.
#[derive(Debug, Clone)]
pub struct Span<'a> {
    first: RawSection<'a>,
    end: RawSection<'a>,
}

impl<'a> Span<'a> {
    /// The structs.
    pub fn section(&self) -> Section<'a> {
        let Self { first, end } = self;
        let bytes = &first.rest()[..first.rest().len() - end.rest().len()];
        Section { client: first.client, clock: first.clock, end: end.clock, structs: first.left - end.left, bytes }
    }
}

/// A clock that a document must reach: it must have every clock of `client` below `clock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// Client id.
    pub client: u64,
    /// The next clock that the document must have.
    pub clock: u64,
}

/// Deleted clocks of one client, ascending.
pub type Deletions = (u64, Vec<Range<u64>>);

/// An update in two parts.
#[derive(Debug, Default)]
pub struct Split<'a> {
    /// The structs that can be applied now. Together they have no missing dependencies.
    pub ready: Vec<Section<'a>>,
    /// The structs that are pending, with what the first of each section needs.
    pub pending: Vec<(Section<'a>, Need)>,
    /// Deletions of clocks that the document has, `ready` included.
    pub ready_deletions: Vec<Deletions>,
    /// Deletions of clocks that it does not have.
    pub pending_deletions: Vec<Deletions>,
}

/// A position in a section of the update.
struct SectionCursor<'a> {
    /// The structs that are not ready yet.
    at: RawSection<'a>,
    /// The ready structs that the document lacked.
    new: Option<Span<'a>>,
    /// The bytes after the section.
    after: &'a [u8],
    /// The clock after the last struct.
    end: u64,
    need: Option<Need>,
}

/// Splits a scanned update for a document with `state`. Linear in the update, times the logarithm of its sections.
pub fn split<'a>(update: &'a [u8], state: &impl StateClock) -> Split<'a> {
    let mut raw = RawUpdate::new(update);
    let mut sections = Vec::new();
    while let Some(at) = raw.section() {
        let mut end = at.clone();
        end.by_ref().for_each(drop);
        raw.resume_after(&end);
        sections.push(SectionCursor { at, new: None, after: raw.rest(), end: end.clock, need: None });
    }
    let mut clocks = HashMap::new();
    let mut pending = BTreeSet::new();
    let mut ready: Vec<usize> = (0..sections.len()).rev().collect();
    while let Some(index) = ready.pop() {
        let section = &mut sections[index];
        let client = section.at.client;
        let clock = |client| clocks.get(&client).copied().unwrap_or_else(|| state.clock(client));
        let ReadyStructs { reached, need, new } = skip_ready(&mut section.at, &clock);
        section.need = need;
        // What was ready before is followed by it without a gap.
        match (&mut section.new, new) {
            (Some(before), Some(new)) => before.end = new.end,
            (before, new) => *before = before.take().or(new),
        }
        clocks.insert(client, reached);
        pending.extend(need.map(|need| (need, index)));
        let (first, last) = (Need { client, clock: 0 }, Need { client, clock: reached });
        while let Some(&met) = pending.range((first, 0)..=(last, usize::MAX)).next() {
            pending.remove(&met);
            ready.push(met.1);
        }
    }
    let mut split = Split::default();
    for SectionCursor { at, new, after, end, need } in &sections {
        split.ready.extend(new.as_ref().map(Span::section));
        if let Some(need) = *need {
            let bytes = &at.rest()[..at.rest().len() - after.len()];
            let section = Section { client: at.client, clock: at.clock, end: *end, structs: at.left, bytes };
            split.pending.push((section, need));
        }
    }
    let clock = |client| clocks.get(&client).copied().unwrap_or_else(|| state.clock(client));
    // The scanner has read the delete set before.
    read_delete_set(raw.rest(), |client, range| {
        let known = clock(client).clamp(range.start, range.end);
        add_range(&mut split.ready_deletions, client, range.start..known);
        add_range(&mut split.pending_deletions, client, known..range.end);
    })
    .ok();
    split
}

fn add_range(deletions: &mut Vec<Deletions>, client: u64, range: Range<u64>) {
    if range.is_empty() {
        return;
    }
    match deletions.last_mut().filter(|(last, _)| *last == client) {
        Some((_, ranges)) => ranges.push(range),
        None => deletions.push((client, vec![range])),
    }
}

/// The structs that [`skip_ready`] skipped.
#[derive(Debug, Clone)]
pub struct ReadyStructs<'a> {
    /// The clock that the document has of the client with them.
    pub reached: u64,
    /// What the next struct needs; `None` at the end of the section.
    pub need: Option<Need>,
    /// The structs that the document lacked.
    pub new: Option<Span<'a>>,
}

/// Skips the ready structs of a section. The next one is then the first with a missing dependency.
pub fn skip_ready<'a>(section: &mut RawSection<'a>, clock: &impl StateClock) -> ReadyStructs<'a> {
    let client = section.client;
    let mut reached = clock.clock(client);
    let mut new: Option<Span<'a>> = None;
    let need = loop {
        let mut next = section.clone();
        let Some(found) = next.next() else { break None };
        if !found.is_skip() && found.end > reached {
            if found.start > reached {
                break Some(Need { client, clock: found.start });
            }
            let has = |id: Id| id.clock < if id.client == client { reached } else { clock.clock(id.client) };
            if let Some(missing) = found.dependencies().find(|id| !has(*id)) {
                break Some(Need { client: missing.client, clock: missing.clock + 1 });
            }
            reached = found.end;
            match &mut new {
                Some(span) => span.end = next.clone(),
                None => new = Some(Span { first: section.clone(), end: next.clone() }),
            }
        }
        *section = next;
    };
    ReadyStructs { reached, need, new }
}

/// Encodes an update of these sections, each of another client, and deletions.
pub fn write_sections(sections: &[Section<'_>], deletions: &[Deletions]) -> Vec<u8> {
    let mut out = Vec::with_capacity(sections.iter().map(|section| section.bytes.len() + 16).sum::<usize>() + 16);
    write_var_uint(&mut out, sections.len() as u64);
    for section in sections {
        write_section_header(section.structs, section.client, section.clock, &mut out);
        out.extend_from_slice(section.bytes);
    }
    write_var_uint(&mut out, deletions.len() as u64);
    for (client, ranges) in deletions {
        write_var_uint(&mut out, *client);
        write_var_uint(&mut out, ranges.len() as u64);
        for range in ranges {
            write_var_uint(&mut out, range.start);
            write_var_uint(&mut out, range.end - range.start);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Client, first clock, and the origin of each letter.
    type TestSection<'a> = (u8, u8, &'a [Option<(u8, u8)>]);

    /// One section for each client, of letters.
    fn update(sections: &[TestSection<'_>], deletions: &[u8]) -> Vec<u8> {
        let mut update = vec![sections.len() as u8];
        for (client, clock, origins) in sections {
            update.extend([origins.len() as u8, *client, *clock]);
            for origin in *origins {
                match origin {
                    Some((client, clock)) => update.extend([0x84, *client, *clock]),
                    None => update.extend([4, 1, 1, b't']),
                }
                update.extend([1, b'x']);
            }
        }
        update.extend(deletions);
        update
    }

    fn one(range: Range<u64>) -> Vec<Range<u64>> {
        std::iter::once(range).collect()
    }

    #[test]
    fn structs_up_to_the_first_missing_dependency_are_ready() {
        // Client 9 is unknown. Client 3 depends on client 2, which depends on client 1.
        let bytes = update(
            &[
                (3, 0, &[Some((2, 0)), Some((9, 4)), None]),
                (2, 0, &[Some((1, 0))]),
                (1, 0, &[None, Some((3, 1)), None]),
            ],
            &[2, 3, 1, 0, 2, 1, 1, 1, 2],
        );
        let split = split(&bytes, &|_| 0);
        let listed = |section: &Section<'_>| (section.client, section.clock, section.structs);
        assert_eq!(split.ready.iter().map(listed).collect::<Vec<_>>(), [(3, 0, 1), (2, 0, 1), (1, 0, 1)]);
        let pending: Vec<_> =
            split.pending.iter().map(|(section, need)| (listed(section), need.client, need.clock)).collect();
        assert_eq!(pending, [((3, 1, 2), 9, 5), ((1, 1, 2), 3, 2)]);
        assert_eq!(split.ready_deletions, [(3, one(0..1))]);
        assert_eq!(split.pending_deletions, [(3, one(1..2)), (1, one(1..3))]);
        let ready = write_sections(&split.ready, &split.ready_deletions);
        let expected = update(&[(3, 0, &[Some((2, 0))]), (2, 0, &[Some((1, 0))]), (1, 0, &[None])], &[1, 3, 1, 0, 1]);
        assert_eq!(ready, expected);
    }

    #[test]
    fn known_and_overlapping_structs_are_ready_and_a_gap_waits() {
        let bytes = update(&[(5, 0, &[None, None, None])], &[0]);
        assert!(split(&bytes, &|_| 2).pending.is_empty());
        let bytes = update(&[(5, 3, &[None])], &[0]);
        let split = split(&bytes, &|_| 2);
        assert!(split.ready.is_empty());
        assert_eq!(split.pending[0].1, Need { client: 5, clock: 3 });
    }

    #[test]
    fn structs_in_a_cycle_wait() {
        let bytes = update(&[(2, 0, &[Some((1, 0))]), (1, 0, &[Some((2, 0))])], &[0]);
        assert_eq!(split(&bytes, &|_| 0).pending.len(), 2);
    }
}
