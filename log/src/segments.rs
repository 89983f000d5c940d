//! The size of the segments in sled's file (a store keeps the size it was created with), and the release of their buffers.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::sled_scan::{SEGMENT_HEADER_BYTES, segment_lsn};

/// The segment size of new stores; a segment is the unit in which sled reuses space. Large, so that no space is reused
/// before its data is synced elsewhere (see `docs/decisions/0039-segments-of-4-mib.md`). Not larger, because one segment
/// is always in memory, and sometimes two.
pub(super) const SEGMENT_BYTES: usize = 4 << 20;
/// The segment size of stores created before 2026-11-26.
const EARLIER_SEGMENT_BYTES: usize = 8 << 20;
/// The file in which sled keeps the configuration that a store was created with.
const CONF_FILE: &str = "conf";

/// The segment size of the store in `engine_dir`, or of a new store if there is none.
pub(super) fn segment_bytes(engine_dir: &Path) -> usize {
    let known = [SEGMENT_BYTES, EARLIER_SEGMENT_BYTES];
    configured_size(engine_dir).filter(|size| known.contains(size)).unwrap_or_else(|| detected_size(engine_dir))
}

/// Makes sled free unreachable memory, in particular its segment buffers. Each thread defers this garbage until its own
/// later calls: a thread that opens a store and never calls sled again would keep the first buffer forever.
pub(super) fn flush_epoch_garbage() {
    // The first flush queues this thread's garbage. Each flush can advance the epoch by one step; after two it is freed.
    for _ in 0..3 {
        crossbeam_epoch::pin().flush();
    }
}

/// The size in sled's configuration file.
fn configured_size(engine_dir: &Path) -> Option<usize> {
    let conf = fs::read(engine_dir.join(CONF_FILE)).ok()?;
    let conf = String::from_utf8_lossy(&conf);
    let size = conf.lines().find_map(|line| line.strip_prefix("segment_size: "))?;
    size.parse().ok()
}

/// The size by the segment headers in the file, for a store that has lost its configuration file.
fn detected_size(engine_dir: &Path) -> usize {
    let Ok(file) = File::open(engine_dir.join("db")) else { return SEGMENT_BYTES };
    let len = file.metadata().map_or(0, |file| file.len());
    let has_header = |base: u64| {
        let mut header = [0; SEGMENT_HEADER_BYTES];
        file.read_exact_at(&mut header, base).is_ok() && segment_lsn(&header, SEGMENT_BYTES).is_some()
    };
    // Offsets at which only smaller segments begin.
    let mut between = (0..len).step_by(SEGMENT_BYTES).filter(|base| base % EARLIER_SEGMENT_BYTES as u64 != 0);
    if len <= SEGMENT_BYTES as u64 || between.any(has_header) { SEGMENT_BYTES } else { EARLIER_SEGMENT_BYTES }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_size_is_detected_when_the_configuration_is_lost() {
        for (bytes, values) in [(SEGMENT_BYTES, 1), (SEGMENT_BYTES, 4_000), (EARLIER_SEGMENT_BYTES, 4_000)] {
            let dir = tempfile::tempdir().unwrap();
            assert_eq!(segment_bytes(dir.path()), SEGMENT_BYTES, "a new store");
            let db = sled::Config::new().path(dir.path()).segment_size(bytes).flush_every_ms(None).open().unwrap();
            for number in 0..values {
                db.insert(format!("{number:x}"), vec![number as u8; 4_000]).unwrap();
            }
            db.flush().unwrap();
            drop(db);
            assert_eq!(segment_bytes(dir.path()), bytes);
            fs::remove_file(dir.path().join(CONF_FILE)).unwrap();
            assert_eq!(segment_bytes(dir.path()), bytes, "{values} values, detected by the headers");
        }
    }
}
