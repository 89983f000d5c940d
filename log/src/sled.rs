//! The store on sled 0.34.7: opening, syncing, closing. `sled_write.rs` commits, `sled_read.rs` loads, `layout.rs`
//! defines keys and values. The following properties come from sled's source and are covered by tests:
//!
//! - `apply_batch` is atomic after a crash. It reserves a manifest in the log (`pin_log`), writes the changed pages
//!   after it, and fills the manifest with the last position written (`seal_batch`). Recovery stops *before* a
//!   manifest whose last position is past the end of the log, so it recovers the whole batch or nothing of it.
//! - `flush()` writes everything to the operating system and reports write errors, but on Linux it calls
//!   `sync_file_range`, which does not cover the file size and the disk cache. So we call `fdatasync` on the `db` file
//!   after it, through our own file handle. The own handle also matters for errors: the system reports a failed
//!   write-back once to each handle, so sled's background sync cannot consume our error.
//! - sled writes four kinds of files: `db`; `conf`, written once and never synced; `snap.*`, written and synced at open,
//!   but without a directory sync; `blobs/*`, for pages over a quarter of a segment, never synced. So we sync all of them
//!   and their directories at open, before the first commit. With `SEGMENT_BYTES` blobs do not occur; if they did, they
//!   would be synced.
//! - sled frees a segment when its pages are rewritten elsewhere, and considers them written after `sync_file_range`. A
//!   power cut could lose the new pages and keep the data that overwrote the old ones. At least one whole segment is
//!   written between the two, so a real sync at least once per segment keeps them in order. This is why segments are
//!   large here, and why large commits are split into slices.
//! - Only sled's flusher thread reclaims space: without it the file grows forever.
//! - sled panics on many kinds of damage, so every call into it catches panics.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use sled::Db;
use syncline_protocol::ids::DocumentName;
use tracing::{info, warn};

use super::batch_counter::{Tally, find_contradiction};
use super::blob_sync::Blobs;
use super::engine_error::{DAMAGED, explain, explain_panic, failed};
use super::failpoint::Point;
use super::layout::{FORMAT, META_KEY, Meta, seal, unseal};
use super::read_fallback::ReadFallback;
use super::saved_segments;
use super::segments::{SEGMENT_BYTES, flush_epoch_garbage, segment_bytes};
use super::sled_read::Census;
use super::store::{Mark, Salvaged, Store, StoreError, Stored, Write};
use super::store_lock::{
    FREE_SPACE, Lock, NO_SPACE, REPAIR_HINT, StoreInfo, check_format, create_dir_durably, is_out_of_files,
    lost_records, open_error, prepare_engine, sync_dir, sync_files,
};

/// The capacity of sled's page cache, in bytes. Large values exceed it.
const CACHE_BYTES: u64 = 64 << 20;
/// A commit syncs between two slices once sled has written more log than this since the last sync. Together with the
/// slice that exceeds it, this is less than a segment.
pub(super) const UNSYNCED_LOG_BYTES: i64 = (SEGMENT_BYTES / 4) as i64;
/// How often sled's thread flushes; it cleans up for half of that time. Less than a segment moves between two flushes.
const CLEAN_EVERY_MS: u64 = 100;
/// The info file is rewritten after this many committed records.
const INFO_EVERY_RECORDS: u64 = 10_000;
/// sled's threads can keep the lock of a just closed store for a moment. Only our own lock file decides who owns the store.
const ENGINE_LOCK_TRIES: u32 = 100;
const ENGINE_LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The directory of sled's files, in the data directory.
pub(super) const ENGINE_DIR: &str = "sled";

/// Makes a file's data durable. Tests replace it.
pub(super) type SyncData = Box<dyn Fn(&File) -> io::Result<()> + Send + Sync>;

