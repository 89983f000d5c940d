//! PURE: what is pending in a hub document: structs with missing dependencies, and deletions of clocks that are unknown,
//! kept until the dependencies arrive.
//!
//! An update with missing dependencies is split (`syncline_protocol::update::split`): what is ready is applied, and the
//! structs of each client that cannot are one *entry*, without those that are pending already. An entry is indexed by what
//! its first struct needs: a client, and the clock that the document must reach. When it has reached that clock, the structs up
//! to the next missing dependency are applied, and the rest is indexed again. So releasing many entries costs about as much as
//! applying them, and what can be shown is never held back by what cannot.
//!
//! ```text
//! clocks   recognises structs that are pending already
//! section  the structs of one client that become pending
//! encode   a document with what is pending in one update
//! ```

mod clocks;
mod encode;
mod section;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use bytes::Bytes;
use syncline_protocol::update::raw::RawSection;
use syncline_protocol::update::split::{
    Deletions, Need, ReadyStructs, Section, Span, Split, skip_ready, write_sections,
};
use syncline_protocol::update::{EMPTY_UPDATE, StateClock, update_ranges};

use crate::structs::StructStore;
use clocks::PendingClocks;
use section::SectionBuffer;

/// Approximate memory of an entry besides its structs, of an element of the index, and of a range of deletions.
const ENTRY_BYTES: usize = 256;
const INDEX_BYTES: usize = 40;
const RANGE_BYTES: usize = 48;
/// Largest encoding of a range of deletions.
const ENCODED_RANGE_BYTES: usize = 10;

/// Counts entries in order of arrival.
type EntryNumber = u64;

/// Names the sender of an update; `None` if it is not known.
pub type Source = Option<u64>;

/// Consecutive structs of one client.
#[derive(Debug)]
struct Entry {
    client: u64,
    /// Clock, number and offset in `bytes` of the structs that were not applied yet.
    clock: u64,
    structs: u64,
    offset: usize,
    bytes: Vec<u8>,
    /// The clock after the last struct.
    end: u64,
    /// The entry may be ready when one of these is met: what the first of its structs needs, and the end of that struct, because another
    /// version of it may arrive. So it is never examined without a struct that can be removed.
    needs: [Need; 2],
    source: Source,
}

impl Entry {
    fn section(&self) -> Section<'_> {
        let Self { client, clock, end, structs, offset, .. } = *self;
        Section { client, clock, end, structs, bytes: &self.bytes[offset..] }
    }
}

/// Something that was pending and was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// An update without missing dependencies.
    pub update: Bytes,
    /// The sender.
    pub source: Source,
}

/// What an update adds to what is pending.
#[derive(Debug, Default)]
pub(super) struct NewPending {
    sections: Vec<(SectionBuffer, Need)>,
    deletions: Vec<Deletions>,
}

impl NewPending {
    /// The pending part of a split update, without what is in `pending`.
    pub(super) fn new(split: &Split<'_>, pending: Option<&Pending>, structs: &StructStore) -> Self {
        let nothing = Pending::default();
        let pending = pending.unwrap_or(&nothing);
        let sections = split.pending.iter().map(|(section, need)| (section, *need));
        let sections =
            sections.filter_map(|section| SectionBuffer::without_pending(section, &pending.clocks, structs)).collect();
        let mut deletions = split.pending_deletions.clone();
        deletions.retain_mut(|(client, ranges)| {
            ranges.retain(|range| !pending.has_deletion(*client, range));
            !ranges.is_empty()
        });
        Self { sections, deletions }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sections.is_empty() && self.deletions.is_empty()
    }

    /// The clients of its structs.
    pub(super) fn clients(&self) -> impl Iterator<Item = u64> {
        self.sections.iter().map(|(section, _)| section.client)
    }

    /// Number of new entries, if none continues another.
    pub(super) fn entries(&self) -> usize {
        self.sections.len()
    }

    /// Approximate size when encoded.
    pub(super) fn bytes(&self) -> usize {
        let ranges: usize = self.deletions.iter().map(|(_, ranges)| ranges.len()).sum();
        self.sections.iter().map(|(section, _)| section.bytes.len()).sum::<usize>() + ranges * ENCODED_RANGE_BYTES
    }
}

