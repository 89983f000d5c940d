//! Reads sled's file without sled: every message whose checksum is right, whatever lies between. It writes nothing, which
//! sled's own open does (it zeroes what it takes for torn), and it goes on behind damage, where sled stops or panics.
//!
//! The format is that of sled 0.34.7 (`pagecache/logger.rs`, `serialization.rs`): segments of a fixed size, each with a
//! header (crc32, log position, stable position), then messages: crc32, kind, length, segment number, page, body. A page
//! is its newest whole node and the links behind it. What a key's value was before is kept: a superseded part may be all
//! that is left of a document.
//!
//! A batch begins with a manifest: the log position of its last byte. If the log ends before that position, the batch was
//! never finished, and nothing from the manifest on counts, as in sled's own recovery. Its values are kept like older ones.

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
/// The crc32 and the kind.
const FIXED_BYTES: usize = 5;
/// sled writes log positions inverted.
const INVERTED: i64 = i64::MAX;

mod kind {
    pub const CAP: u8 = 2;
    pub const MANIFEST: u8 = 3;
    pub const FREE: u8 = 4;
    pub const NODE: u8 = 8;
    pub const LINK: u8 = 10;
    pub const LAST: u8 = 11;
}

/// Where a value lies, and when it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// sled's log position: the newer, the higher.
    lsn: i64,
    offset: u64,
    len: usize,
}

/// What was found in the file.
pub(super) struct Scan {
    file: File,
    segment_bytes: usize,
    /// Segments as they were before sled wrote into them: they count, not the file's.
    kept: Vec<Segment>,
    /// Each key's newest value.
    live: BTreeMap<Vec<u8>, Place>,
    /// Values that were replaced or removed, oldest first.
    older: BTreeMap<Vec<u8>, Vec<Place>>,
    /// The last log position of what cannot be read; what was written later is sure to be the newest.
    lost_until: i64,
    /// Segments in which nothing says that they go on or are full: where they begin. That of the newest is the log's end;
    /// in others something may be lost that nothing follows.
    unfinished: Vec<i64>,
    /// The newest segment.
    newest: i64,
    /// The log position behind the last message of all.
    end: i64,
    /// Where each batch begins, and its last log position.
    manifests: Vec<(i64, i64)>,
    /// Bytes of the file that belong to the log and cannot be read.
    pub unreadable: Vec<Range<u64>>,
}

enum Message {
    Node { prefix: Vec<u8>, items: Vec<(Vec<u8>, Place)> },
    Set { key: Vec<u8>, place: Place },
    Remove { key: Vec<u8> },
    Free,
}

/// By page, with the log position.
type Pages = HashMap<u64, Vec<(i64, Message)>>;

impl Scan {
    /// Reads the whole file once. What was written at the log position `until` or later does not count.
    pub fn read(db: &Path, kept: Vec<Segment>, until: i64) -> io::Result<Self> {
        let file = File::open(db)?;
        let segment_bytes = segment_bytes(db.parent().unwrap_or(db));
        let mut scan = Self {
            file,
            segment_bytes,
            kept,
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
            let segment = match scan.kept.iter().find(|(kept, _)| *kept == base) {
                Some((_, kept)) => kept.clone(),
                None => {
                    let mut segment = vec![0; usize::try_from(len - base).unwrap_or(usize::MAX).min(segment_bytes)];
                    scan.file.read_exact_at(&mut segment, base)?;
                    segment
                }
            };
            scan.read_segment(base, &segment, &mut pages);
            // Only the newest segment ends early. Otherwise the file was cut off, and the segments behind the cut may have been
            // newer than all that are left.
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
        for places in scan.older.values_mut() {
            places.sort_unstable();
        }
        Ok(scan)
    }

    /// The newest value of a key whose checksum is right, and whether it is the newest of all that were found.
    pub fn value(&self, key: &[u8]) -> Option<(Vec<u8>, bool)> {
        let live = self.live.get(key).into_iter().map(|place| (place, true));
        let older = self.older.get(key).into_iter().flatten().rev().map(|place| (place, false));
        live.chain(older).find_map(|(place, is_newest)| {
            let value = self.load(*place).ok()?;
            unseal(key, &value)?;
            Some((value, is_newest))
        })
    }

    /// Something is known to be lost, nobody knows where: what was written before this log position may be older than it was.
    pub fn set_back_before(&self) -> i64 {
        let ends = self.unfinished.iter().filter(|lsn| **lsn < self.newest).map(|lsn| lsn + self.segment_bytes as i64);
        match ends.max().unwrap_or(0).max(self.lost_until) {
            // At the end of the log, then.
            0 => i64::MAX,
            until => until,
        }
    }

    /// When a key's newest value was written.
    pub fn lsn(&self, key: &[u8]) -> Option<i64> {
        self.live.get(key).map(|place| place.lsn)
    }

    /// The keys in use that begin with `prefix`.
    pub fn live_keys<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        from(&self.live, prefix)
    }

