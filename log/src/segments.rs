//! How large the segments of sled's file are (a store keeps the size that it was made with), and when their buffers are freed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::sled_scan::{SEGMENT_HEADER_BYTES, segment_lsn};

/// sled's unit of reuse, in new stores. Large, so that nothing is reused before it was synced elsewhere (see
/// `docs/decisions/0039-segments-of-4-mib.md`); and no larger, for one is always in memory, and for moments two.
pub(super) const SEGMENT_BYTES: usize = 4 << 20;
/// In stores that were made before 2026-11-26.
const EARLIER_SEGMENT_BYTES: usize = 8 << 20;
/// Where sled keeps what a store was made with.
const CONF_FILE: &str = "conf";

/// The segments of the store in `engine_dir`; where there is none, those of a new one.
pub(super) fn segment_bytes(engine_dir: &Path) -> usize {
    let known = [SEGMENT_BYTES, EARLIER_SEGMENT_BYTES];
    told(engine_dir).filter(|told| known.contains(told)).unwrap_or_else(|| found(engine_dir))
}

/// Has sled free what no thread can see any more, its buffers of whole segments first of all. Each thread keeps its share of that
/// until its own next calls: one that opens a store and never comes back would keep the first buffer for ever.
pub(super) fn let_go() {
    // Once hands in this thread's share; each goes one step on, and after two steps it is freed.
    for _ in 0..3 {
        crossbeam_epoch::pin().flush();
    }
}

/// What sled wrote down.
fn told(engine_dir: &Path) -> Option<usize> {
    let conf = fs::read(engine_dir.join(CONF_FILE)).ok()?;
    let conf = String::from_utf8_lossy(&conf);
    let size = conf.lines().find_map(|line| line.strip_prefix("segment_size: "))?;
    size.parse().ok()
}

/// By the headers in the file, for a store that has lost what sled wrote down.
fn found(engine_dir: &Path) -> usize {
    let Ok(file) = File::open(engine_dir.join("db")) else { return SEGMENT_BYTES };
    let len = file.metadata().map_or(0, |file| file.len());
    let has_header = |base: u64| {
        let mut header = [0; SEGMENT_HEADER_BYTES];
        file.read_exact_at(&mut header, base).is_ok() && segment_lsn(&header, SEGMENT_BYTES).is_some()
    };
    // Where only smaller ones begin.
    let mut between = (0..len).step_by(SEGMENT_BYTES).filter(|base| base % EARLIER_SEGMENT_BYTES as u64 != 0);
    if len <= SEGMENT_BYTES as u64 || between.any(has_header) { SEGMENT_BYTES } else { EARLIER_SEGMENT_BYTES }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_tells_its_segments_even_when_its_description_is_lost() {
        for (bytes, values) in [(SEGMENT_BYTES, 1), (SEGMENT_BYTES, 4_000), (EARLIER_SEGMENT_BYTES, 4_000)] {
            let dir = tempfile::tempdir().unwrap();
            assert_eq!(segment_bytes(dir.path()), SEGMENT_BYTES, "a new one");
            let db = sled::Config::new().path(dir.path()).segment_size(bytes).flush_every_ms(None).open().unwrap();
            for number in 0..values {
                db.insert(format!("{number:x}"), vec![number as u8; 4_000]).unwrap();
            }
            db.flush().unwrap();
            drop(db);
            assert_eq!(segment_bytes(dir.path()), bytes);
            fs::remove_file(dir.path().join(CONF_FILE)).unwrap();
            assert_eq!(segment_bytes(dir.path()), bytes, "{values} values, by the headers");
        }
    }
}
