//! Takes a backup: writes documents whose mark has changed into new packs, then replaces the manifest.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use syncline_protocol::ids::DocumentName;
use xxhash_rust::xxh3::xxh3_64;

use super::manifest::{Entry, MANIFEST_FILE, Manifest, NEW_MANIFEST_FILE, PackLocation};
use super::pack::{self, PACK_TITLE};
use super::{BackupError, at};
use crate::failpoint::Point;
use crate::private;
use crate::store::{Store, StoreError};
use crate::store_lock::{LOCK_FILE, Lock, create_dir_durably, sync_dir};

/// A pack is closed when it exceeds this size. A document is never split across packs.
const PACK_BYTES: u64 = 64 << 20;
/// Bytes written between syncs. Small, so that the syncs do not delay those of the log.
const SYNC_BYTES: usize = 512 << 10;
/// The write rate limit of a gentle backup.
const GENTLE_BYTES_PER_SECOND: f64 = (24 << 20) as f64;
/// A pack is rewritten if less than this share of it is in use; see [`Packs::is_mostly_unused`].
const MIN_USED_SHARE: f64 = 0.5;
/// The shortest work that is followed by a pause, because of the resolution of the system's timer.
const PAUSE_AFTER: Duration = Duration::from_millis(2);
const PACK_SUFFIX: &str = ".pack";

/// How fast a backup runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Pauses for as long as it works, and writes at most 24 MiB per second. For a server in use.
    Gentle,
    /// Does not pause.
    Full,
}

/// The progress of a running backup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Documents processed so far.
    pub done: u64,
    /// Documents in total.
    pub documents: u64,
    /// Bytes written so far.
    pub bytes: u64,
}

/// The result of a completed backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CompletedBackup {
    /// Documents in the backup.
    pub documents: u64,
    /// Documents written by this backup; the others had not changed.
    pub written: u64,
    /// Bytes written, without the manifest.
    pub bytes: u64,
    /// Documents that could not be read, and why. The backup keeps their copies from earlier backups, if there are any.
    pub damaged: Vec<(DocumentName, String)>,
}

/// Stops a backup from another thread.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Stops the backup: it returns [`BackupError::Cancelled`] before the next document.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), BackupError> {
        if self.0.load(Ordering::Relaxed) { Err(BackupError::Cancelled) } else { Ok(()) }
    }
}

/// Takes a backup of `store` into `dir`, which is created if it does not exist. Blocks until the backup is durable. If
/// `dir` contains an earlier backup of the same store, only changes are written.
///
/// Errors: `dir` contains something else, or is in use; the store or the disk fails. An earlier backup then stays
/// unchanged.
pub fn take(
    store: &dyn Store,
    dir: &Path,
    pace: Pace,
    cancel: &Cancel,
    report: &mut dyn FnMut(Progress),
) -> Result<CompletedBackup, BackupError> {
    create_dir_durably(dir).map_err(at(dir))?;
    let identity = store.identity()?;
    read_earlier(dir, identity)?;
    let _lock = Lock::take(dir).map_err(|error| match error {
        StoreError::InUse { holder, .. } => {
            let what = format!("process {holder} takes or restores a backup here");
            BackupError::Unusable { dir: dir.to_owned(), what }
        }
        other => other.into(),
    })?;
    // Earlier versions created these files with wider modes.
    private::restrict_entries(dir, |name| is_pack(name) || name == MANIFEST_FILE || name == LOCK_FILE);
    // Read again, now under the lock.
    let earlier = read_earlier(dir, identity)?;
    let taken_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let (run, before) = earlier.map_or((0, BTreeMap::new()), |earlier| (earlier.run, earlier.documents));
    let packs = Packs::scan(dir, &before)?;
    packs.remove_unused(dir)?;
    let pacer = Pacer { pace, since: Instant::now(), written: 0 };
    let mut backup =
        BackupWriter { dir, store, before, packs, run: run + 1, pack: None, pack_number: 0, bytes: 0, pacer };

    let names: HashSet<DocumentName> = store.list()?.into_iter().collect();
    let mut progress = Progress { documents: names.len() as u64, ..Progress::default() };
    let mut taken = CompletedBackup::default();
    let mut documents = BTreeMap::new();
    for name in names {
        cancel.check()?;
        let written_before = backup.bytes;
        if let Some(entry) = backup.document(&name)? {
            if let Some(why) = &entry.damaged {
                taken.damaged.push((name.clone(), why.clone()));
            }
            taken.written += u64::from(backup.bytes > written_before);
            documents.insert(name, entry);
        }
        progress = Progress { done: progress.done + 1, bytes: backup.bytes, ..progress };
        report(progress);
        backup.pacer.pause(0);
    }
    backup.finish_pack()?;
    Point::BackupPacksWritten.pass();
    cancel.check()?;
    taken.documents = documents.len() as u64;
    taken.bytes = backup.bytes;
    Manifest { store: identity, run: backup.run, taken_ms, documents: documents.clone() }.write(dir)?;
    // Only now are the files that only the earlier backup references no longer needed.
    Packs::scan(dir, &documents)?.remove_unused(dir)?;
    Ok(taken)
}

