//! PURE: encodes and decodes one document of a backup. Numbers are little-endian; see `docs/backup.md`.

use bytes::Bytes;
use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use xxhash_rust::xxh3::xxh3_64;

use crate::store::{Record, Snapshot, Stored};

/// The first bytes of every pack.
pub(super) const PACK_TITLE: &[u8; 16] = b"syncline pack 1\n";
/// The first bytes of every document in a pack.
const DOCUMENT_TITLE: &[u8; 4] = b"DOC1";
/// The title and the length before the body.
const HEADER_BYTES: usize = 12;
/// The checksum after the body.
const CHECKSUM_BYTES: usize = 8;

/// Encodes a document for a pack.
pub(super) fn encode(document: &DocumentName, stored: &Stored) -> Vec<u8> {
    let snapshot_bytes = stored.snapshot.as_ref().map_or(0, |snapshot| snapshot.update.len());
    let record_bytes: usize = stored.records.iter().map(|record| record.update.len() + 12).sum();
    let mut out = Vec::with_capacity(128 + document.as_str().len() + snapshot_bytes + record_bytes);
    out.extend_from_slice(DOCUMENT_TITLE);
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&(document.as_str().len() as u32).to_le_bytes());
    out.extend_from_slice(document.as_str().as_bytes());
    out.extend_from_slice(&stored.epoch.0.to_le_bytes());
    out.extend_from_slice(&stored.last().0.to_le_bytes());
    out.push(u8::from(stored.snapshot.is_some()));
    if let Some(snapshot) = &stored.snapshot {
        out.extend_from_slice(&snapshot.upto.0.to_le_bytes());
        out.extend_from_slice(&(snapshot.update.len() as u64).to_le_bytes());
        out.extend_from_slice(&snapshot.update);
    }
    out.extend_from_slice(&(stored.records.len() as u64).to_le_bytes());
    for record in &stored.records {
        out.extend_from_slice(&record.time_ms.to_le_bytes());
        out.extend_from_slice(&(record.update.len() as u32).to_le_bytes());
        out.extend_from_slice(&record.update);
    }
    let body = (out.len() - HEADER_BYTES) as u64;
    out[DOCUMENT_TITLE.len()..HEADER_BYTES].copy_from_slice(&body.to_le_bytes());
    let sum = xxh3_64(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

/// The checksum at the end of an encoded document.
pub(super) fn sum_of(encoded: &[u8]) -> u64 {
    encoded.last_chunk().map_or(0, |sum| u64::from_le_bytes(*sum))
}

/// Verifies and decodes a document. `Err`: a description of the damage.
pub(super) fn decode(encoded: &Bytes) -> Result<(DocumentName, Stored), &'static str> {
    let end = encoded.len().checked_sub(CHECKSUM_BYTES).ok_or("it is truncated")?;
    if xxh3_64(&encoded[..end]) != sum_of(encoded) {
        return Err("its checksum is wrong");
    }
    let mut rest = encoded.slice(..end);
    if take(&mut rest, DOCUMENT_TITLE.len())? != DOCUMENT_TITLE[..] || number(&mut rest)? != rest.len() as u64 {
        return Err("it is not an encoded document");
    }
    let name = length32(&mut rest)?;
    let name = std::str::from_utf8(&name).ok().and_then(|name| DocumentName::exact(name).ok());
    let epoch = Epoch(u128::from_le_bytes(array(&mut rest)?));
    let last = Seq(number(&mut rest)?);
    let snapshot = match array::<1>(&mut rest)? {
        [0] => None,
        [1] => {
            let upto = Seq(number(&mut rest)?);
            let bytes = usize::try_from(number(&mut rest)?).map_err(|_| "a length is too large")?;
            Some(Snapshot { upto, update: take(&mut rest, bytes)? })
        }
        _ => return Err("it is not an encoded document"),
    };
    let count = number(&mut rest)?;
    let mut seq = snapshot.as_ref().map_or(Seq::ZERO, |snapshot| snapshot.upto);
    let mut records = Vec::new();
    for _ in 0..count {
        seq = seq.next();
        let time_ms = number(&mut rest)?;
        records.push(Record { seq, time_ms, update: length32(&mut rest)? });
    }
    if !rest.is_empty() || seq != last {
        return Err("the number of its records is wrong");
    }
    Ok((name.ok_or("its name is invalid")?, Stored { epoch, snapshot, records }))
}

fn take(from: &mut Bytes, bytes: usize) -> Result<Bytes, &'static str> {
    if bytes > from.len() {
        return Err("a length is too large");
    }
    Ok(from.split_to(bytes))
}

fn array<const N: usize>(from: &mut Bytes) -> Result<[u8; N], &'static str> {
    take(from, N)?.first_chunk().copied().ok_or("it is truncated")
}

fn number(from: &mut Bytes) -> Result<u64, &'static str> {
    array(from).map(u64::from_le_bytes)
}

fn length32(from: &mut Bytes) -> Result<Bytes, &'static str> {
    let bytes = u32::from_le_bytes(array(from)?);
    take(from, bytes as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_round_trips_and_every_flipped_bit_is_detected() {
        let record = |seq, update: &'static [u8]| Record { seq: Seq(seq), time_ms: seq, update: update.into() };
        let snapshot = Snapshot { upto: Seq(7), update: Bytes::from_static(b"state") };
        let name = DocumentName::parse("a/b").unwrap();
        for stored in [
            Stored { epoch: Epoch(9), snapshot: Some(snapshot), records: vec![record(8, b"x"), record(9, b"")] },
            Stored { epoch: Epoch(u128::MAX), snapshot: None, records: vec![record(1, b"")] },
        ] {
            let encoded = encode(&name, &stored);
            assert_eq!(decode(&encoded.clone().into()), Ok((name.clone(), stored)));
            for at in 0..encoded.len() {
                let mut other = encoded.clone();
                other[at] ^= 1;
                assert!(decode(&other.into()).is_err(), "a flipped bit in byte {at}");
                assert!(decode(&encoded[..at].to_vec().into()).is_err(), "cut at {at}");
            }
        }
    }
}
