//! The lock file and the info file of a store, and other preparations of its directory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::blob_sync::Blobs;
use super::failpoint::Point;
use super::layout::FORMAT;
use super::private;
use super::store::StoreError;

pub(super) const LOCK_FILE: &str = "syncline.lock";
/// The directory in which a restore builds a store. While it exists, its parent cannot be opened as a store.
pub(super) const RESTORING_DIR: &str = "syncline.restoring";
/// Identifies a data directory as a store.
pub const STORE_FILE: &str = "syncline.store";
const INFO_TITLE: &str = "syncline store";
/// Advice for a store that does not open.
pub(super) const REPAIR_HINT: &str = "`syncline verify` lists the damage, `syncline repair` keeps what can be read";
/// The operating system's message for ENOSPC. It can occur at open, because sled writes then.
pub(super) const NO_SPACE: &str = "No space left on device";
/// Advice for [`NO_SPACE`].
pub(super) const FREE_SPACE: &str = "Nothing is damaged: free space on this disk, then start again";
/// Larger than any valid lock or info file.
const MAX_FILE_BYTES: u64 = 4096;

/// An exclusive lock on a data directory, held until it is dropped. The operating system releases it when the process
/// ends for any reason.
#[derive(Debug)]
pub(super) struct Lock {
    /// Locked by [`Lock::take`].
    file: File,
}

impl Drop for Lock {
    /// Unlocks explicitly: closing is not enough while a child process between fork and exec shares the open file.
    fn drop(&mut self) {
        // The file is closed next in any case.
        self.file.unlock().ok();
    }
}

impl Lock {
    /// Locks `dir`, and writes the id of this process into the lock file for the error message of others.
    pub(crate) fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(LOCK_FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| open_error(dir, format!("{}: {error}", path.display())))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let read = file.take(MAX_FILE_BYTES).read_to_string(&mut holder);
                let known = read.is_ok() && !holder.trim().is_empty();
                let holder = if known { holder.trim().to_owned() } else { "unknown".to_owned() };
                return Err(StoreError::InUse { dir: dir.to_owned(), holder });
            }
            Err(TryLockError::Error(error)) => {
                return Err(open_error(dir, format!("{} cannot be locked: {error}", path.display())));
            }
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|error| open_error(dir, format!("{}: {error}", path.display())))?;
        Ok(Self { file })
    }
}

/// The info file: a lower bound of the store's content, written outside the engine. It reveals a store that is empty or
/// older than it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoreInfo {
    /// Random, drawn when the store was created.
    pub identity: u128,
    /// The store's format when the file was written.
    pub format: u32,
    /// The number of records committed when the file was written.
    pub committed: u64,
}

impl StoreInfo {
    /// Reads the info file. `None`: it does not exist, so nothing was ever acknowledged from this directory.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, StoreError> {
        if dir.join(RESTORING_DIR).exists() {
            return Err(open_error(
                dir,
                "a restore into it did not finish. Remove the directory and run the restore again",
            ));
        }
        let path = dir.join(STORE_FILE);
        let mut text = String::new();
        match File::open(&path) {
            Ok(file) => file.take(MAX_FILE_BYTES).read_to_string(&mut text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(error),
        }
        .map_err(|error| open_error(dir, format!("{}: {error}", path.display())))?;
        Self::parse(&text).map(Some).ok_or_else(|| {
            open_error(
                dir,
                format!(
                    "{} is damaged. {REPAIR_HINT}. Or restore the whole directory from a copy; nothing was changed",
                    path.display()
                ),
            )
        })
    }

    /// Replaces the info file atomically: after a crash either the old or the new one exists, complete.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        let new = dir.join(format!("{STORE_FILE}.new"));
        let mut file = private::create(&new)?;
        write!(
            file,
            "{INFO_TITLE}\nidentity {:032x}\nformat {}\ncommitted {}\n",
            self.identity, self.format, self.committed
        )?;
        file.sync_all()?;
        Point::InfoWritten.pass();
        fs::rename(&new, dir.join(STORE_FILE))?;
        sync_dir(dir)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != INFO_TITLE {
            return None;
        }
        let identity = u128::from_str_radix(lines.next()?.strip_prefix("identity ")?, 16).ok()?;
        let format = lines.next()?.strip_prefix("format ")?.parse().ok()?;
        let committed = lines.next()?.strip_prefix("committed ")?.parse().ok()?;
        Some(Self { identity, format, committed })
    }
}

