//! PURE: a document with what is pending in one update, as Yjs encodes it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use syncline_protocol::update::raw::{RawSection, RawUpdate, read_delete_set};
use syncline_protocol::update::split::{Deletions, Section, write_sections};

use super::section::SectionBuffer;
use super::{Entry, Pending};

impl Pending {
    /// A state or difference with everything that is pending, as one update: the structs behind a gap follow a skip.
    pub(in crate::hub) fn append_to(&self, state: &[u8]) -> Bytes {
        let mut raw = RawUpdate::new(state);
        let mut sections: BTreeMap<u64, SectionBuffer> = BTreeMap::new();
        while let Some(begin) = raw.section() {
            let mut end = begin.clone();
            end.by_ref().for_each(drop);
            raw.resume_after(&end);
            let bytes = begin.rest()[..begin.rest().len() - end.rest().len()].to_vec();
            let RawSection { client, clock, left: structs, .. } = begin;
            sections.insert(client, SectionBuffer { client, clock, end: end.clock, structs, bytes });
        }
        let mut entries: Vec<&Entry> = self.entries.values().collect();
        entries.sort_by_key(|entry| (entry.client, entry.clock, Reverse(entry.end)));
        for section in entries.into_iter().map(Entry::section) {
            let empty = || SectionBuffer::new(section.client, section.clock);
            sections.entry(section.client).or_insert_with(empty).append(&section);
        }
        let mut deleted: BTreeMap<u64, Vec<Range<u64>>> = BTreeMap::new();
        read_delete_set(raw.rest(), |client, range| deleted.entry(client).or_default().push(range)).ok();
        for (&(client, start), &(end, _)) in &self.deletions {
            deleted.entry(client).or_default().push(start..end);
        }
        let sections: Vec<Section<'_>> = sections.values().rev().map(SectionBuffer::section).collect();
        let deletions: Vec<Deletions> =
            deleted.into_iter().rev().map(|(client, ranges)| (client, joined(ranges))).collect();
        write_sections(&sections, &deletions).into()
    }
}

/// The same clocks as ascending ranges that do not touch.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut().filter(|last| last.end >= range.start) {
            Some(last) => last.end = last.end.max(range.end),
            None => joined.push(range),
        }
    }
    joined
}