/// The pending structs and deletions of one document.
#[derive(Debug, Default)]
pub(super) struct Pending {
    entries: BTreeMap<EntryNumber, Entry>,
    /// The entry that was added last of each client: the structs after it are appended to it.
    newest: HashMap<u64, EntryNumber>,
    /// The needs of each entry, unless one was met.
    by_need: BTreeSet<(Need, EntryNumber)>,
    /// Entries of which a need was met.
    ready: BTreeSet<EntryNumber>,
    /// The clocks of all entries, to recognise structs that are sent again.
    clocks: PendingClocks,
    /// Deletions by client and first clock: the clock after the last one, and the sender.
    deletions: BTreeMap<(u64, u64), (u64, Source)>,
    /// Size of the entries that was not applied yet.
    struct_bytes: usize,
    /// Capacity of the entries.
    capacity: usize,
    next: EntryNumber,
    released: Vec<Released>,
}

impl Pending {
    /// True when nothing is pending and nothing was released since [`Pending::take_released`].
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0 && self.released.is_empty()
    }

    /// Number of entries, and one for the deletions if there are any.
    pub(super) fn len(&self) -> usize {
        self.entries.len() + usize::from(!self.deletions.is_empty())
    }

    /// Approximate size when encoded.
    pub(super) fn bytes(&self) -> usize {
        self.struct_bytes + self.deletions.len() * ENCODED_RANGE_BYTES
    }

    /// Approximate memory use, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        let entries = self.entries.len() * ENTRY_BYTES + self.capacity;
        let indexes = self.by_need.len() * INDEX_BYTES + self.clocks.memory_bytes();
        entries + indexes + self.deletions.len() * RANGE_BYTES
    }

    fn has_deletion(&self, client: u64, range: &Range<u64>) -> bool {
        let before = self.deletions.range(..=(client, range.start)).next_back();
        before.is_some_and(|((of, _), (end, _))| *of == client && *end >= range.end)
    }

    /// Keeps what an update adds, and returns it as an update; `None` if that is nothing.
    pub(super) fn add(&mut self, new: NewPending, source: Source) -> Option<Bytes> {
        let sections: Vec<Section<'_>> = new.sections.iter().map(|(section, _)| section.section()).collect();
        let added = not_empty(write_sections(&sections, &new.deletions));
        for (section, need) in new.sections {
            self.add_section(section, need, source);
        }
        for (client, ranges) in new.deletions {
            ranges.into_iter().for_each(|range| self.add_deletion(client, range, source));
        }
        added
    }

    fn add_section(&mut self, section: SectionBuffer, need: Need, source: Source) {
        let first = section.section();
        let structs = RawSection::new(first.client, first.clock, first.structs, first.bytes);
        structs.clone().filter(|found| !found.is_skip()).for_each(|found| self.clocks.add(&found));
        let first_end = end_of_first(&structs);
        let SectionBuffer { client, clock, end, structs, mut bytes } = section;
        self.struct_bytes += bytes.len();
        let before = self.newest.get(&client).and_then(|number| self.entries.get_mut(number));
        if let Some(before) = before.filter(|before| before.end == clock && before.source == source) {
            self.capacity -= before.bytes.capacity();
            before.bytes.append(&mut bytes);
            self.capacity += before.bytes.capacity();
            (before.structs, before.end) = (before.structs + structs, end);
            return;
        }
        bytes.shrink_to_fit();
        self.capacity += bytes.capacity();
        let number = self.next;
        self.next += 1;
        self.newest.insert(client, number);
        let needs = [need, first_end.unwrap_or(need)];
        self.by_need.extend(needs.map(|need| (need, number)));
        self.entries.insert(number, Entry { client, clock, structs, offset: 0, bytes, end, needs, source });
    }

    fn add_deletion(&mut self, client: u64, range: Range<u64>, source: Source) {
        let known = self.deletions.entry((client, range.start)).or_insert((range.end, source));
        known.0 = known.0.max(range.end);
    }

    /// Notes the entries whose needs are met since `update` was applied to `structs`.
    pub(super) fn note_applied(&mut self, update: &[u8], structs: &StructStore) {
        if self.by_need.is_empty() {
            return;
        }
        for client in update_ranges(update).map(|range| range.client) {
            let (first, last) = (Need { client, clock: 0 }, Need { client, clock: structs.clock(client) });
            while let Some(&(_, number)) = self.by_need.range((first, 0)..=(last, EntryNumber::MAX)).next() {
                for need in self.entries.get(&number).iter().flat_map(|entry| entry.needs) {
                    self.by_need.remove(&(need, number));
                }
                self.ready.insert(number);
            }
        }
    }

    /// The next structs of an entry that are ready, as an update. The caller applies it, then calls
    /// [`Pending::note_applied`].
    pub(super) fn next_ready(&mut self, structs: &StructStore) -> Option<Released> {
        while let Some(number) = self.ready.pop_first() {
            if let Some(released) = self.take_from(number, structs) {
                return Some(released);
            }
        }
        None
    }

    fn take_from(&mut self, number: EntryNumber, structs: &StructStore) -> Option<Released> {
        let entry = self.entries.get_mut(&number)?;
        let section = entry.section();
        let mut rest = RawSection::new(section.client, section.clock, section.structs, section.bytes);
        let ReadyStructs { need, new, .. } = skip_ready(&mut rest, structs);
        let (ready, ready_bytes) = (section.structs - rest.left, section.bytes.len() - rest.rest().len());
        let ready = RawSection::new(section.client, section.clock, ready, section.bytes);
        ready.filter(|found| !found.is_skip()).for_each(|found| self.clocks.remove(&found));
        let update = |new: Span<'_>| write_sections(&[new.section()], &[]).into();
        let released = new.map(|new| Released { update: update(new), source: entry.source });
        let (clock, left, first_end) = (rest.clock, rest.left, end_of_first(&rest));
        self.struct_bytes -= ready_bytes;
        match need {
            Some(need) => {
                (entry.clock, entry.structs, entry.offset) = (clock, left, entry.offset + ready_bytes);
                if entry.offset > entry.bytes.len() / 2 {
                    self.capacity -= entry.bytes.capacity();
                    entry.bytes.drain(..std::mem::take(&mut entry.offset));
                    entry.bytes.shrink_to_fit();
                    self.capacity += entry.bytes.capacity();
                }
                entry.needs = [need, first_end.unwrap_or(need)];
                self.by_need.extend(entry.needs.map(|need| (need, number)));
            }
            None => {
                let Entry { client, ref bytes, .. } = *entry;
                self.capacity -= bytes.capacity();
                self.entries.remove(&number);
                if self.newest.get(&client) == Some(&number) {
                    self.newest.remove(&client);
                }
            }
        }
        released
    }

    /// The pending deletions of clocks that the document has now, as updates, after `update` was applied. The caller applies
    /// them.
    pub(super) fn ready_deletions(&mut self, update: &[u8], structs: &StructStore) -> Vec<Released> {
        let mut ready: Vec<(Source, Vec<Deletions>)> = Vec::new();
        if self.deletions.is_empty() {
            return Vec::new();
        }
        for client in update_ranges(update).map(|range| range.client) {
            let known = structs.clock(client);
            let ranges = (client, 0)..(client, known);
            while let Some((&(_, start), &(end, source))) = self.deletions.range(ranges.clone()).next() {
                self.deletions.remove(&(client, start));
                if ready.last().is_none_or(|(last, _)| *last != source) {
                    ready.push((source, Vec::new()));
                }
                ready.last_mut().into_iter().for_each(|(_, listed)| add_range(listed, client, start..end.min(known)));
                if end > known {
                    self.add_deletion(client, known..end, source);
                }
            }
        }
        let released =
            |(source, listed): (_, Vec<Deletions>)| Released { update: write_sections(&[], &listed).into(), source };
        ready.into_iter().map(released).collect()
    }

    /// Records that something that was pending was applied.
    pub(super) fn push_released(&mut self, released: Released) {
        self.released.push(released);
    }

    pub(super) fn take_released(&mut self) -> Vec<Released> {
        std::mem::take(&mut self.released)
    }

    /// Everything that is pending, as updates: the structs in order of arrival, then the deletions.
    pub(super) fn updates(&self) -> Vec<Bytes> {
        let mut updates: Vec<Bytes> =
            self.entries.values().map(|entry| write_sections(&[entry.section()], &[]).into()).collect();
        let mut deletions: Vec<Deletions> = Vec::new();
        // The first client of a delete set is the largest, as Yjs writes it; the ranges of each ascend.
        for (&(client, start), &(end, _)) in &self.deletions {
            add_range(&mut deletions, client, start..end);
        }
        deletions.reverse();
        updates.extend((!deletions.is_empty()).then(|| write_sections(&[], &deletions).into()));
        updates
    }
}

