//! Reads sled's file without sled: every message with a valid checksum, also after damage. It writes nothing, unlike
//! sled's own open, which zeroes what it takes for torn writes; and it continues after damage, where sled stops or panics.
//!
//! The format is that of sled 0.34.7 (`pagecache/logger.rs`, `serialization.rs`): segments of a fixed size, each with a
//! header (crc32, log position, stable position), followed by messages: crc32, kind, length, segment number, page, body.
//! The content of a page is its newest complete node and the links after it. Superseded values of a key are kept too: a
//! superseded part may be all that remains of a document.
//!
//! A batch begins with a manifest, which contains the log position of the batch's last byte. If the log ends before that
//! position, the batch is unfinished and is ignored from the manifest on, as in sled's own recovery. Its values are kept
//! like superseded ones.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::layout::unseal;
use super::saved_segments::Segment;
use super::segments::segment_bytes;

pub(super) const SEGMENT_HEADER_BYTES: usize = 20;
/// The crc32 and the kind of a message.
const FIXED_BYTES: usize = 5;
/// sled stores log positions XORed with this.
const INVERTED: i64 = i64::MAX;

mod kind {
    pub(super) const CAP: u8 = 2;
    pub(super) const MANIFEST: u8 = 3;
    pub(super) const FREE: u8 = 4;
    pub(super) const NODE: u8 = 8;
    pub(super) const LINK: u8 = 10;
    pub(super) const LAST: u8 = 11;
}

/// Where a value is stored, and when it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct ValueLocation {
    /// sled's log position; a newer value has a higher one.
    lsn: i64,
    offset: u64,
    len: usize,
}

/// The content of sled's file.
pub(super) struct Scan {
    file: File,
    segment_bytes: usize,
    /// Segments as they were before sled last opened the file. They replace the file's.
    saved: Vec<Segment>,
    /// Each key's newest value.
    live: BTreeMap<Vec<u8>, ValueLocation>,
    /// Values that were replaced or removed, oldest first.
    older: BTreeMap<Vec<u8>, Vec<ValueLocation>>,
    /// The last log position that may be unreadable. Anything written later is known to be the newest.
    lost_until: i64,
    /// The start positions of segments without an end-of-segment message. In the newest segment this is the end of the
    /// log; in others, messages at the end of the segment may be lost.
    unfinished: Vec<i64>,
    /// The start position of the newest segment.
    newest: i64,
    /// The log position after the last message.
    end: i64,
    /// The log position of each batch's manifest, and the last log position of that batch.
    manifests: Vec<(i64, i64)>,
    /// Ranges of the file that belong to the log and cannot be read.
    pub unreadable: Vec<Range<u64>>,
}

enum Message {
    Node { prefix: Vec<u8>, items: Vec<(Vec<u8>, ValueLocation)> },
    Set { key: Vec<u8>, location: ValueLocation },
    Remove { key: Vec<u8> },
    Free,
}

/// The messages of each page, with their log positions.
type Pages = HashMap<u64, Vec<(i64, Message)>>;

impl Scan {
    /// Reads the whole file once. Ignores what was written at the log position `until` or later.
    pub(crate) fn read(db: &Path, saved: Vec<Segment>, until: i64) -> io::Result<Self> {
        let file = File::open(db)?;
        let segment_bytes = segment_bytes(db.parent().unwrap_or(db));
        let mut scan = Self {
            file,
            segment_bytes,
            saved,
            live: BTreeMap::new(),
            older: BTreeMap::new(),
            lost_until: 0,
            unfinished: Vec::new(),
            newest: 0,
            end: 0,
            manifests: Vec::new(),
            unreadable: Vec::new(),
        };
        let mut pages = Pages::new();
        let len = scan.file.metadata()?.len();
        for base in (0..len).step_by(segment_bytes) {
            let segment = match scan.saved.iter().find(|(saved_base, _)| *saved_base == base) {
                Some((_, saved)) => saved.clone(),
                None => {
                    let mut segment = vec![0; usize::try_from(len - base).unwrap_or(usize::MAX).min(segment_bytes)];
                    scan.file.read_exact_at(&mut segment, base)?;
                    segment
                }
            };
            scan.read_segment(base, &segment, &mut pages);
            // Only the newest segment may be short. Otherwise the file was truncated, and the lost segments may have been
            // newer than all that remain.
            if segment.len() < segment_bytes && segment_lsn(&segment, segment_bytes).is_none_or(|lsn| lsn < scan.newest)
            {
                scan.lost_until = i64::MAX;
            }
        }
        let unfinished = scan.manifests.iter().filter(|(_, last)| *last >= scan.end).map(|(begin, _)| *begin);
        let until = unfinished.min().map_or(until, |begin| begin.min(until));
        for messages in pages.into_values() {
            scan.replay(messages, until)?;
        }
        for locations in scan.older.values_mut() {
            locations.sort_unstable();
        }
        Ok(scan)
    }

