//! Merges updates by copying their bytes, without building a document.
//!
//! Merges only the simple and common case: the structs of each client are consecutive without a gap, as for keystrokes
//! that were queued together. Structs are copied unchanged and in order; deleted ranges are sorted and joined. Any other
//! update starts a new one, so the result is an ordered list that holds exactly the input.
//! (`yrs::merge_updates_v1` decodes everything and is quadratic in the number of updates.)

use super::parse::{ClientRange, UNLIMITED, read_section_header, read_struct};
use super::{ScanError, Summary, parse};
use crate::varint::{Reader, var_uint_len, write_var_uint};

/// Approximate size limit of a merged update; a larger input is not merged and not copied.
const MAX_MERGED_BYTES: usize = 64 * 1024;
/// Most clients in a merged update: the list of clients is searched linearly.
const MAX_MERGED_CLIENTS: usize = 64;

/// One update of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merged {
    /// The input update with this index, unchanged.
    Single(usize),
    /// Several input updates merged.
    Joined {
        /// The merged update.
        update: Vec<u8>,
        /// Number of input updates in it.
        count: usize,
    },
}

/// The structs of one client in one update.
#[derive(Debug, Clone, Copy)]
struct SectionBytes<'a> {
    range: ClientRange,
    structs: u64,
    bytes: &'a [u8],
}

/// The index ranges of one update's parts in the lists of [`Updates`].
#[derive(Debug, Clone)]
struct UpdateParts {
    sections: std::ops::Range<usize>,
    deletes: std::ops::Range<usize>,
    bytes: usize,
    /// The update can be merged with others.
    is_mergeable: bool,
}

/// Parsed updates, ready to be merged.
#[derive(Debug, Default)]
pub struct Updates<'a> {
    updates: Vec<UpdateParts>,
    sections: Vec<SectionBytes<'a>>,
    deletes: Vec<ClientRange>,
}

impl<'a> Updates<'a> {
    /// Parses scanned updates. One that cannot be parsed is not merged.
    pub fn new(updates: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut all = Self::default();
        for update in updates {
            let (sections, deletes) = (all.sections.len(), all.deletes.len());
            let read = if update.len() <= MAX_MERGED_BYTES { all.read(update).ok() } else { None };
            if read.is_none() {
                all.sections.truncate(sections);
                all.deletes.truncate(deletes);
            }
            all.updates.push(UpdateParts {
                sections: sections..all.sections.len(),
                deletes: deletes..all.deletes.len(),
                bytes: update.len(),
                is_mergeable: read.is_some_and(|summary| summary.skips == 0),
            });
        }
        all
    }

    fn read(&mut self, update: &'a [u8]) -> Result<Summary, ScanError> {
        let mut reader = Reader::new(update);
        let mut summary = Summary::default();
        for _ in 0..reader.var_uint()? {
            let (structs, client, start) = read_section_header(&mut reader)?;
            let from = reader.rest();
            let mut end = start;
            for _ in 0..structs {
                end = read_struct(&mut reader, client, end, &UNLIMITED, &mut summary)?.end;
            }
            let bytes = &from[..from.len() - reader.remaining()];
            self.sections.push(SectionBytes { range: ClientRange { client, start, end }, structs, bytes });
        }
        parse::read_delete_ranges(&mut reader, |range| self.deletes.push(range))?;
        Ok(summary)
    }

    /// Merges the updates for whose index `wanted` returns true.
    pub fn merge(&self, wanted: impl Fn(usize) -> bool) -> Vec<Merged> {
        let mut out = Vec::new();
        let mut run = MergeRun::default();
        for (index, parts) in self.updates.iter().enumerate().filter(|(index, _)| wanted(*index)) {
            let sections = &self.sections[parts.sections.clone()];
            if !run.accepts(parts, sections) {
                out.extend(std::mem::take(&mut run).finish(self));
            }
            run.add(index, parts, sections);
        }
        out.extend(run.finish(self));
        out
    }
}

/// Consecutive updates that become one.
#[derive(Default)]
struct MergeRun<'a> {
    indexes: Vec<usize>,
    clients: Vec<MergedClient<'a>>,
    bytes: usize,
    /// No further update can be merged.
    is_closed: bool,
}

struct MergedClient<'a> {
    range: ClientRange,
    structs: u64,
    chunks: Vec<&'a [u8]>,
}

impl<'a> MergeRun<'a> {
    fn accepts(&self, parts: &UpdateParts, sections: &[SectionBytes<'a>]) -> bool {
        let follows = |section: &SectionBytes<'_>| {
            let client = self.clients.iter().find(|client| client.range.client == section.range.client);
            client.is_none_or(|client| client.range.end == section.range.start)
        };
        self.indexes.is_empty()
            || (!self.is_closed
                && parts.is_mergeable
                && self.bytes + parts.bytes <= MAX_MERGED_BYTES
                && self.clients.len() + sections.len() <= MAX_MERGED_CLIENTS
                && sections.iter().all(follows))
    }

