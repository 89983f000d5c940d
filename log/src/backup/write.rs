//! Taking a backup: documents whose mark is another go into new packs, then the manifest is replaced.

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

use super::manifest::{Entry, MANIFEST_FILE, Manifest, NEW_MANIFEST_FILE, Place};
use super::pack::{self, PACK_TITLE};
use super::{BackupError, at};
use crate::failpoint::Point;
use crate::private;
use crate::store::{Store, StoreError};
use crate::store_lock::{LOCK_FILE, Lock, create_dir_durably, sync_dir};

/// A pack that is larger is closed; one document is never divided.
const PACK_BYTES: u64 = 64 << 20;
/// Bytes written before a sync: short syncs do not stand in the way of the log's own.
const SYNC_BYTES: usize = 512 << 10;
/// How much a gentle backup writes in a second, at most.
const GENTLE_BYTES_PER_SECOND: f64 = (24 << 20) as f64;
/// A pack of which less than half is in use is written anew; see [`Packs::wasteful`].
const USED_AT_LEAST: f64 = 0.5;
/// Work shorter than this is not paused for yet: the system's timer is not finer.
const PAUSE_AFTER: Duration = Duration::from_millis(2);
const PACK_SUFFIX: &str = ".pack";

/// How much a backup leaves to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// It pauses for as long as it works, and writes at most 24 MiB in a second: for a server in use.
    Gentle,
    /// It does not pause.
    Full,
}

/// How far a backup is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Documents looked at.
    pub done: u64,
    /// Documents in all.
    pub documents: u64,
    /// Bytes written.
    pub bytes: u64,
}

/// What a backup took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// Documents in it.
    pub documents: u64,
    /// Those that were written now; the others had not changed.
    pub written: u64,
    /// Bytes written, without the manifest.
    pub bytes: u64,
    /// Documents that could not be read, and why. Of these the backup holds what an earlier one held, if anything.
    pub damaged: Vec<(DocumentName, String)>,
}

/// Stops a backup from another thread.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Stops it: it ends with [`BackupError::Cancelled`] before the next document.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), BackupError> {
        if self.0.load(Ordering::Relaxed) { Err(BackupError::Cancelled) } else { Ok(()) }
    }
}

/// Takes a backup of `store` into `dir`, which is made if it is not there. Blocks until it is on disk. A directory that
/// holds an earlier backup of the same store gets what has changed since.
///
/// Errors: `dir` holds something else, or is in use; the store or the disk fails. An earlier backup is then as it was.
pub fn take(
    store: &dyn Store,
    dir: &Path,
    pace: Pace,
    cancel: &Cancel,
    report: &mut dyn FnMut(Progress),
) -> Result<Taken, BackupError> {
    create_dir_durably(dir).map_err(at(dir))?;
    let identity = store.identity()?;
    earlier(dir, identity)?;
    let _lock = Lock::take(dir).map_err(|error| match error {
        StoreError::InUse { holder, .. } => {
            let what = format!("process {holder} takes or restores a backup here");
            BackupError::Unusable { dir: dir.to_owned(), what }
        }
        other => other.into(),
    })?;
    // By earlier versions.
    private::restrict_entries(dir, |name| is_pack(name) || name == MANIFEST_FILE || name == LOCK_FILE);
    // Again, for nobody else writes here now.
    let earlier = earlier(dir, identity)?;
    let taken_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let (run, before) = earlier.map_or((0, BTreeMap::new()), |earlier| (earlier.run, earlier.documents));
    let packs = Packs::look(dir, &before)?;
    packs.remove_others(dir)?;
    let pacer = Pacer { pace, since: Instant::now(), written: 0 };
    let mut backup = Writer { dir, store, before, packs, run: run + 1, pack: None, pack_number: 0, bytes: 0, pacer };

    let names: HashSet<DocumentName> = store.list()?.into_iter().collect();
    let mut progress = Progress { documents: names.len() as u64, ..Progress::default() };
    let mut taken = Taken::default();
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
    // Only now does nobody need what the earlier backup alone named.
    Packs::look(dir, &documents)?.remove_others(dir)?;
    Ok(taken)
}

/// The backup that is in `dir`, which holds one of this store, or nothing.
fn earlier(dir: &Path, identity: u128) -> Result<Option<Manifest>, BackupError> {
    let unusable = |what: String| BackupError::Unusable { dir: dir.to_owned(), what };
    if let Some(earlier) = Manifest::read(dir)? {
        if earlier.store != identity {
            return Err(unusable("it holds a backup of another store; choose another directory for this one".into()));
        }
        return Ok(Some(earlier));
    }
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let name = entry.map_err(at(dir))?.file_name();
        if !name.to_str().is_some_and(|name| is_pack(name) || name == NEW_MANIFEST_FILE || name == LOCK_FILE) {
            let name = name.to_string_lossy();
            return Err(unusable(format!("it holds {name:?} and no backup; choose an empty directory")));
        }
    }
    Ok(None)
}

struct Writer<'a> {
    dir: &'a Path,
    store: &'a dyn Store,
    /// What the earlier backup holds.
    before: BTreeMap<DocumentName, Entry>,
    packs: Packs,
    run: u64,
    /// The pack being written.
    pack: Option<Pack>,
    pack_number: u32,
    /// Written so far, in all packs.
    bytes: u64,
    pacer: Pacer,
}