    /// The newest value of a key with a valid checksum, and whether it is the newest value of all.
    pub(crate) fn value(&self, key: &[u8]) -> Option<(Vec<u8>, bool)> {
        let live = self.live.get(key).into_iter().map(|location| (location, true));
        let older = self.older.get(key).into_iter().flatten().rev().map(|location| (location, false));
        live.chain(older).find_map(|(location, is_newest)| {
            let value = self.load(*location).ok()?;
            unseal(key, &value)?;
            Some((value, is_newest))
        })
    }

    /// If a store-wide check shows that something is lost, but not what: the log position before which values may be
    /// outdated.
    pub(crate) fn maybe_outdated_before(&self) -> i64 {
        let ends = self.unfinished.iter().filter(|lsn| **lsn < self.newest).map(|lsn| lsn + self.segment_bytes as i64);
        match ends.max().unwrap_or(0).max(self.lost_until) {
            // Then the end of the log is lost, and anything may be outdated.
            0 => i64::MAX,
            until => until,
        }
    }

    /// The log position at which a key's newest value was written.
    pub(crate) fn lsn(&self, key: &[u8]) -> Option<i64> {
        self.live.get(key).map(|location| location.lsn)
    }

    /// The keys in use that begin with `prefix`.
    pub(crate) fn live_keys<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        keys_with_prefix(&self.live, prefix)
    }

    /// The keys that begin with `prefix`, including removed ones.
    pub(crate) fn all_keys<'a>(&'a self, prefix: &'a [u8]) -> Vec<&'a [u8]> {
        let mut keys: Vec<_> =
            keys_with_prefix(&self.live, prefix).chain(keys_with_prefix(&self.older, prefix)).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    fn load(&self, location: ValueLocation) -> io::Result<Vec<u8>> {
        let mut value = vec![0; location.len];
        self.read_at(&mut value, location.offset)?;
        Ok(value)
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        for (base, segment) in &self.saved {
            let from = at.checked_sub(*base).and_then(|from| usize::try_from(from).ok());
            if let Some(saved) = from.and_then(|from| segment.get(from..from.checked_add(bytes.len())?)) {
                bytes.copy_from_slice(saved);
                return Ok(());
            }
        }
        self.file.read_exact_at(bytes, at)
    }

    fn read_segment(&mut self, base: u64, segment: &[u8], pages: &mut Pages) {
        let Some(lsn) = segment_lsn(segment, self.segment_bytes) else {
            if segment.iter().any(|byte| *byte != 0) {
                self.unreadable.push(base..base + segment.len() as u64);
                self.lost_until = i64::MAX;
            }
            return;
        };
        self.newest = self.newest.max(lsn);
        let number = lsn as u64 / self.segment_bytes as u64;
        let mut at = SEGMENT_HEADER_BYTES;
        while at < segment.len() {
            let Some(message) = RawMessage::read(&segment[at..], number) else {
                // After the end of the log there are zeros, or the segment's previous content. A valid message means damage.
                let Some(next) = (at + 1..segment.len()).find(|at| RawMessage::read(&segment[*at..], number).is_some())
                else {
                    self.unfinished.push(lsn);
                    return;
                };
                self.unreadable.push(base + at as u64..base + next as u64);
                self.lost_until = self.lost_until.max(lsn + next as i64);
                at = next;
                continue;
            };
            let lsn_here = lsn + at as i64;
            self.end = self.end.max(lsn_here + (message.header_bytes + message.body.len()) as i64);
            match (message.kind, message.body.first_chunk()) {
                (kind::CAP, _) => return,
                (kind::MANIFEST, Some(last)) => self.manifests.push((lsn_here, i64::from_le_bytes(*last))),
                _ => {}
            }
            let body_at = base + (at + message.header_bytes) as u64;
            if let Some(parsed) = message.parse(lsn_here, body_at) {
                pages.entry(message.page).or_default().push((lsn_here, parsed));
            }
            at += message.header_bytes + message.body.len();
        }
    }

    /// Replays the messages of a page before `until`, in order. Values written later count as superseded.
    fn replay(&mut self, mut messages: Vec<(i64, Message)>, until: i64) -> io::Result<()> {
        messages.sort_unstable_by_key(|(lsn, _)| *lsn);
        let mut prefixes: Vec<Vec<u8>> = Vec::new();
        let mut page: BTreeMap<Vec<u8>, ValueLocation> = BTreeMap::new();
        for (lsn, message) in messages {
            match message {
                Message::Node { prefix, items } if lsn >= until => {
                    self.retire(items);
                    prefixes.push(prefix);
                }
                Message::Remove { .. } | Message::Free if lsn >= until => {}
                Message::Node { prefix, items } => {
                    self.retire(std::mem::take(&mut page));
                    page.extend(items);
                    // The newest prefix is last.
                    prefixes.retain(|known| *known != prefix);
                    prefixes.push(prefix);
                }
                Message::Set { key, location } => {
                    // If the preceding node is unreadable, its prefix is unknown: use the one that makes the checksum valid.
                    let value = self.load(location)?;
                    let full = prefixes.iter().rev().map(|prefix| [prefix.as_slice(), &key].concat());
                    let none = std::iter::once(key.clone());
                    let Some(full) = full.chain(none).find(|full| unseal(full, &value).is_some()) else { continue };
                    if lsn >= until {
                        self.older.entry(full).or_default().push(location);
                    } else if let Some(before) = page.insert(full.clone(), location) {
                        self.older.entry(full).or_default().push(before);
                    }
                }
                Message::Remove { key } => {
                    let prefix = prefixes.last().map_or(&[][..], Vec::as_slice);
                    let full = [prefix, &key].concat();
                    if let Some(before) = page.remove(&full) {
                        self.older.entry(full).or_default().push(before);
                    }
                }
                Message::Free => self.retire(std::mem::take(&mut page)),
            }
        }
        for (key, location) in page {
            match self.live.get_mut(&key) {
                None => drop(self.live.insert(key, location)),
                Some(other) => {
                    let superseded = location.min(*other);
                    *other = location.max(*other);
                    self.older.entry(key).or_default().push(superseded);
                }
            }
        }
        Ok(())
    }

    /// Adds the values of a page to the superseded ones.
    fn retire(&mut self, page: impl IntoIterator<Item = (Vec<u8>, ValueLocation)>) {
        for (key, location) in page {
            self.older.entry(key).or_default().push(location);
        }
    }
}