/// The clock after the first struct of a section.
fn end_of_first(section: &RawSection<'_>) -> Option<Need> {
    section.clone().next().map(|first| Need { client: first.client, clock: first.end })
}

/// Adds a range behind those of the last client, which may overlap the last one.
fn add_range(deletions: &mut Vec<Deletions>, client: u64, range: Range<u64>) {
    match deletions.last_mut().filter(|(last, _)| *last == client) {
        Some((_, ranges)) => match ranges.last_mut().filter(|last| last.end >= range.start) {
            Some(last) => last.end = last.end.max(range.end),
            None => ranges.push(range),
        },
        None => deletions.push((client, std::iter::once(range).collect())),
    }
}

/// The ready part of a split update, as an update; `None` if it is empty.
pub(super) fn ready_part(split: &Split<'_>) -> Option<Bytes> {
    not_empty(write_sections(&split.ready, &split.ready_deletions))
}

fn not_empty(update: Vec<u8>) -> Option<Bytes> {
    (update[..] != EMPTY_UPDATE).then(|| update.into())
}

#[cfg(test)]
mod tests {
    use syncline_protocol::update::split::split;

    use super::*;
    use crate::hub::HubDocument;

    #[test]
    fn known_beginning_of_a_struct_does_not_make_its_entry_ready() {
        // Ten letters of client 5 that need client 66, which never comes. Another version of them arrives letter by letter.
        let update = [&[1, 1, 5, 0, 0x84, 66, 0, 10][..], b"abcdefghij", &[0]].concat();
        let (mut structs, mut pending) = (StructStore::default(), Pending::default());
        pending.add(NewPending::new(&split(&update, &structs), None, &structs), None);
        for clock in 0..9 {
            let letter = if clock == 0 {
                vec![1, 1, 5, 0, 4, 1, 1, b't', 1, b'x', 0]
            } else {
                vec![1, 1, 5, clock, 0x84, 5, clock - 1, 1, b'x', 0]
            };
            structs.add(&letter);
            pending.note_applied(&letter, &structs);
            assert!(pending.ready.is_empty(), "examined for nothing at clock {clock}, and so at every letter");
        }
        structs.add(&[1, 1, 5, 9, 0x84, 5, 8, 1, b'x', 0]);
        pending.note_applied(&[1, 1, 5, 9, 0x84, 5, 8, 1, b'x', 0], &structs);
        assert_eq!(pending.next_ready(&structs), None);
        assert!(pending.is_empty(), "all of it is known");
    }

