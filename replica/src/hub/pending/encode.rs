//! PURE: a document with what is pending in one update, as Yjs encodes it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use syncline_protocol::update::raw::{RawSection, RawUpdate, read_delete_set, write_skip};
use syncline_protocol::update::split::{Deletions, Part, write_parts};

use super::{Entry, Pending};

impl Pending {
    /// A state or difference with everything that is pending, as one update: the structs behind a gap follow a skip.
    pub(in crate::hub) fn append_to(&self, state: &[u8]) -> Bytes {
        let mut raw = RawUpdate::new(state);
        let mut sections: BTreeMap<u64, Section> = BTreeMap::new();
        while let Some(begin) = raw.section() {
            let mut end = begin.clone();
            end.by_ref().for_each(drop);
            raw.resume_after(&end);
            let bytes = begin.rest()[..begin.rest().len() - end.rest().len()].to_vec();
            let RawSection { client, clock, left: structs, .. } = begin;
            sections.insert(client, Section { clock, end: end.clock, structs, bytes });
        }
        let mut entries: Vec<&Entry> = self.entries.values().collect();
        entries.sort_by_key(|entry| (entry.client, entry.clock, Reverse(entry.end)));
        for part in entries.into_iter().map(Entry::part) {
            let empty = || Section { clock: part.clock, end: part.clock, structs: 0, bytes: Vec::new() };
            sections.entry(part.client).or_insert_with(empty).append(&part);
        }
        let mut deleted: BTreeMap<u64, Vec<Range<u64>>> = BTreeMap::new();
        read_delete_set(raw.rest(), |client, range| deleted.entry(client).or_default().push(range)).ok();
        for (&(client, start), &(end, _)) in &self.deletions {
            deleted.entry(client).or_default().push(start..end);
        }
        let parts: Vec<Part<'_>> = sections.iter().rev().map(|(client, section)| section.part(*client)).collect();
        let deletions: Vec<Deletions> =
            deleted.into_iter().rev().map(|(client, ranges)| (client, joined(ranges))).collect();
        write_parts(&parts, &deletions).into()
    }
}

/// One client in an update that is being written.
struct Section {
    clock: u64,
    end: u64,
    structs: u64,
    bytes: Vec<u8>,
}

impl Section {
    fn part(&self, client: u64) -> Part<'_> {
        let Self { clock, end, structs, ref bytes } = *self;
        Part { client, clock, end, structs, bytes }
    }

    /// Appends what this section lacks of a part that begins in it, at its end, or behind it.
    fn append(&mut self, part: &Part<'_>) {
        let mut rest = RawSection::new(part.client, part.clock, part.structs, part.bytes);
        if part.clock > self.end {
            write_skip(part.clock - self.end, &mut self.bytes);
            self.structs += 1;
        }
        // Another version of the same clocks: the first one is kept, and the end of a struct that reaches behind it.
        while rest.clock < self.end {
            let Some(found) = rest.next() else { return };
            if found.end > self.end {
                let mut cutter = found.cut();
                cutter.skip_to(self.end);
                let tail = cutter.write_rest(&mut self.bytes);
                self.bytes.extend_from_slice(tail);
                (self.structs, self.end) = (self.structs + 1, found.end);
            }
        }
        if part.end > self.end || rest.left > 0 {
            self.bytes.extend_from_slice(rest.rest());
            (self.structs, self.end) = (self.structs + rest.left, part.end);
        }
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
