//! The layout of a store's keys and values: pure functions between values and bytes.
//!
//! | key | value |
//! |---|---|
//! | `m` | the store's metadata: identity, format, counts |
//! | `h` name | the document's head |
//! | `i` id | the document's name, to identify a document whose head is lost |
//! | `g` id | a sweep mark: the document may have parts that no head references |
//! | `d` id `0` upto chunk | a chunk of the snapshot |
//! | `d` id `1` first-seq chunk | a chunk of an entry: the document's records in one commit |
//!
//! Numbers in keys are big-endian, so that a document's parts are adjacent and in order; numbers in values are
//! little-endian. Every value begins with an xxh3 checksum of its key and the rest of the value, which detects a damaged
//! value and a value under the wrong key. A head contains a digest of the checksums of all its parts in order, which
//! detects a missing part and a part older than the head.

use bytes::Bytes;
use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use xxhash_rust::xxh3::Xxh3;

use super::store::Record;

/// The format this code writes, and the newest it reads.
pub(super) const FORMAT: u32 = 2;
/// The largest value, including the checksum. The engine stores larger ones in separate files.
pub(super) const MAX_VALUE_BYTES: usize = 4096;
/// The largest payload of a value.
pub(super) const CHUNK_BYTES: usize = MAX_VALUE_BYTES - SUM_BYTES;
/// The key of [`Meta`].
pub(super) const META_KEY: &[u8] = b"m";
/// The prefix of all heads.
pub(super) const HEADS: &[u8] = b"h";
/// The prefix of all names.
pub(super) const NAMES: &[u8] = b"i";
/// The prefix of all sweep marks.
pub(super) const SWEEPS: &[u8] = b"g";

const SUM_BYTES: usize = 8;

/// The kind of part a key refers to. Snapshots sort before entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartKind {
    /// A chunk of a snapshot.
    Snapshot = 0,
    /// A chunk of an entry.
    Entry = 1,
}

/// Identifies a chunk of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Whether the chunk is part of a snapshot or of an entry.
    pub kind: PartKind,
    /// The snapshot's last record, or the entry's first record.
    pub seq: Seq,
    /// The chunk's index in the snapshot or entry, from 0.
    pub chunk: u32,
}

/// The key of a document's head.
pub(super) fn head_key(document: &DocumentName) -> Vec<u8> {
    [HEADS, document.as_str().as_bytes()].concat()
}

/// The key of a document's name.
pub(super) fn name_key(id: u64) -> Vec<u8> {
    [NAMES, &id.to_be_bytes()].concat()
}

/// The key of a document's sweep mark.
pub(super) fn sweep_key(id: u64) -> Vec<u8> {
    [SWEEPS, &id.to_be_bytes()].concat()
}

/// The id in a name's or sweep mark's key.
pub(super) fn id_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(1..)?.try_into().ok()?))
}

/// The key prefix of all parts of a document.
pub(super) fn parts_prefix(id: u64) -> Vec<u8> {
    [b"d".as_slice(), &id.to_be_bytes()].concat()
}

/// The key of one chunk.
pub(super) fn part_key(id: u64, part: Part) -> Vec<u8> {
    let mut key = parts_prefix(id);
    key.push(part.kind as u8);
    key.extend_from_slice(&part.seq.0.to_be_bytes());
    key.extend_from_slice(&part.chunk.to_be_bytes());
    key
}

/// The chunk that a key refers to. `None`: it is not a valid key.
pub(super) fn part_of(key: &[u8]) -> Option<Part> {
    let (kind, rest) = key.get(9..)?.split_first()?;
    let kind = match kind {
        0 => PartKind::Snapshot,
        1 => PartKind::Entry,
        _ => return None,
    };
    let (seq, chunk) = rest.split_at_checked(8)?;
    Some(Part {
        kind,
        seq: Seq(u64::from_be_bytes(seq.try_into().ok()?)),
        chunk: u32::from_be_bytes(chunk.try_into().ok()?),
    })
}

/// The value for `payload` under `key`.
pub(super) fn seal(key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(SUM_BYTES + payload.len());
    value.extend_from_slice(&checksum(key, payload).to_le_bytes());
    value.extend_from_slice(payload);
    value
}

/// The payload of the value under `key`. `None`: the checksum does not match.
pub(super) fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, payload) = value.split_at_checked(SUM_BYTES)?;
    (sum == checksum(key, payload).to_le_bytes()).then_some(payload)
}

/// The checksum at the start of a value, not verified.
pub(super) fn sum_of(value: &[u8]) -> u64 {
    value.first_chunk().map_or(0, |sum| u64::from_le_bytes(*sum))
}

/// Extends a document's digest by its next part, whose checksum is `sum`.
pub(super) fn chain(digest: u64, sum: u64) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&digest.to_le_bytes());
    hash.update(&sum.to_le_bytes());
    hash.digest()
}

fn checksum(key: &[u8], payload: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&(key.len() as u64).to_le_bytes());
    hash.update(key);
    hash.update(payload);
    hash.digest()
}

/// The store's metadata. Written in every batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    /// Random, drawn when the store was created.
    pub identity: u128,
    /// The store's format, see [`FORMAT`].
    pub format: u32,
    /// The number of records ever committed. Never decreases.
    pub committed: u64,
    /// The number of documents that have a head.
    pub documents: u64,
    /// The id of the next new document.
    pub next_id: u64,
    /// The sum of all heads' checksums, to detect an outdated document. Since format 2; zero before.
    pub heads: u64,
    /// The number of applied batches. Since format 2; zero before.
    pub batches: u64,
}

