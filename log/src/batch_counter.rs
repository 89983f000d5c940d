//! Store-wide integrity checks, which detect losses that no single document shows.
//!
//! The engine takes damage at the end of its log for an unfinished write, and opens in a slightly earlier state, in which
//! every document is consistent but older. The *tally* file detects this: it contains the number of applied batches,
//! written after each commit and not synced. It survives a crash of the process in the page cache, and after a power cut
//! it is a lower bound. Damage in the middle of the log can roll single documents back; the sum over all heads, kept in
//! the store's metadata, detects this.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::layout::Meta;
use super::sled::SledStore;
use super::store::StoreError;
use super::store_lock::{REPAIR_HINT, open_error};

const TALLY_FILE: &str = "syncline.tally";
/// The number of batches, the low half of the store's identity, and a checksum of both.
const TALLY_BYTES: usize = 24;

/// The open tally file.
#[derive(Debug)]
pub(super) struct Tally(File);

impl Tally {
    /// Opens the tally in `dir`, and returns the number of batches in it; `None` if it is new, damaged, or of another store.
    pub(crate) fn open(dir: &Path, identity: u128) -> io::Result<(Self, Option<u64>)> {
        let path = dir.join(TALLY_FILE);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let counted = read(&file, identity);
        Ok((Self(file), counted))
    }

    /// Writes the number of applied batches. An error is ignored: losing the tally only weakens the check.
    pub(crate) fn set(&self, meta: &Meta) {
        self.0.write_all_at(&encode(meta.batches, meta.identity), 0).ok();
    }
}

/// The number of batches in the tally in `dir`, without changing or creating it.
pub(super) fn read_tally(dir: &Path, identity: u128) -> Option<u64> {
    read(&File::open(dir.join(TALLY_FILE)).ok()?, identity)
}

/// Compares the store's metadata with the sum over all heads and with the tally. Returns the contradiction, if any.
pub(super) fn find_contradiction(meta: &Meta, heads: u64, counted: Option<u64>) -> Option<String> {
    if let Some(counted) = counted.filter(|counted| *counted > meta.batches) {
        return Some(format!("the store has lost commits: {counted} were saved, {} were found", meta.batches));
    }
    (meta.heads != heads).then(|| "some documents are older than they were saved".to_owned())
}

impl SledStore {
    /// [`SledStore::open`], but fails if a store-wide integrity check failed.
    pub fn open_checked(dir: &Path) -> Result<Self, StoreError> {
        let store = Self::open(dir)?;
        store.inconsistency().map_or(Ok(store), Err)
    }

    /// The store-wide integrity check that failed at open: a loss that no single document shows. `None`: all passed.
    pub fn inconsistency(&self) -> Option<StoreError> {
        self.contradiction.as_ref().map(|what| open_error(&self.dir, format!("{what}. {REPAIR_HINT}")))
    }
}

fn read(file: &File, identity: u128) -> Option<u64> {
    let mut bytes = [0; TALLY_BYTES];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let batches = u64::from_le_bytes(*bytes.first_chunk()?);
    (bytes == encode(batches, identity)).then_some(batches)
}

fn encode(batches: u64, identity: u128) -> [u8; TALLY_BYTES] {
    let mut bytes = [0; TALLY_BYTES];
    bytes[..8].copy_from_slice(&batches.to_le_bytes());
    bytes[8..16].copy_from_slice(&(identity as u64).to_le_bytes());
    let sum = xxh3_64(&bytes[..16]);
    bytes[16..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tally_is_ignored_when_torn_or_of_another_store() {
        let dir = tempfile::tempdir().unwrap();
        let meta = Meta { identity: 7, format: 2, committed: 3, documents: 0, next_id: 1, heads: 5, batches: 12 };
        let (tally, before) = Tally::open(dir.path(), 7).unwrap();
        assert_eq!(before, None);
        tally.set(&meta);
        assert_eq!(read_tally(dir.path(), 7), Some(12));
        assert_eq!(read_tally(dir.path(), 8), None);
        assert_eq!(find_contradiction(&meta, 5, Some(12)), None);
        assert!(find_contradiction(&meta, 5, Some(13)).unwrap().contains("13 were saved, 12 were found"));
        assert!(find_contradiction(&meta, 6, None).unwrap().contains("older than they were saved"));
        tally.0.write_all_at(&[1], 3).unwrap();
        assert_eq!(read_tally(dir.path(), 7), None);
    }
}