/// The manifest of the earlier backup in `dir`, if there is one. Fails if `dir` contains a backup of another store, or other
/// files.
fn read_earlier(dir: &Path, identity: u128) -> Result<Option<Manifest>, BackupError> {
    let unusable = |what: String| BackupError::Unusable { dir: dir.to_owned(), what };
    if let Some(earlier) = Manifest::read(dir)? {
        if earlier.store != identity {
            return Err(unusable("it contains a backup of another store; choose another directory".into()));
        }
        return Ok(Some(earlier));
    }
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let name = entry.map_err(at(dir))?.file_name();
        if !name.to_str().is_some_and(|name| is_pack(name) || name == NEW_MANIFEST_FILE || name == LOCK_FILE) {
            let name = name.to_string_lossy();
            return Err(unusable(format!("it contains {name:?} but no backup; choose an empty directory")));
        }
    }
    Ok(None)
}

struct BackupWriter<'a> {
    dir: &'a Path,
    store: &'a dyn Store,
    /// The documents of the earlier backup.
    before: BTreeMap<DocumentName, Entry>,
    packs: Packs,
    run: u64,
    /// The pack being written.
    pack: Option<Pack>,
    pack_number: u32,
    /// Bytes written so far, in all packs.
    bytes: u64,
    pacer: Pacer,
}

impl BackupWriter<'_> {
    /// The entry of one document. Writes the document unless the earlier backup has the same state. `None`: the document
    /// was removed after the names were listed.
    fn document(&mut self, name: &DocumentName) -> Result<Option<Entry>, BackupError> {
        let before = self.before.remove(name);
        let mark = match self.store.mark(name) {
            Ok(Some(mark)) => mark,
            Ok(None) => return Ok(None),
            Err(error) => return self.damaged(before, error).map(Some),
        };
        if let Some(before) = before.as_ref().filter(|before| before.mark == Some(mark) && before.damaged.is_none())
            && let Some(location) = before.place.as_ref().filter(|location| self.packs.contains(location))
        {
            if !self.packs.is_mostly_unused(location) {
                return Ok(Some(before.clone()));
            }
            if let Some(encoded) = self.packs.read(self.dir, location) {
                let location = self.write(&encoded)?;
                return Ok(Some(Entry { place: Some(location), ..before.clone() }));
            }
        }
        match self.store.load(name) {
            Ok(Some(stored)) => {
                let location = self.write(&pack::encode(name, &stored))?;
                let deleted = stored.is_tombstone();
                // The mark was read before the load: if an edit came in between, the next backup writes the document again.
                Ok(Some(Entry { mark: Some(mark), place: Some(location), deleted, damaged: None }))
            }
            Ok(None) => Ok(None),
            Err(error) => self.damaged(before, error).map(Some),
        }
    }

    /// The entry of a document that cannot be read, with its copy from the earlier backup.
    fn damaged(&self, before: Option<Entry>, error: StoreError) -> Result<Entry, BackupError> {
        let StoreError::Damaged { seq, what, .. } = error else { return Err(error.into()) };
        let damaged = Some(format!("record {seq}: {what}"));
        let before =
            before.filter(|before| before.place.as_ref().is_some_and(|location| self.packs.contains(location)));
        let nothing = Entry { mark: None, place: None, deleted: false, damaged: None };
        Ok(Entry { damaged, ..before.unwrap_or(nothing) })
    }

    fn write(&mut self, encoded: &[u8]) -> Result<PackLocation, BackupError> {
        if self.pack.as_ref().is_some_and(|pack| pack.len >= PACK_BYTES) {
            self.finish_pack()?;
        }
        let pack = match &mut self.pack {
            Some(pack) => pack,
            none => {
                let name = format!("r{:06}-{:03}{PACK_SUFFIX}", self.run, self.pack_number);
                self.pack_number += 1;
                none.insert(Pack::create(self.dir, name)?)
            }
        };
        let at = pack.len;
        for part in encoded.chunks(SYNC_BYTES) {
            pack.append(part)?;
            self.pacer.pause(part.len());
        }
        self.bytes += encoded.len() as u64;
        let (pack, bytes) = (pack.name.clone(), encoded.len() as u64);
        Ok(PackLocation { pack, at, bytes, sum: pack::sum_of(encoded) })
    }

    fn finish_pack(&mut self) -> Result<(), BackupError> {
        self.pack.take().map_or(Ok(()), |pack| pack.finish(self.dir))
    }
}

/// A pack being written, under a temporary name that no manifest references.
struct Pack {
    name: String,
    path: PathBuf,
    file: File,
    len: u64,
    unsynced: usize,
}

impl Pack {
    fn create(dir: &Path, name: String) -> Result<Self, BackupError> {
        let path = dir.join(format!("{name}.new"));
        let file = private::create(&path).map_err(at(&path))?;
        let mut pack = Self { name, path, file, len: 0, unsynced: 0 };
        pack.append(PACK_TITLE)?;
        Ok(pack)
    }

