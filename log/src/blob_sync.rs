//! What sled puts beside its log: pages too large for it. With the values we write there are none, and each commit makes
//! sure of that without opening anything: a server whose clients have taken all file descriptors must still save.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::store_lock::{is_out_of_files, sync_dir};

/// A folder that changed less than this ago may change again without a newer time.
const SETTLED: Duration = Duration::from_secs(1);

/// How long a file descriptor is waited for, and how often one is tried.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(5);

/// The folder of such pages.
pub(super) struct Blobs {
    dir: PathBuf,
    /// When the folder had changed last, at a sync after which no other change can have the same time.
    synced: Mutex<Option<SystemTime>>,
}

impl Blobs {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, synced: Mutex::new(None) }
    }

    /// Makes everything in it durable. True when it had to be read for that.
    pub fn sync(&self) -> io::Result<bool> {
        let changed = fs::metadata(&self.dir)?.modified()?;
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        if *synced == Some(changed) {
            return Ok(false);
        }
        let is_settled = changed.elapsed().is_ok_and(|age| age > SETTLED);
        let begin = Instant::now();
        while let Err(error) = self.sync_files() {
            // Others have taken all descriptors, and give some back: the disk has not failed.
            if !is_out_of_files(&error) || begin.elapsed() > PATIENCE {
                return Err(error);
            }
            thread::sleep(RETRY);
        }
        *synced = Some(changed).filter(|_| is_settled);
        Ok(true)
    }

    fn sync_files(&self) -> io::Result<()> {
        let mut found = false;
        for entry in fs::read_dir(&self.dir)? {
            match File::open(entry?.path()) {
                Ok(file) => file.sync_all()?,
                // sled removes a blob when its page was written anew.
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
    fn a_folder_that_has_not_changed_is_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let age = |ms| {
            let then = SystemTime::now() - Duration::from_millis(ms);
            File::open(dir.path()).unwrap().set_modified(then).unwrap();
        };
        let blobs = Blobs::new(dir.path().to_owned());
        age(5_000);
        assert!(blobs.sync().unwrap(), "never seen before");
        assert!(!blobs.sync().unwrap());
        File::create(dir.path().join("1")).unwrap();
        assert!(blobs.sync().unwrap(), "changed");
        assert!(blobs.sync().unwrap(), "a moment ago: another change might have the same time");
        age(4_000);
        assert!(blobs.sync().unwrap());
        assert!(!blobs.sync().unwrap());
        fs::remove_dir_all(dir.path()).unwrap();
        blobs.sync().unwrap_err();
    }
}
