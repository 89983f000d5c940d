//! Syncs sled's blob files: pages that are too large for its log. The values that Syncline writes never create any. Each
//! commit checks this without opening a file, because commits must succeed even when clients use all file descriptors.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::store_lock::{is_out_of_files, sync_dir};

/// A directory that changed less than this ago may change again without a newer modification time.
const SETTLED: Duration = Duration::from_secs(1);

/// How long to wait for a free file descriptor, and the time between attempts.
const DESCRIPTOR_TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// The directory of sled's blob files.
pub(super) struct Blobs {
    dir: PathBuf,
    /// The directory's modification time at the last sync, if no later change can have the same time.
    synced: Mutex<Option<SystemTime>>,
}

impl Blobs {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, synced: Mutex::new(None) }
    }

    /// Makes all blob files durable. Returns whether the directory had to be read.
    pub(crate) fn sync(&self) -> io::Result<bool> {
        let changed = fs::metadata(&self.dir)?.modified()?;
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        if *synced == Some(changed) {
            return Ok(false);
        }
        let is_settled = changed.elapsed().is_ok_and(|age| age > SETTLED);
        let begin = Instant::now();
        while let Err(error) = self.sync_files() {
            // Running out of descriptors is not a disk failure; other threads will close some.
            if !is_out_of_files(&error) || begin.elapsed() > DESCRIPTOR_TIMEOUT {
                return Err(error);
            }
            thread::sleep(RETRY_INTERVAL);
        }
        *synced = Some(changed).filter(|_| is_settled);
        Ok(true)
    }

    fn sync_files(&self) -> io::Result<()> {
        let mut found = false;
        for entry in fs::read_dir(&self.dir)? {
            match File::open(entry?.path()) {
                Ok(file) => file.sync_all()?,
                // sled removes a blob when it has rewritten the page.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            found = true;
        }
        if found { sync_dir(&self.dir) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unchanged_directory_is_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let age = |ms| {
            let then = SystemTime::now() - Duration::from_millis(ms);
            File::open(dir.path()).unwrap().set_modified(then).unwrap();
        };
        let blobs = Blobs::new(dir.path().to_owned());
        age(5_000);
        assert!(blobs.sync().unwrap(), "the first sync");
        assert!(!blobs.sync().unwrap());
        File::create(dir.path().join("1")).unwrap();
        assert!(blobs.sync().unwrap(), "changed");
        assert!(blobs.sync().unwrap(), "changed just now: a later change could have the same time");
        age(4_000);
        assert!(blobs.sync().unwrap());
        assert!(!blobs.sync().unwrap());
        fs::remove_dir_all(dir.path()).unwrap();
        blobs.sync().unwrap_err();
    }
}
