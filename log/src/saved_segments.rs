//! The end of sled's log, kept aside while sled opens.
//!
//! sled writes zeros over everything behind what it takes for a torn write. If that was damage, `syncline repair` needs what lay
//! behind it. So the newest segments are copied before each open, and forgotten when the store turned out to be what it was.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::private;
use super::segments::segment_bytes;
use super::sled_scan::{SEGMENT_HEADER_BYTES, segment_lsn};

const TAIL_FILE: &str = "syncline.tail";
/// sled may touch the segments behind the newest position that a header calls stable: one or two.
const KEPT_SEGMENTS: usize = 3;

/// A segment: where it lies in sled's file, and its bytes.
pub(super) type Segment = (u64, Vec<u8>);

/// Keeps the newest segments of `db`, unless an open that ended badly has kept them already.
pub(super) fn keep(dir: &Path, db: &Path) -> io::Result<()> {
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
    for &(_, base) in segments.iter().rev().take(KEPT_SEGMENTS) {
        let mut bytes = vec![0; usize::try_from(len - base).unwrap_or(segment_bytes).min(segment_bytes)];
        file.read_exact_at(&mut bytes, base)?;
        out.write_all(&base.to_le_bytes())?;
        out.write_all(&(bytes.len() as u64).to_le_bytes())?;
        out.write_all(&bytes)?;
    }
    fs::rename(&new, dir.join(TAIL_FILE))
}

/// The store is what it was.
pub(super) fn forget(dir: &Path) {
    // One that stays is read by a repair only.
    fs::remove_file(dir.join(TAIL_FILE)).ok();
}

/// What was kept.
pub(super) fn kept(dir: &Path) -> Vec<Segment> {
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