fn keys_with_prefix<'a, T>(map: &'a BTreeMap<Vec<u8>, T>, prefix: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    map.range(prefix.to_vec()..).map(|(key, _)| key.as_slice()).take_while(move |key| key.starts_with(prefix))
}

/// The log position at which a segment begins, if its header is valid.
pub(super) fn segment_lsn(segment: &[u8], segment_bytes: usize) -> Option<i64> {
    let header = segment.get(..SEGMENT_HEADER_BYTES)?;
    let (crc, rest) = header.split_first_chunk::<4>()?;
    if !u32::from_le_bytes(*crc) != crc32fast::hash(rest) {
        return None;
    }
    let lsn = i64::from_le_bytes(*rest.first_chunk()?) ^ INVERTED;
    (lsn >= 0 && lsn % segment_bytes as i64 == 0).then_some(lsn)
}

/// A message with a valid checksum.
struct RawMessage<'a> {
    kind: u8,
    page: u64,
    header_bytes: usize,
    body: &'a [u8],
}

impl<'a> RawMessage<'a> {
    fn read(bytes: &'a [u8], segment_number: u64) -> Option<Self> {
        let kind = *bytes.get(FIXED_BYTES - 1)?;
        if kind == 0 || kind > kind::LAST {
            return None;
        }
        let mut rest = &bytes[FIXED_BYTES..];
        let len = usize::try_from(number(&mut rest)?).ok()?;
        if len > rest.len() || number(&mut rest)? != segment_number {
            return None;
        }
        let page = number(&mut rest)?;
        let header_bytes = bytes.len() - rest.len();
        let body = rest.get(..len)?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(body);
        hasher.update(&bytes[4..header_bytes]);
        let crc = u32::from_le_bytes(*bytes.first_chunk()?);
        (!hasher.finalize() == crc).then_some(Self { kind, page, header_bytes, body })
    }

