//! The two small files beside the engine: who has the store open, and what the store must at least hold.

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
/// Where a restore puts a store together. While it is there, the directory around it holds no store.
pub(super) const RESTORING_DIR: &str = "syncline.restoring";
const CARD_FILE: &str = "syncline.store";
const CARD_TITLE: &str = "syncline store";
/// What a person can do about a store that does not open.
pub(super) const WAY_OUT: &str = "`syncline verify` tells what is damaged, `syncline repair` keeps what can be read";
/// The system's words (ENOSPC), and what helps: sled writes when it opens.
pub(super) const NO_SPACE: &str = "No space left on device";
/// What helps then.
pub(super) const FREE_SPACE: &str = "Nothing is damaged: free space on this disk, then start again";
/// More than any holder writes.
const MAX_CARD_BYTES: u64 = 4096;

/// An exclusive claim on a data directory, for as long as it lives. The system takes it back when the process ends,
/// however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    /// Locked by [`Lock::take`].
    file: File,
}

impl Drop for Lock {
    /// Closing the file is not enough: a child process between its fork and its exec holds it, too.
    fn drop(&mut self) {
        // It is closed next in any case.
        self.file.unlock().ok();
    }
}

impl Lock {
    /// Claims `dir`, and writes this process's id where the next one looks for it.
    pub fn take(dir: &Path) -> Result<Self, StoreError> {
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
                let read = file.take(MAX_CARD_BYTES).read_to_string(&mut holder);
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

/// What the store was known to hold when the card was written: an empty or older store is told by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Card {
    /// Drawn when the store was created.
    pub identity: u128,
    /// The format the store had.
    pub format: u32,
    /// Records the store had committed, at least.
    pub committed: u64,
}

impl Card {
    /// Reads the card. `None`: there is none, so nothing was ever reported as saved here.
    pub fn read(dir: &Path) -> Result<Option<Self>, StoreError> {
        if dir.join(RESTORING_DIR).exists() {
            return Err(open_error(dir, "a restore into it did not finish. Remove the directory and restore again"));
        }
        let path = dir.join(CARD_FILE);
        let mut text = String::new();
        match File::open(&path) {
            Ok(file) => file.take(MAX_CARD_BYTES).read_to_string(&mut text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(error),
        }
        .map_err(|error| open_error(dir, format!("{}: {error}", path.display())))?;
        Self::parse(&text).map(Some).ok_or_else(|| {
            open_error(
                dir,
                format!(
                    "{} is damaged. Restore it with the rest of the directory from a copy; nothing was changed",
                    path.display()
                ),
            )
        })
    }

    /// Replaces the card: after a crash either the old or the new one is there, whole.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let new = dir.join(format!("{CARD_FILE}.new"));
        let mut file = private::create(&new)?;
        write!(
            file,
            "{CARD_TITLE}\nidentity {:032x}\nformat {}\ncommitted {}\n",
            self.identity, self.format, self.committed
        )?;
        file.sync_all()?;
        Point::CardWritten.pass();
        fs::rename(&new, dir.join(CARD_FILE))?;
        sync_dir(dir)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != CARD_TITLE {
            return None;
        }
        let identity = u128::from_str_radix(lines.next()?.strip_prefix("identity ")?, 16).ok()?;
        let format = lines.next()?.strip_prefix("format ")?.parse().ok()?;
        let committed = lines.next()?.strip_prefix("committed ")?.parse().ok()?;
        Some(Self { identity, format, committed })
    }
}

/// Creates `dir` and what is missing above it for this user alone, each entry durable in its parent.
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

/// Makes the names in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes the engine's directory, for this user alone, or what an earlier version made of it fit to be opened.
pub(super) fn prepare_engine(dir: &Path, engine_dir: &Path) -> io::Result<()> {
    create_dir_durably(engine_dir)?;
    private::restrict_entries(dir, |name| name.starts_with("syncline.") || dir.join(name) == engine_dir);
    private::restrict_entries(engine_dir, |_| true);
    remove_unfinished(engine_dir)
}

/// Makes every file of the engine durable, and its name.
pub(super) fn sync_files(engine_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(engine_dir)? {
        File::open(entry?.path())?.sync_all()?;
    }
    Blobs::new(engine_dir.join("blobs")).sync()?;
    sync_dir(engine_dir)
}

/// Removes a list of pages that sled had not finished when it ended: on a full disk, or by a death at a start. sled takes it for
/// the newest one and does not open; the one before it stays until the new one has its name.
fn remove_unfinished(engine_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(engine_dir)? {
        let name = entry?.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating")) {
            fs::remove_file(engine_dir.join(name))?;
        }
    }
    Ok(())
}

/// True when the process, or the system, may open no more files (ENFILE, EMFILE on Linux and BSD).
pub(super) fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

/// The refusal of a store that holds less than its card says.
pub(super) fn came_back(dir: &Path, how: &str, card: &Card, found: u64) -> StoreError {
    let what = format!("it {how}: {} records were saved, {found} are there. {WAY_OUT}", card.committed);
    open_error(dir, what)
}

/// Refuses a format that this code does not know.
pub(super) fn refuse_newer(dir: &Path, format: u32) -> Result<(), StoreError> {
    if format > FORMAT {
        let what = format!("it has format {format} and this version reads up to {FORMAT}: start the newer version");
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
    fn a_second_claim_names_the_holder_and_the_claim_ends_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::take(dir.path()).unwrap();
        let error = Lock::take(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with(&format!("is in use by process {}", std::process::id())), "{error}");
        // As a child process has it for a moment.
        let copy = lock.file.try_clone().unwrap();
        drop(lock);
        Lock::take(dir.path()).unwrap();
        drop(copy);
    }

    #[test]
    fn a_card_reads_as_it_was_written_and_a_damaged_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Card::read(dir.path()).unwrap(), None);
        let card = Card { identity: 7 << 100, format: 1, committed: 12 };
        card.write(dir.path()).unwrap();
        assert_eq!(Card::read(dir.path()).unwrap(), Some(card));
        fs::write(dir.path().join(CARD_FILE), "syncline store\nidentity").unwrap();
        assert!(Card::read(dir.path()).unwrap_err().to_string().contains("is damaged"));
    }
}