    fn append(&mut self, part: &[u8]) -> Result<(), BackupError> {
        self.file.write_all(part).map_err(at(&self.path))?;
        self.len += part.len() as u64;
        self.unsynced += part.len();
        if self.unsynced >= SYNC_BYTES {
            self.file.sync_data().map_err(at(&self.path))?;
            self.unsynced = 0;
        }
        Ok(())
    }

    fn finish(self, dir: &Path) -> Result<(), BackupError> {
        self.file.sync_all().map_err(at(&self.path))?;
        fs::rename(&self.path, dir.join(&self.name)).map_err(at(&self.path))?;
        sync_dir(dir).map_err(at(dir))
    }
}

/// The packs in a directory, by file name.
struct Packs {
    /// Their file sizes.
    lengths: HashMap<String, u64>,
    /// The bytes that a manifest references in them.
    used: HashMap<String, u64>,
}

impl Packs {
    fn scan(dir: &Path, documents: &BTreeMap<DocumentName, Entry>) -> Result<Self, BackupError> {
        let mut packs = Self { lengths: HashMap::new(), used: HashMap::new() };
        for location in documents.values().filter_map(|entry| entry.place.as_ref()) {
            *packs.used.entry(location.pack.clone()).or_default() += location.bytes;
        }
        for entry in fs::read_dir(dir).map_err(at(dir))? {
            let entry = entry.map_err(at(dir))?;
            if let Some(name) = entry.file_name().to_str().filter(|name| is_pack(name)) {
                packs.lengths.insert(name.to_owned(), entry.metadata().map_err(at(&entry.path()))?.len());
            }
        }
        Ok(packs)
    }

    /// Whether the pack exists and is long enough.
    fn contains(&self, location: &PackLocation) -> bool {
        self.lengths.get(&location.pack).is_some_and(|&length| location.at.saturating_add(location.bytes) <= length)
    }

    /// Whether most of the pack belongs to documents that have changed since.
    fn is_mostly_unused(&self, location: &PackLocation) -> bool {
        let length = self.lengths.get(&location.pack).copied().unwrap_or(0);
        let used = self.used.get(&location.pack).copied().unwrap_or(0);
        (used as f64) < length as f64 * MIN_USED_SHARE
    }

    /// An encoded document, if its checksum is valid.
    fn read(&self, dir: &Path, location: &PackLocation) -> Option<Vec<u8>> {
        let encoded = read_location(dir, location).ok()?;
        let end = encoded.len().checked_sub(8)?;
        (pack::sum_of(&encoded) == location.sum && xxh3_64(&encoded[..end]) == location.sum).then_some(encoded)
    }

    /// Removes packs without referenced documents, and files of an unfinished backup.
    fn remove_unused(&self, dir: &Path) -> Result<(), BackupError> {
        let mut removed = false;
        let unfinished = dir.join(NEW_MANIFEST_FILE);
        let unused = self.lengths.keys().filter(|name| !self.used.contains_key(*name)).map(|name| dir.join(name));
        for path in unused.chain([unfinished]) {
            match fs::remove_file(&path) {
                Ok(()) => removed = true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at(&path)(error)),
            }
        }
        if removed { sync_dir(dir).map_err(at(dir)) } else { Ok(()) }
    }
}

/// The bytes at a location of the backup in `dir`, not verified.
pub(super) fn read_location(dir: &Path, location: &PackLocation) -> io::Result<Vec<u8>> {
    let mut file = File::open(dir.join(&location.pack))?;
    file.seek(SeekFrom::Start(location.at))?;
    let mut encoded = Vec::new();
    // Do not allocate `location.bytes` in advance, because a damaged manifest may contain a wrong length.
    file.take(location.bytes).read_to_end(&mut encoded)?;
    if encoded.len() as u64 != location.bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(encoded)
}

/// Whether this is the file name of a finished or unfinished pack.
fn is_pack(name: &str) -> bool {
    let name = name.strip_suffix(".new").unwrap_or(name);
    let number = name.strip_suffix(PACK_SUFFIX).and_then(|name| name.strip_prefix('r'));
    number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-'))
}

/// Pauses a gentle backup.
struct Pacer {
    pace: Pace,
    /// The end of the last pause.
    since: Instant,
    /// Bytes written since then.
    written: usize,
}

impl Pacer {
    /// Counts `written` more bytes, and pauses if a pause is due.
    fn pause(&mut self, written: usize) {
        self.written += written;
        let worked = self.since.elapsed();
        if self.pace == Pace::Full || worked < PAUSE_AFTER {
            return;
        }
        let due = Duration::from_secs_f64(self.written as f64 / GENTLE_BYTES_PER_SECOND);
        thread::sleep(worked.max(due.saturating_sub(worked)));
        (self.since, self.written) = (Instant::now(), 0);
    }
}
