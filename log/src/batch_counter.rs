//! What contradicts the store from outside of it or as a whole: losses that no document shows.
//!
//! The engine takes a damaged end of its log for a write that was cut short, and opens as it was a little earlier: every
//! document is consistent, and older. The *tally* is the number of batches applied, written after each commit and not synced:
//! what the operating system holds survives the process, and what it lost in a power cut is only a lower bound. Damage in the
//! middle can set single documents back; the sum over all heads, kept with the store's description, tells that some are.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::layout::Meta;
use super::sled::SledStore;
use super::store::StoreError;
use super::store_lock::{WAY_OUT, open_error};

const TALLY_FILE: &str = "syncline.tally";
/// The batches, half of the store's identity, the checksum of both.
const TALLY_BYTES: usize = 24;

/// The file.
#[derive(Debug)]
pub(super) struct Tally(File);

impl Tally {
    /// Opens the tally in `dir`, and tells how many batches it says were applied to the store of this identity.
    pub fn open(dir: &Path, identity: u128) -> io::Result<(Self, Option<u64>)> {
        let path = dir.join(TALLY_FILE);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let counted = read(&file, identity);
        Ok((Self(file), counted))
    }

    /// Says how far the store is. Losing it costs nothing but a check.
    pub fn set(&self, meta: &Meta) {
        self.0.write_all_at(&encode(meta.batches, meta.identity), 0).ok();
    }
}

/// What the tally in `dir` says, without touching it.
pub(super) fn look(dir: &Path, identity: u128) -> Option<u64> {
    read(&File::open(dir.join(TALLY_FILE)).ok()?, identity)
}

/// What contradicts the store, in words.
pub(super) fn doubt(meta: &Meta, heads: u64, counted: Option<u64>) -> Option<String> {
    if let Some(counted) = counted.filter(|counted| *counted > meta.batches) {
        return Some(format!("it is older than it was: {counted} changes were saved, {} are there", meta.batches));
    }
    (meta.heads != heads).then(|| "some of its documents are not as they were saved".to_owned())
}

impl SledStore {
    /// [`SledStore::open`] for all who do not know better than the store: one that contradicts itself as a whole is refused.
    pub fn open_whole(dir: &Path) -> Result<Self, StoreError> {
        let store = Self::open(dir)?;
        store.doubt().map_or(Ok(store), Err)
    }

    /// What contradicts the store as a whole, in words: losses that no document shows.
    pub fn doubt(&self) -> Option<StoreError> {
        self.doubt.as_ref().map(|what| open_error(&self.dir, format!("{what}. {WAY_OUT}")))
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
    fn a_tally_is_read_by_its_own_store_only_and_a_torn_one_by_none() {
        let dir = tempfile::tempdir().unwrap();
        let meta = Meta { identity: 7, format: 2, committed: 3, documents: 0, next_id: 1, heads: 5, batches: 12 };
        let (tally, before) = Tally::open(dir.path(), 7).unwrap();
        assert_eq!(before, None);
        tally.set(&meta);
        assert_eq!(look(dir.path(), 7), Some(12));
        assert_eq!(look(dir.path(), 8), None);
        assert_eq!(doubt(&meta, 5, Some(12)), None);
        assert!(doubt(&meta, 5, Some(13)).unwrap().contains("13 changes were saved, 12 are there"));
        assert!(doubt(&meta, 6, None).unwrap().contains("not as they were saved"));
        tally.0.write_all_at(&[1], 3).unwrap();
        assert_eq!(look(dir.path(), 7), None);
    }
}