impl Meta {
    /// Encodes the payload.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = self.identity.to_le_bytes().to_vec();
        out.extend_from_slice(&self.format.to_le_bytes());
        for number in [self.committed, self.documents, self.next_id, self.heads, self.batches] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out
    }

    /// Decodes the payload. Also reads the identity and format of later formats.
    pub(crate) fn decode(mut payload: &[u8]) -> Option<Self> {
        let from = &mut payload;
        Some(Self {
            identity: u128::from_le_bytes(take(from)?),
            format: u32::from_le_bytes(take(from)?),
            committed: u64::from_le_bytes(take(from)?),
            documents: u64::from_le_bytes(take(from)?),
            next_id: u64::from_le_bytes(take(from)?),
            heads: take(from).map_or(0, u64::from_le_bytes),
            batches: take(from).map_or(0, u64::from_le_bytes),
        })
    }
}

/// A document's metadata. Written in the batch that changes the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// The document's id in keys.
    pub id: u64,
    /// The identity of its history.
    pub epoch: Epoch,
    /// The last record.
    pub last: Seq,
    /// The last record in the snapshot; zero: there is no snapshot.
    pub upto: Seq,
    /// The length of the snapshot in bytes.
    pub snapshot_bytes: u64,
    /// The number of the snapshot's chunks.
    pub snapshot_chunks: u32,
    /// The number of entries after the snapshot.
    pub entries: u64,
    /// [`chain`] over the snapshot's chunks, then the entries' chunks, starting with zero.
    pub digest: u64,
}

impl Head {
    /// Encodes the payload.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = self.id.to_le_bytes().to_vec();
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        for number in [self.last.0, self.upto.0, self.snapshot_bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.snapshot_chunks.to_le_bytes());
        out.extend_from_slice(&self.entries.to_le_bytes());
        out.extend_from_slice(&self.digest.to_le_bytes());
        out
    }

    /// Decodes the payload.
    pub(crate) fn decode(mut payload: &[u8]) -> Option<Self> {
        let from = &mut payload;
        Some(Self {
            id: u64::from_le_bytes(take(from)?),
            epoch: Epoch(u128::from_le_bytes(take(from)?)),
            last: Seq(u64::from_le_bytes(take(from)?)),
            upto: Seq(u64::from_le_bytes(take(from)?)),
            snapshot_bytes: u64::from_le_bytes(take(from)?),
            snapshot_chunks: u32::from_le_bytes(take(from)?),
            entries: u64::from_le_bytes(take(from)?),
            digest: u64::from_le_bytes(take(from)?),
        })
    }

    /// Whether the head references this part. Other parts are leftovers.
    pub(crate) fn references(&self, part: Part) -> bool {
        match part.kind {
            PartKind::Snapshot => part.seq == self.upto && part.chunk < self.snapshot_chunks,
            PartKind::Entry => part.seq > self.upto && part.seq <= self.last,
        }
    }
}

/// Encodes an entry: its length, the number of records, time and length of each, then all updates.
pub(super) fn encode_entry(records: &[Record]) -> Vec<u8> {
    let updates: usize = records.iter().map(|record| record.update.len()).sum();
    let total = ENTRY_BYTES + RECORD_BYTES * records.len() + updates;
    let mut out = Vec::with_capacity(total);
    out.extend_from_slice(&(total as u64).to_le_bytes());
    out.extend_from_slice(&(records.len() as u32).to_le_bytes());
    for record in records {
        out.extend_from_slice(&record.time_ms.to_le_bytes());
        out.extend_from_slice(&(record.update.len() as u32).to_le_bytes());
    }
    for record in records {
        out.extend_from_slice(&record.update);
    }
    out
}

/// The records of an entry assembled from its chunks. `None`: it is not a valid entry.
pub(super) fn decode_entry(first: Seq, entry: Bytes) -> Option<Vec<Record>> {
    let mut rest: &[u8] = &entry;
    let total = u64::from_le_bytes(take(&mut rest)?);
    let count = u32::from_le_bytes(take(&mut rest)?) as usize;
    if total != entry.len() as u64 || count == 0 || count > rest.len() / RECORD_BYTES {
        return None;
    }
    let mut at = ENTRY_BYTES + RECORD_BYTES * count;
    let mut records = Vec::with_capacity(count);
    for number in 0..count as u64 {
        let time_ms = u64::from_le_bytes(take(&mut rest)?);
        let end = at.checked_add(u32::from_le_bytes(take(&mut rest)?) as usize)?;
        if end > entry.len() {
            return None;
        }
        records.push(Record { seq: Seq(first.0.checked_add(number)?), time_ms, update: entry.slice(at..end) });
        at = end;
    }
    (at == entry.len()).then_some(records)
}

/// The number of chunks of the entry that begins with this chunk.
pub(super) fn entry_chunks(first_chunk: &[u8]) -> Option<u32> {
    let total = u64::from_le_bytes(*first_chunk.first_chunk()?);
    u32::try_from(total.div_ceil(CHUNK_BYTES as u64)).ok()
}

const ENTRY_BYTES: usize = 12;
const RECORD_BYTES: usize = 12;

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (value, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*value)
}
