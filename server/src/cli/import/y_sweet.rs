//! y-sweet's directory: `NAME/data.ysweet`, one file a document.
//!
//! The file is a bincode 1 map of bytes to bytes (a count, then lengths and bytes, all u64 little-endian): y-sweet-core
//! 0.9.1 `sync_kv.rs`. Its keys are yrs-kvstore 0.3's (`keys.rs`): `00 01 oid:4 00` is the state as a v1 update,
//! `00 01 oid:4 02 clock:4 00` an update after it. There is one document in each file.

use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use syncline_protocol::update::{ScanLimits, scan_update};
use syncline_replica::HubDocument;

use super::{Found, read_file};

const FILE: &str = "data.ysweet";
/// Version and key space of a document's entries.
const DOCUMENT_KEYS: [u8; 2] = [0, 1];
const STATE: u8 = 0;
const UPDATE: u8 = 2;

/// Every document in a y-sweet directory, by name. A subdirectory without y-sweet's file is passed over.
pub(super) fn documents(dir: &Path) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path().join(FILE);
        if path.is_file() {
            found.push((entry.file_name().to_string_lossy().into_owned(), read(&path)));
        }
    }
    if found.is_empty() {
        bail!("there is no {FILE} in any directory in it; it must be what `y-sweet serve DIR` was given");
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

fn read(path: &Path) -> anyhow::Result<Bytes> {
    let file = read_file(path)?;
    let entries = entries(&file).ok_or_else(|| anyhow!("{} is no file of y-sweet, or cut short", path.display()))?;
    // The map is in order: the state comes before the updates, and these by clock.
    let updates = entries
        .into_iter()
        .filter(|(key, _)| key.starts_with(&DOCUMENT_KEYS) && matches!(key.get(6), Some(&(STATE | UPDATE))));
    let updates: Vec<Bytes> = updates.map(|(_, value)| value).collect();
    for update in &updates {
        scan_update(update, &ScanLimits::default()).context("one of its updates cannot be taken")?;
    }
    let mut document = HubDocument::load(0, &updates)?;
    if document.pending().len() > 0 {
        bail!("some of its updates build on others that are not in the file");
    }
    Ok(document.compact())
}

/// The map's keys and values. `None`: this is no such map.
fn entries(file: &Bytes) -> Option<Vec<(Bytes, Bytes)>> {
    let mut rest = file.clone();
    let count = number(&mut rest)?;
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push((bytes(&mut rest)?, bytes(&mut rest)?));
    }
    rest.is_empty().then_some(entries)
}

fn bytes(from: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(number(from)?).ok()?;
    (length <= from.len()).then(|| from.split_to(length))
}

fn number(from: &mut Bytes) -> Option<u64> {
    let number = u64::from_le_bytes(*from.first_chunk()?);
    _ = from.split_to(8);
    Some(number)
}
