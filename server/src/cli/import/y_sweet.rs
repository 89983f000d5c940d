//! Reads y-sweet's directory: one file `NAME/data.ysweet` per document.
//!
//! The file is a bincode 1 map of bytes to bytes (a count, then lengths and bytes, all u64 little-endian):
//! y-sweet-core 0.9.1 `sync_kv.rs`. Its keys are yrs-kvstore 0.3's (`keys.rs`): `00 01 oid:4 00` is the state
//! as a v1 update, `00 01 oid:4 02 clock:4 00` an update applied after it.

use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use syncline_protocol::update::{ScanLimits, scan_update};
use syncline_replica::HubDocument;

use super::{Found, read_file};

const FILE: &str = "data.ysweet";
/// Version and key space of a document's keys.
const DOCUMENT_KEYS: [u8; 2] = [0, 1];
const STATE: u8 = 0;
const UPDATE: u8 = 2;

/// Every document in a y-sweet directory, ordered by name. Subdirectories without y-sweet's file are skipped.
pub(super) fn documents(dir: &Path) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path().join(FILE);
        if path.is_file() {
            found.push((entry.file_name().to_string_lossy().into_owned(), read_document(&path)));
        }
    }
    if found.is_empty() {
        bail!("no {FILE} in any of its subdirectories; give the directory that `y-sweet serve DIR` uses");
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

fn read_document(path: &Path) -> anyhow::Result<Bytes> {
    let file = read_file(path)?;
    let entries =
        read_map(&file).ok_or_else(|| anyhow!("{} is not a y-sweet data file, or is truncated", path.display()))?;
    // The map is sorted: the state comes first, then the updates by clock.
    let updates = entries
        .into_iter()
        .filter(|(key, _)| key.starts_with(&DOCUMENT_KEYS) && matches!(key.get(6), Some(&(STATE | UPDATE))));
    let updates: Vec<Bytes> = updates.map(|(_, value)| value).collect();
    for update in &updates {
        scan_update(update, &ScanLimits::default())
            .with_context(|| format!("{} holds an invalid Yjs v1 update", path.display()))?;
    }
    Ok(HubDocument::load(0, &updates)?.encode_all())
}

/// The map's keys and values. `None`: the file is not such a map.
fn read_map(file: &Bytes) -> Option<Vec<(Bytes, Bytes)>> {
    let mut rest = file.clone();
    let count = read_u64(&mut rest)?;
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push((read_bytes(&mut rest)?, read_bytes(&mut rest)?));
    }
    rest.is_empty().then_some(entries)
}

fn read_bytes(from: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(read_u64(from)?).ok()?;
    (length <= from.len()).then(|| from.split_to(length))
}

fn read_u64(from: &mut Bytes) -> Option<u64> {
    let number = u64::from_le_bytes(*from.first_chunk()?);
    _ = from.split_to(8);
    Some(number)
}