    fn add(&mut self, index: usize, parts: &UpdateParts, sections: &[SectionBytes<'a>]) {
        self.indexes.push(index);
        self.bytes += parts.bytes;
        self.is_closed |= !parts.is_mergeable || sections.len() > MAX_MERGED_CLIENTS;
        if self.is_closed {
            return;
        }
        for section in sections {
            match self.clients.iter_mut().find(|client| client.range.client == section.range.client) {
                Some(client) => client.push(section),
                None => self.clients.push(MergedClient::new(section)),
            }
        }
    }

    fn finish(self, all: &Updates<'a>) -> Option<Merged> {
        match self.indexes[..] {
            [] => return None,
            [only] => return Some(Merged::Single(only)),
            _ => {}
        }
        let mut deletes = Vec::new();
        for index in &self.indexes {
            deletes.extend_from_slice(&all.deletes[all.updates[*index].deletes.clone()]);
        }
        let count = self.indexes.len();
        Some(Merged::Joined { update: self.write(deletes), count })
    }

    fn write(mut self, deletes: Vec<ClientRange>) -> Vec<u8> {
        // Yjs writes the largest client id first.
        self.clients.sort_unstable_by_key(|client| std::cmp::Reverse(client.range.client));
        let mut out = Vec::with_capacity(self.bytes + 16);
        write_var_uint(&mut out, self.clients.len() as u64);
        for client in &self.clients {
            write_var_uint(&mut out, client.structs);
            write_var_uint(&mut out, client.range.client);
            write_var_uint(&mut out, client.range.start);
            client.chunks.iter().for_each(|chunk| out.extend_from_slice(chunk));
        }
        write_delete_set(&mut out, deletes);
        out
    }
}

impl<'a> MergedClient<'a> {
    fn new(section: &SectionBytes<'a>) -> Self {
        Self { range: section.range, structs: section.structs, chunks: vec![section.bytes] }
    }

    /// Appends the section that follows.
    fn push(&mut self, section: &SectionBytes<'a>) {
        self.range.end = section.range.end;
        self.structs += section.structs;
        self.chunks.push(section.bytes);
    }
}

/// Appends a delete set: ranges are sorted, and adjacent or overlapping ones are joined.
fn write_delete_set(out: &mut Vec<u8>, mut ranges: Vec<ClientRange>) {
    ranges.sort_unstable_by_key(|range| (std::cmp::Reverse(range.client), range.start));
    ranges.dedup_by(|next, range| {
        let joins = next.client == range.client && next.start <= range.end;
        if joins {
            range.end = range.end.max(next.end);
        }
        joins
    });
    let of_clients = || ranges.chunk_by(|a, b| a.client == b.client);
    out.reserve(ranges.iter().map(|range| 10 + var_uint_len(range.start)).sum());
    write_var_uint(out, of_clients().count() as u64);
    for of_client in of_clients() {
        write_var_uint(out, of_client[0].client);
        write_var_uint(out, of_client.len() as u64);
        for range in of_client {
            write_var_uint(out, range.start);
            write_var_uint(out, range.end - range.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(updates: &[&[u8]]) -> Vec<Merged> {
        Updates::new(updates.iter().copied()).merge(|_| true)
    }

    #[test]
    fn consecutive_structs_become_one_section_and_deletes_are_joined() {
        // Client 1: one deleted struct at clock 0, then one at clock 1; client 2: one. GC ranges: bytes 0, length.
        let first: &[u8] = &[1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1];
        let other: &[u8] = &[1, 1, 2, 0, 0, 3, 0];
        let second: &[u8] = &[1, 1, 1, 1, 0, 2, 1, 1, 1, 1, 2];
        let update = vec![2, 1, 2, 0, 0, 3, 2, 1, 0, 0, 1, 0, 2, 1, 1, 1, 0, 3];
        assert_eq!(merged(&[first, other, second]), [Merged::Joined { update, count: 3 }]);
        let alone = Updates::new([first, other, second].into_iter()).merge(|number| number == 1);
        assert_eq!(alone, [Merged::Single(1)]);
    }

    #[test]
    fn gap_overlap_skip_or_unreadable_update_is_not_merged() {
        let first: &[u8] = &[1, 1, 1, 0, 0, 2, 0];
        for other in [&[1, 1, 1, 3, 0, 1, 0][..], &[1, 1, 1, 1, 0, 2, 0], &[1, 2, 2, 0, 10, 1, 0, 1, 0], &[7, 7]] {
            assert_eq!(merged(&[first, other]), [Merged::Single(0), Merged::Single(1)], "{other:?}");
            assert_eq!(merged(&[other, first]), [Merged::Single(0), Merged::Single(1)], "{other:?}");
        }
    }

    #[test]
    fn large_updates_and_updates_of_many_clients_are_not_merged() {
        let many: Vec<Vec<u8>> = (0..=MAX_MERGED_CLIENTS as u8).map(|client| vec![1, 1, client, 0, 0, 1, 0]).collect();
        let many: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
        let out = merged(&many);
        assert!(matches!(out[..], [Merged::Joined { .. }, Merged::Single(MAX_MERGED_CLIENTS)]), "{out:?}");
        // A binary value of 40 KiB, twice.
        let large = |clock: u8| {
            let mut update = vec![1, 1, 1, clock, 3, 1, 1, b'm', 0x80, 0xc0, 0x02];
            update.resize(update.len() + 40 * 1024, 7);
            update.push(0);
            update
        };
        let (first, second) = (large(0), large(1));
        assert_eq!(merged(&[&first, &second]), [Merged::Single(0), Merged::Single(1)]);
    }
}