/// Creates `dir` and its missing parents, readable by this user only, and makes each new directory entry durable.
pub(super) fn create_dir_durably(dir: &Path) -> io::Result<()> {
    let mut missing: Vec<PathBuf> = Vec::new();
    let mut at = dir;
    while !at.as_os_str().is_empty() && !at.exists() {
        missing.push(at.to_owned());
        let Some(parent) = at.parent() else { break };
        at = parent;
    }
    private::create_dirs(dir)?;
    for created in &missing {
        let parent = created.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_dir(parent.unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// Makes the directory entries of `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates the engine's directory, readable by this user only, or prepares an existing one: restricts modes that earlier
/// versions left open, and removes unfinished files.
pub(super) fn prepare_engine(dir: &Path, engine_dir: &Path) -> io::Result<()> {
    create_dir_durably(engine_dir)?;
    private::restrict_entries(dir, |name| name.starts_with("syncline.") || dir.join(name) == engine_dir);
    private::restrict_entries(engine_dir, |_| true);
    remove_unfinished(engine_dir)
}

/// Makes every file of the engine and its directory entry durable.
pub(super) fn sync_files(engine_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(engine_dir)? {
        File::open(entry?.path())?.sync_all()?;
    }
    Blobs::new(engine_dir.join("blobs")).sync()?;
    sync_dir(engine_dir)
}

/// Removes an unfinished sled snapshot (sled's list of its pages), left by a full disk or a crash during an open. sled
/// would take it for the newest snapshot and fail to open. The previous snapshot exists until the new one is renamed.
fn remove_unfinished(engine_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(engine_dir)? {
        let name = entry?.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating")) {
            fs::remove_file(engine_dir.join(name))?;
        }
    }
    Ok(())
}

/// Whether the process or the system has reached its limit of open files (EMFILE, ENFILE on Linux and BSD).
pub(super) fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

/// The error for a store with fewer records than its info file states. `how`: "is empty" or "is older".
pub(super) fn lost_records(dir: &Path, how: &str, info: &StoreInfo, found: u64) -> StoreError {
    let what = format!("the store {how}: {} records were saved, {found} were found. {REPAIR_HINT}", info.committed);
    open_error(dir, what)
}

/// Rejects a format that is newer than this code.
pub(super) fn check_format(dir: &Path, format: u32) -> Result<(), StoreError> {
    if format > FORMAT {
        let what =
            format!("the store has format {format}, and this version reads up to {FORMAT}: use the newer version");
        return Err(open_error(dir, what));
    }
    Ok(())
}

/// [`StoreError::Open`] for `dir`.
pub(super) fn open_error(dir: &Path, what: impl Into<String>) -> StoreError {
    let mut what = what.into();
    if what.contains(NO_SPACE) && !what.contains(FREE_SPACE) {
        what = format!("{what}. {FREE_SPACE}");
    }
    StoreError::Open { dir: dir.to_owned(), what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_lock_fails_with_the_holder_and_dropping_releases_it() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::take(dir.path()).unwrap();
        let error = Lock::take(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with(&format!("is in use by process {}", std::process::id())), "{error}");
        // Like a child process between fork and exec.
        let copy = lock.file.try_clone().unwrap();
        drop(lock);
        Lock::take(dir.path()).unwrap();
        drop(copy);
    }

    #[test]
    fn info_file_round_trips_and_a_damaged_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(StoreInfo::read(dir.path()).unwrap(), None);
        let info = StoreInfo { identity: 7 << 100, format: 1, committed: 12 };
        info.write(dir.path()).unwrap();
        assert_eq!(StoreInfo::read(dir.path()).unwrap(), Some(info));
        fs::write(dir.path().join(STORE_FILE), "syncline store\nidentity").unwrap();
        assert!(StoreInfo::read(dir.path()).unwrap_err().to_string().contains("is damaged"));
    }
}