    #[test]
    fn index_does_not_grow_when_entries_complete_by_one_of_their_needs() {
        let mut hub = HubDocument::default();
        hub.take(&Bytes::from_static(&[1, 1, 9, 0, 0x84, 66, 0, 1, b'x', 0])).unwrap();
        let memory = hub.memory_bytes();
        for client in 10..60 {
            let pending = [1, 1, client, 0, 0x84, 66, client, 1, b'x', 0];
            let other = [1, 1, client, 0, 4, 1, 1, b't', 1, b'x', 0];
            hub.take(&Bytes::copy_from_slice(&pending)).unwrap();
            assert!(hub.memory_bytes() > memory);
            hub.take(&Bytes::copy_from_slice(&other)).unwrap();
            hub.take_released();
            let pending = hub.pending.as_ref().unwrap();
            assert_eq!((pending.len(), pending.by_need.len()), (1, 2));
        }
    }

    #[test]
    fn memory_counts_the_capacity_of_entries() {
        let mut hub = HubDocument::default();
        hub.take(&[&[1, 1, 9, 0, 0x84, 66, 0, 0x80, 0x20][..], &[b'x'; 4_096], &[0]].concat().into()).unwrap();
        hub.take(&Bytes::from_static(&[1, 1, 9, 0x80, 0x20, 0x84, 9, 0xff, 0x1f, 1, b'x', 0])).unwrap();
        let pending = hub.pending.as_ref().unwrap();
        let capacity: usize = pending.entries.values().map(|entry| entry.bytes.capacity()).sum();
        assert!(capacity > 8_000, "the entry has grown: {capacity}");
        assert!(pending.memory_bytes() > capacity, "{}", pending.memory_bytes());
    }
}