    /// The keys that begin with `prefix`, those that were removed included.
    pub fn all_keys<'a>(&'a self, prefix: &'a [u8]) -> Vec<&'a [u8]> {
        let mut keys: Vec<_> = from(&self.live, prefix).chain(from(&self.older, prefix)).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    fn load(&self, place: Place) -> io::Result<Vec<u8>> {
        let mut value = vec![0; place.len];
        self.read_at(&mut value, place.offset)?;
        Ok(value)
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        for (base, segment) in &self.kept {
            let from = at.checked_sub(*base).and_then(|from| usize::try_from(from).ok());
            if let Some(kept) = from.and_then(|from| segment.get(from..from.checked_add(bytes.len())?)) {
                bytes.copy_from_slice(kept);
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
                // Behind the end of the log there is nothing, or what the segment held before. In it, there is more.
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

    /// Plays what happened to a page before `until`, in order. Later values become older ones.
    fn replay(&mut self, mut messages: Vec<(i64, Message)>, until: i64) -> io::Result<()> {
        messages.sort_unstable_by_key(|(lsn, _)| *lsn);
        let mut prefixes: Vec<Vec<u8>> = Vec::new();
        let mut page: BTreeMap<Vec<u8>, Place> = BTreeMap::new();
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
                    // The newest last.
                    prefixes.retain(|known| *known != prefix);
                    prefixes.push(prefix);
                }
                Message::Set { key, place } => {
                    // If the node before it is unreadable its prefix may have been another: the checksum tells.
                    let value = self.load(place)?;
                    let full = prefixes.iter().rev().map(|prefix| [prefix.as_slice(), &key].concat());
                    let none = std::iter::once(key.clone());
                    let Some(full) = full.chain(none).find(|full| unseal(full, &value).is_some()) else { continue };
                    if lsn >= until {
                        self.older.entry(full).or_default().push(place);
                    } else if let Some(before) = page.insert(full.clone(), place) {
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
        for (key, place) in page {
            match self.live.get_mut(&key) {
                None => drop(self.live.insert(key, place)),
                Some(other) => {
                    let loser = place.min(*other);
                    *other = place.max(*other);
                    self.older.entry(key).or_default().push(loser);
                }
            }
        }
        Ok(())
    }

    fn retire(&mut self, page: impl IntoIterator<Item = (Vec<u8>, Place)>) {
        for (key, place) in page {
            self.older.entry(key).or_default().push(place);
        }
    }
}

fn from<'a, T>(map: &'a BTreeMap<Vec<u8>, T>, prefix: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    map.range(prefix.to_vec()..).map(|(key, _)| key.as_slice()).take_while(move |key| key.starts_with(prefix))
}

/// The log position at which a segment begins, if its header is right.
pub(super) fn segment_lsn(segment: &[u8], segment_bytes: usize) -> Option<i64> {
    let header = segment.get(..SEGMENT_HEADER_BYTES)?;
    let (crc, rest) = header.split_first_chunk::<4>()?;
    if !u32::from_le_bytes(*crc) != crc32fast::hash(rest) {
        return None;
    }
    let lsn = i64::from_le_bytes(*rest.first_chunk()?) ^ INVERTED;
    (lsn >= 0 && lsn % segment_bytes as i64 == 0).then_some(lsn)
}

/// A message whose checksum is right.
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

    /// What it does to its page. `None`: nothing that concerns keys. `at`: where its body lies in the file.
    fn parse(&self, lsn: i64, at: u64) -> Option<Message> {
        let mut rest = self.body;
        match self.kind {
            kind::FREE => Some(Message::Free),
            kind::NODE => {
                let mut rest = Fields { whole: self.body, rest, lsn, at };
                // The next page, the page that is merged into this one.
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
                let items: Option<Vec<_>> = keys?.into_iter().map(|key| Some((key, rest.place()?))).collect();
                Some(Message::Node { prefix, items: items? })
            }
            kind::LINK => {
                let (&what, after) = rest.split_first()?;
                rest = after;
                let mut fields = Fields { whole: self.body, rest, lsn, at };
                match what {
                    0 => Some(Message::Set { key: fields.bytes()?.to_vec(), place: fields.place()? }),
                    1 => Some(Message::Remove { key: fields.bytes()?.to_vec() }),
                    // The page's content lies in its left neighbour now.
                    4 => Some(Message::Free),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// Reads a body, and knows where in the file it is.
struct Fields<'a> {
    whole: &'a [u8],
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

    fn place(&mut self) -> Option<Place> {
        let len = self.bytes()?.len();
        let end = self.whole.len() - self.rest.len();
        Some(Place { lsn: self.lsn, offset: self.at + (end - len) as u64, len })
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