/// Documents in a data directory, which one process can open at a time.
pub struct SledStore {
    pub(super) dir: PathBuf,
    identity: u128,
    /// `None` once closed.
    pub(super) engine: RwLock<Option<Engine>>,
    /// One commit at a time.
    pub(super) writer: Mutex<Writer>,
    /// The store-wide integrity check that failed at open.
    pub(super) contradiction: Option<String>,
    pub(super) fallback: ReadFallback,
}

/// The open engine.
pub(super) struct Engine {
    pub db: Db,
    db_file: File,
    blobs: Blobs,
    sync_data: SyncData,
    /// The position in sled's log that is known to be on disk. Written at open, and by [`Engine::sync`].
    synced: AtomicI64,
    /// Documents whose heads are missing. Written at open, and by deletes.
    pub lost: Mutex<HashSet<DocumentName>>,
    /// The last field, so that it is released after sled's own lock.
    _lock: Lock,
}

/// The state of the writing side. Only the holder of its lock may write to the engine.
pub(super) struct Writer {
    pub meta: Meta,
    /// The number of records in the info file.
    info_committed: u64,
    tally: Tally,
    /// The first commit error. After it no commit is attempted.
    broken: Option<StoreError>,
}

impl SledStore {
    /// Opens the store in `dir`. Creates the directory and the store if they do not exist.
    ///
    /// Errors: [`StoreError::InUse`]; [`StoreError::Open`] with the cause and what the operator can do.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(dir, Box::new(File::sync_data), Some(CLEAN_EVERY_MS))
    }

    /// [`SledStore::open_checked`] for tools: creates nothing. [`StoreError::NoStore`] if `dir` does not contain a store.
    pub fn open_existing(dir: &Path) -> Result<Self, StoreError> {
        match StoreInfo::read(dir)? {
            Some(_) => Self::open_checked(dir),
            None => Err(StoreError::NoStore { dir: dir.to_owned() }),
        }
    }

    pub(super) fn open_with(dir: &Path, sync_data: SyncData, clean_every_ms: Option<u64>) -> Result<Self, StoreError> {
        let failed = |error: io::Error| open_error(dir, error.to_string());
        if dir.exists() && !dir.is_dir() {
            return Err(open_error(dir, "it is not a directory; choose another for the data"));
        }
        create_dir_durably(dir).map_err(failed)?;
        let lock = Lock::take(dir)?;
        let info = StoreInfo::read(dir)?;
        let engine_dir = dir.join(ENGINE_DIR);
        if let Some(info) = info {
            check_format(dir, info.format)?;
            if !engine_dir.join("db").exists() {
                return Err(lost_records(dir, "is empty", &info, 0));
            }
        }
        prepare_engine(dir, &engine_dir).map_err(failed)?;
        // Errors are ignored: only a repair needs the copy, and a disk without space for it may have enough for the store.
        saved_segments::save_segments(dir, &engine_dir.join("db")).ok();
        let db = open_engine(dir, &engine_dir, clean_every_ms, info.is_some())?;
        let db_file = File::open(engine_dir.join("db")).map_err(failed)?;
        let written = db.context.pagecache.log.stable_offset();
        sync_files(&engine_dir).and_then(|()| sync_dir(dir)).map_err(failed)?;
        let mut engine = Engine {
            db,
            db_file,
            blobs: Blobs::new(engine_dir.join("blobs")),
            sync_data,
            synced: AtomicI64::new(written),
            lost: Mutex::new(HashSet::new()),
            _lock: lock,
        };
        let (mut meta, Census { lost, heads, spelled }) = catch_panic(|| {
            let meta = engine.meta(dir, info)?;
            let census = engine.census(dir, &meta)?;
            Ok((meta, census))
        })
        .map_err(|error| match error {
            StoreError::Io(what) => open_error(dir, format!("{what}. {REPAIR_HINT}")),
            other => other,
        })?;
        engine.lost = Mutex::new(lost);
        Point::Opened.pass();
        if meta.format < FORMAT {
            (meta.format, meta.heads) = (FORMAT, heads);
        }
        let identity = meta.identity;
        let (tally, counted) = Tally::open(dir, meta.identity).map_err(failed)?;
        let contradiction = find_contradiction(&meta, heads, counted);
        let mut writer = Writer { meta, info_committed: 0, tally, broken: None };
        catch_panic(|| {
            engine.sweep_leftovers(&mut writer).and_then(|()| engine.rename_spellings(&mut writer, &spelled))
        })?;
        if contradiction.is_none() {
            writer.write_info(dir).map_err(failed)?;
            saved_segments::remove_saved_segments(dir);
        }
        flush_epoch_garbage();
        Ok(Self {
            dir: dir.to_owned(),
            identity,
            engine: RwLock::new(Some(engine)),
            writer: Mutex::new(writer),
            contradiction,
            fallback: ReadFallback::default(),
        })
    }

    /// Runs `work` on the open engine.
    pub(super) fn with_engine<T>(&self, work: impl FnOnce(&Engine) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        let engine = engine.as_ref().ok_or(StoreError::Closed)?;
        catch_panic(|| work(engine))
    }
}