    /// The change to the message's page. `None`: it does not concern keys. `at`: the offset of its body in the file.
    fn parse(&self, lsn: i64, at: u64) -> Option<Message> {
        let mut rest = self.body;
        match self.kind {
            kind::FREE => Some(Message::Free),
            kind::NODE => {
                let mut rest = Fields { body: self.body, rest, lsn, at };
                // The next page, and the page that is being merged into this one.
                number(&mut rest.rest)?;
                number(&mut rest.rest)?;
                let (&[_merging, prefix_len], after) = rest.rest.split_first_chunk()?;
                rest.rest = after;
                let (low, _high) = (rest.bytes()?, rest.bytes()?);
                let prefix = low.get(..usize::from(prefix_len))?.to_vec();
                let (&is_index, after) = rest.rest.split_first()?;
                rest.rest = after;
                let count = number(&mut rest.rest)?;
                if is_index != 0 {
                    return Some(Message::Node { prefix, items: Vec::new() });
                }
                let keys: Option<Vec<_>> =
                    (0..count).map(|_| Some([prefix.as_slice(), rest.bytes()?].concat())).collect();
                let items: Option<Vec<_>> = keys?.into_iter().map(|key| Some((key, rest.location()?))).collect();
                Some(Message::Node { prefix, items: items? })
            }
            kind::LINK => {
                let (&what, after) = rest.split_first()?;
                rest = after;
                let mut fields = Fields { body: self.body, rest, lsn, at };
                match what {
                    0 => Some(Message::Set { key: fields.bytes()?.to_vec(), location: fields.location()? }),
                    1 => Some(Message::Remove { key: fields.bytes()?.to_vec() }),
                    // The page was merged into its left neighbour.
                    4 => Some(Message::Free),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// Reads the fields of a body, and tracks their offsets in the file.
struct Fields<'a> {
    body: &'a [u8],
    rest: &'a [u8],
    lsn: i64,
    at: u64,
}

impl<'a> Fields<'a> {
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(number(&mut self.rest)?).ok()?;
        let (bytes, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(bytes)
    }

    fn location(&mut self) -> Option<ValueLocation> {
        let len = self.bytes()?.len();
        let end = self.body.len() - self.rest.len();
        Some(ValueLocation { lsn: self.lsn, offset: self.at + (end - len) as u64, len })
    }
}

/// sled's variable-length integer (that of SQLite 4).
fn number(from: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = from.split_first()?;
    let wide = |rest: &[u8], bytes: usize| {
        let mut little = [0; 8];
        little[..bytes].copy_from_slice(rest.get(..bytes)?);
        Some((u64::from_le_bytes(little), bytes))
    };
    let (value, used) = match first {
        0..=240 => (u64::from(first), 0),
        241..=248 => (240 + 256 * (u64::from(first) - 241) + u64::from(*rest.first()?), 1),
        249 => (2288 + 256 * u64::from(*rest.first()?) + u64::from(*rest.get(1)?), 2),
        250..=255 => wide(rest, usize::from(first) - 247)?,
    };
    *from = &rest[used..];
    Some(value)
}
