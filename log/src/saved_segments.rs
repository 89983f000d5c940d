//! Saves the newest segments of sled's log before sled opens it.
//!
//! sled overwrites everything after a presumed torn write with zeros. If the torn write is in fact damage, `syncline
//! repair` needs the overwritten data. So the newest segments are copied before each open, and the copy is removed when
//! the opened store passes its checks.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::private;
use super::segments::segment_bytes;
use super::sled_scan::{SEGMENT_HEADER_BYTES, segment_lsn};

const TAIL_FILE: &str = "syncline.tail";
/// sled may overwrite the segments after the newest stable position in a segment header: one or two.
const SAVED_SEGMENTS: usize = 3;

/// A segment: its offset in sled's file, and its bytes.
pub(super) type Segment = (u64, Vec<u8>);

/// Copies the newest segments of `db`, unless a failed earlier open has already done so.
pub(super) fn save_segments(dir: &Path, db: &Path) -> io::Result<()> {
    if !db.exists() || dir.join(TAIL_FILE).exists() {
        return Ok(());
    }
    let file = File::open(db)?;
    let len = file.metadata()?.len();
    let segment_bytes = segment_bytes(db.parent().unwrap_or(dir));
    let mut segments = Vec::new();
    for base in (0..len).step_by(segment_bytes) {
        let mut header = [0; SEGMENT_HEADER_BYTES];
        if file.read_exact_at(&mut header, base).is_ok()
            && let Some(lsn) = segment_lsn(&header, segment_bytes)
        {
            segments.push((lsn, base));
        }
    }
    segments.sort_unstable();
    let new = dir.join(format!("{TAIL_FILE}.new"));
    let mut out = private::create(&new)?;
    for &(_, base) in segments.iter().rev().take(SAVED_SEGMENTS) {
        let mut bytes = vec![0; usize::try_from(len - base).unwrap_or(segment_bytes).min(segment_bytes)];
        file.read_exact_at(&mut bytes, base)?;
        out.write_all(&base.to_le_bytes())?;
        out.write_all(&(bytes.len() as u64).to_le_bytes())?;
        out.write_all(&bytes)?;
    }
    fs::rename(&new, dir.join(TAIL_FILE))
}

/// Removes the copy, after the store has passed its checks.
pub(super) fn remove_saved_segments(dir: &Path) {
    // If it cannot be removed: only a repair reads it.
    fs::remove_file(dir.join(TAIL_FILE)).ok();
}

/// The copied segments.
pub(super) fn saved_segments(dir: &Path) -> Vec<Segment> {
    let mut bytes = Vec::new();
    let read = File::open(dir.join(TAIL_FILE)).and_then(|mut file| file.read_to_end(&mut bytes));
    let (mut rest, mut segments) = (bytes.as_slice(), Vec::new());
    while read.is_ok()
        && let Some((base, after)) = rest.split_first_chunk()
        && let Some((len, after)) = after.split_first_chunk()
        && let Ok(len) = usize::try_from(u64::from_le_bytes(*len))
        && let Some((segment, after)) = after.split_at_checked(len)
    {
        segments.push((u64::from_le_bytes(*base), segment.to_vec()));
        rest = after;
    }
    segments
}