impl Store for SledStore {
    fn commit(&self, writes: &[Write]) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = &writer.broken {
            return Err(error.clone());
        }
        // Everything acknowledged is before this position, including what sled's cleaner has moved since.
        let acknowledged = self.with_engine(|engine| Ok(engine.log_position()));
        let outcome = self.with_engine(|engine| engine.commit(&mut writer, writes)).and_then(|()| {
            writer.tally.set(&writer.meta);
            if writer.meta.committed - writer.info_committed < INFO_EVERY_RECORDS {
                return Ok(());
            }
            match writer.write_info(&self.dir) {
                // The info file stays a valid lower bound. The next commit tries again.
                Err(error) if is_out_of_files(&error) => Ok(()),
                written => written.map_err(|error| StoreError::Io(error.to_string())),
            }
        });
        if let Err(error) = &outcome {
            writer.broken = Some(error.clone());
            if let Ok(acknowledged) = acknowledged {
                self.fallback.engine_failed(acknowledged);
            }
        }
        outcome
    }

    fn load(&self, document: &DocumentName) -> Result<Option<Stored>, StoreError> {
        let loaded = self.with_engine(|engine| engine.load_guarded(document));
        if loaded.is_err() {
            // The cause may be a failing commit that has half a batch in the engine's memory: wait until it has failed.
            drop(self.writer.lock());
        }
        self.fallback.load(&self.dir, document, loaded)
    }

    fn salvage(&self, document: &DocumentName) -> Result<Salvaged, StoreError> {
        self.with_engine(|engine| engine.salvage(document))
    }

    fn mark(&self, document: &DocumentName) -> Result<Option<Mark>, StoreError> {
        self.with_engine(|engine| engine.mark(document))
    }

    fn identity(&self) -> Result<u128, StoreError> {
        Ok(self.identity)
    }

    fn list(&self) -> Result<Vec<DocumentName>, StoreError> {
        self.with_engine(Engine::list)
    }

    fn close(&self) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let engine = self.engine.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(engine) = engine else { return Ok(()) };
        // After an error it is unknown what a sync would cover, so nothing more is written.
        let outcome = if writer.broken.is_none() {
            catch_panic(|| engine.sync())
                .and_then(|()| writer.write_info(&self.dir).map_err(|error| StoreError::Io(error.to_string())))
        } else {
            Ok(())
        };
        catch_panic(|| {
            drop(engine);
            Ok(())
        })
        .and(outcome)
    }
}