impl Writer<'_> {
    /// The entry of one document, which is written if it is not in the earlier backup as it is now. `None`: it was
    /// forgotten since the names were listed.
    fn document(&mut self, name: &DocumentName) -> Result<Option<Entry>, BackupError> {
        let before = self.before.remove(name);
        let mark = match self.store.mark(name) {
            Ok(Some(mark)) => mark,
            Ok(None) => return Ok(None),
            Err(error) => return self.damaged(before, error).map(Some),
        };
        if let Some(before) = before.as_ref().filter(|before| before.mark == Some(mark) && before.damaged.is_none())
            && let Some(place) = before.place.as_ref().filter(|place| self.packs.holds(place))
        {
            if !self.packs.is_wasteful(place) {
                return Ok(Some(before.clone()));
            }
            if let Some(encoded) = self.packs.read(self.dir, place) {
                let place = self.write(&encoded)?;
                return Ok(Some(Entry { place: Some(place), ..before.clone() }));
            }
        }
        match self.store.load(name) {
            Ok(Some(stored)) => {
                let place = self.write(&pack::encode(name, &stored))?;
                let deleted = stored.is_tombstone();
                // The mark was read before: if an edit came between, the next backup writes the document again.
                Ok(Some(Entry { mark: Some(mark), place: Some(place), deleted, damaged: None }))
            }
            Ok(None) => Ok(None),
            Err(error) => self.damaged(before, error).map(Some),
        }
    }

    /// What is kept of a document that cannot be read.
    fn damaged(&self, before: Option<Entry>, error: StoreError) -> Result<Entry, BackupError> {
        let StoreError::Damaged { seq, what, .. } = error else { return Err(error.into()) };
        let damaged = Some(format!("record {seq}: {what}"));
        let before = before.filter(|before| before.place.as_ref().is_some_and(|place| self.packs.holds(place)));
        let nothing = Entry { mark: None, place: None, deleted: false, damaged: None };
        Ok(Entry { damaged, ..before.unwrap_or(nothing) })
    }

    fn write(&mut self, encoded: &[u8]) -> Result<Place, BackupError> {
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
        Ok(Place { pack, at, bytes, sum: pack::sum_of(encoded) })
    }

    fn finish_pack(&mut self) -> Result<(), BackupError> {
        self.pack.take().map_or(Ok(()), |pack| pack.finish(self.dir))
    }
}

/// A pack being written, under a name that no manifest names.
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

/// The packs in a directory: how long each is, and how much of it a backup uses.
struct Packs {
    lengths: HashMap<String, u64>,
    used: HashMap<String, u64>,
}

impl Packs {
    fn look(dir: &Path, documents: &BTreeMap<DocumentName, Entry>) -> Result<Self, BackupError> {
        let mut packs = Self { lengths: HashMap::new(), used: HashMap::new() };
        for place in documents.values().filter_map(|entry| entry.place.as_ref()) {
            *packs.used.entry(place.pack.clone()).or_default() += place.bytes;
        }
        for entry in fs::read_dir(dir).map_err(at(dir))? {
            let entry = entry.map_err(at(dir))?;
            if let Some(name) = entry.file_name().to_str().filter(|name| is_pack(name)) {
                packs.lengths.insert(name.to_owned(), entry.metadata().map_err(at(&entry.path()))?.len());
            }
        }
        Ok(packs)
    }

    fn holds(&self, place: &Place) -> bool {
        self.lengths.get(&place.pack).is_some_and(|&length| place.at.saturating_add(place.bytes) <= length)
    }

    /// Whether most of the pack is of documents that have changed since.
    fn is_wasteful(&self, place: &Place) -> bool {
        let length = self.lengths.get(&place.pack).copied().unwrap_or(0);
        let used = self.used.get(&place.pack).copied().unwrap_or(0);
        (used as f64) < length as f64 * USED_AT_LEAST
    }

    /// A document's bytes, if they are what was written.
    fn read(&self, dir: &Path, place: &Place) -> Option<Vec<u8>> {
        let encoded = read_place(dir, place).ok()?;
        let end = encoded.len().checked_sub(8)?;
        (pack::sum_of(&encoded) == place.sum && xxh3_64(&encoded[..end]) == place.sum).then_some(encoded)
    }

    /// Removes what no document lies in: what an unfinished backup left, and what the newest no longer uses.
    fn remove_others(&self, dir: &Path) -> Result<(), BackupError> {
        let mut removed = false;
        let unfinished = dir.join(NEW_MANIFEST_FILE);
        let others = self.lengths.keys().filter(|name| !self.used.contains_key(*name)).map(|name| dir.join(name));
        for path in others.chain([unfinished]) {
            match fs::remove_file(&path) {
                Ok(()) => removed = true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at(&path)(error)),
            }
        }
        if removed { sync_dir(dir).map_err(at(dir)) } else { Ok(()) }
    }
}

/// The bytes that lie at a place of the backup in `dir`, unchecked.
pub(super) fn read_place(dir: &Path, place: &Place) -> io::Result<Vec<u8>> {
    let mut file = File::open(dir.join(&place.pack))?;
    file.seek(SeekFrom::Start(place.at))?;
    let mut encoded = Vec::new();
    // Not by a buffer of the length that is told: it may be wrong.
    file.take(place.bytes).read_to_end(&mut encoded)?;
    if encoded.len() as u64 != place.bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(encoded)
}

/// Whether a file of this name is a pack, or one that was not finished.
fn is_pack(name: &str) -> bool {
    let name = name.strip_suffix(".new").unwrap_or(name);
    let number = name.strip_suffix(PACK_SUFFIX).and_then(|name| name.strip_prefix('r'));
    number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-'))
}

struct Pacer {
    pace: Pace,
    /// When the work began that no pause has followed.
    since: Instant,
    /// Bytes written by it.
    written: usize,
}

impl Pacer {
    /// Pauses when it is time, `written` bytes after the last call.
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