impl Engine {
    /// Makes everything applied so far durable.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(failed)?;
        Point::BeforeSync.pass();
        let reached = self.log_position();
        (self.sync_data)(&self.db_file).map_err(|error| StoreError::Io(format!("sync: {error}")))?;
        self.blobs.sync().map_err(|error| StoreError::Io(format!("sync: {error}")))?;
        self.synced.store(reached, Ordering::Relaxed);
        flush_epoch_garbage();
        Ok(())
    }

    /// Syncs if sled has written more than [`UNSYNCED_LOG_BYTES`] since the last sync.
    pub(crate) fn sync_when_due(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(failed)?;
        if self.log_position() - self.synced.load(Ordering::Relaxed) > UNSYNCED_LOG_BYTES {
            return self.sync();
        }
        Ok(())
    }

    /// How much of its log sled has written to the operating system, in bytes since the store was created.
    pub(crate) fn log_position(&self) -> i64 {
        self.db.context.pagecache.log.stable_offset()
    }

    /// Reads the store's metadata. Writes new metadata if the engine is empty and there is no info file.
    fn meta(&self, dir: &Path, info: Option<StoreInfo>) -> Result<Meta, StoreError> {
        let stored = self.db.get(META_KEY).map_err(failed)?;
        let Some(value) = stored else {
            if let Some(info) = info {
                return Err(lost_records(dir, "is empty", &info, 0));
            }
            if self.db.iter().next().is_some() {
                return Err(open_error(dir, format!("its metadata is missing. {REPAIR_HINT}")));
            }
            let meta = Meta {
                identity: rand::random(),
                format: FORMAT,
                committed: 0,
                documents: 0,
                next_id: 1,
                heads: 0,
                batches: 0,
            };
            self.db.insert(META_KEY, seal(META_KEY, &meta.encode())).map_err(failed)?;
            self.sync()?;
            info!(dir = %dir.display(), "created a new store");
            return Ok(meta);
        };
        let meta = unseal(META_KEY, &value)
            .and_then(Meta::decode)
            .ok_or_else(|| open_error(dir, format!("its metadata is damaged. {REPAIR_HINT}")))?;
        check_format(dir, meta.format)?;
        match info {
            Some(info) if info.identity != meta.identity => Err(open_error(
                dir,
                "syncline.store and the sled directory belong to different stores. Restore both from the same copy",
            )),
            Some(info) if info.committed > meta.committed => {
                Err(lost_records(dir, "is older than it was", &info, meta.committed))
            }
            Some(_) => Ok(meta),
            None => {
                if meta.committed > 0 {
                    warn!(dir = %dir.display(), "syncline.store is missing and is written again");
                }
                Ok(meta)
            }
        }
    }
}

impl Writer {
    fn write_info(&mut self, dir: &Path) -> io::Result<()> {
        let Meta { identity, format, committed, .. } = self.meta;
        StoreInfo { identity, format, committed }.write(dir)?;
        self.info_committed = committed;
        Ok(())
    }
}

/// Opens sled; an error or panic because of damage becomes [`StoreError::Open`]. `has_info`: the info file exists, so the
/// store may contain acknowledged records.
fn open_engine(dir: &Path, engine_dir: &Path, clean_every_ms: Option<u64>, has_info: bool) -> Result<Db, StoreError> {
    let config = sled::Config::new()
        .path(engine_dir)
        .cache_capacity(CACHE_BYTES)
        .segment_size(segment_bytes(engine_dir))
        .flush_every_ms(clean_every_ms)
        .use_compression(false);
    let hint = if has_info {
        REPAIR_HINT
    } else {
        "No edit was ever acknowledged from this directory: if it is new, remove its sled directory and start again"
    };
    let mut tries = ENGINE_LOCK_TRIES;
    loop {
        let what = match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(error)) if error.to_string().contains("could not acquire lock") && tries > 0 => {
                tries -= 1;
                thread::sleep(ENGINE_LOCK_PAUSE);
                continue;
            }
            Ok(Err(error)) => explain(&error),
            Err(panic) => format!("{DAMAGED} ({})", explain_panic(panic.as_ref())),
        };
        let hint = if what.contains(NO_SPACE) { FREE_SPACE } else { hint };
        return Err(open_error(dir, format!("{what}. {hint}")));
    }
}

/// Runs `work` and returns a panic as an error.
fn catch_panic<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(StoreError::Io(format!("the engine stopped: {}", explain_panic(panic.as_ref())))))
}

#[cfg(test)]
mod tests;
