//! The store on sled 0.34.7: opening, syncing, closing. `sled_write.rs` commits, `sled_read.rs` loads, `layout.rs`
//! says what lies where. What we rely on was read in sled's source and is held by tests:
//!
//! - `apply_batch` is atomic after a crash. It reserves a manifest in the log (`pin_log`), writes the changed pages
//!   behind it, and fills the manifest with the last position written (`seal_batch`). Recovery stops *before* a
//!   manifest whose last position lies behind the end of the log, so it takes the whole batch or nothing.
//! - `flush()` hands everything to the operating system and reports write errors, but on Linux it calls
//!   `sync_file_range`, which is no sync: neither file size nor disk cache are covered. We `fdatasync` the `db` file
//!   through a handle of our own after it. The own handle matters for errors, too: the system reports a failed
//!   write-back once to each handle, so sled's own background sync cannot swallow ours.
//! - sled writes four kinds of file: `db`; `conf`, written once and never synced; `snap.*`, written at open, synced, but
//!   not their names; `blobs/*`, pages over a quarter of a segment, never synced. So all of them and their
//!   directories are synced at open, before the first commit. Blobs do not occur with `SEGMENT_BYTES`, and would be
//!   synced if they did.
//! - sled frees a segment when its pages were written anew elsewhere, and counts them as written after
//!   `sync_file_range`. A power cut could lose the new pages and keep what overwrote the old ones. But at least one
//!   whole segment is written between the two, so a real sync at least once a segment keeps them in order. This is
//!   why segments are large here, and why large commits go in slices.
//! - Space is reclaimed only by sled's flusher thread: without it the file grows for ever.
//! - sled panics on much damage: every way into it is guarded.

use std::any::Any;
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

use super::batch_counter::{Tally, doubt};
use super::blob_sync::Blobs;
use super::failpoint::Point;
use super::layout::{FORMAT, META_KEY, Meta, seal, unseal};
use super::read_fallback::Rescue;
use super::saved_segments;
use super::segments::{SEGMENT_BYTES, let_go, segment_bytes};
use super::sled_read::Census;
use super::store::{Mark, Salvaged, Store, StoreError, Stored, Write};
use super::store_lock::{
    Card, FREE_SPACE, Lock, NO_SPACE, WAY_OUT, came_back, create_dir_durably, is_out_of_files, open_error,
    prepare_engine, refuse_newer, sync_dir, sync_files,
};

/// Pages kept in memory. Large values stay beyond it (see `docs/decisions/0037-sled-inside-a-discipline.md`).
const CACHE_BYTES: u64 = 64 << 20;
/// A commit is synced in between when sled has written more log than this: with the slice that passes it less than a segment.
pub(super) const UNSYNCED_LOG_BYTES: i64 = (SEGMENT_BYTES / 4) as i64;
/// How often sled's thread flushes, and cleans for half of that: between two of its syncs less than a segment moves.
const CLEAN_EVERY_MS: u64 = 100;
/// The card is rewritten when this many records were committed since.
const CARD_EVERY_RECORDS: u64 = 10_000;
/// sled's threads of a store that was just closed may hold its file for a moment. Ours is the only lock that counts.
const ENGINE_LOCK_TRIES: u32 = 100;
const ENGINE_LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Where sled's files are, in the data directory.
pub(super) const ENGINE_DIR: &str = "sled";

/// Makes a file's data durable. Tests put another in its place.
pub(super) type SyncData = Box<dyn Fn(&File) -> io::Result<()> + Send + Sync>;

/// Documents in a directory. One process at a time.
pub struct SledStore {
    pub(super) dir: PathBuf,
    identity: u128,
    /// `None` once closed.
    pub(super) engine: RwLock<Option<Engine>>,
    /// One commit at a time.
    pub(super) writer: Mutex<Writer>,
    pub(super) doubt: Option<String>,
    pub(super) rescue: Rescue,
}

/// The open engine.
pub(super) struct Engine {
    pub db: Db,
    db_file: File,
    blobs: Blobs,
    sync_data: SyncData,
    /// sled's log position that is known to be on disk. Written at open, and by [`Engine::sync`].
    synced: AtomicI64,
    /// Documents whose heads are gone. Written at open, and by deletes.
    pub lost: Mutex<HashSet<DocumentName>>,
    /// Last, so that it is released after sled's own.
    _lock: Lock,
}

/// What commits share. Only its owner writes to the engine.
pub(super) struct Writer {
    pub meta: Meta,
    /// What the card says.
    card_committed: u64,
    tally: Tally,
    /// The first error, after which nothing is believed.
    broken: Option<StoreError>,
}

impl SledStore {
    /// Opens the store in `dir`, and creates both where there is nothing.
    ///
    /// Errors: [`StoreError::InUse`]; [`StoreError::Open`] with what happened and a way out.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(dir, Box::new(File::sync_data), Some(CLEAN_EVERY_MS))
    }

    /// [`SledStore::open`] for tools that only look: a directory without a store is an error and stays as it is.
    pub fn open_existing(dir: &Path) -> Result<Self, StoreError> {
        match Card::read(dir)? {
            Some(_) => Self::open_whole(dir),
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
        let card = Card::read(dir)?;
        let engine_dir = dir.join(ENGINE_DIR);
        if let Some(card) = card {
            refuse_newer(dir, card.format)?;
            if !engine_dir.join("db").exists() {
                return Err(came_back(dir, "is empty", &card, 0));
            }
        }
        prepare_engine(dir, &engine_dir).map_err(failed)?;
        // For a repair only: a disk that has no room for it may have room for the store.
        saved_segments::keep(dir, &engine_dir.join("db")).ok();
        let db = open_engine(dir, &engine_dir, clean_every_ms, card.is_some())?;
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
        let (mut meta, Census { lost, heads, spelled }) = guarded(|| {
            let meta = engine.meta(dir, card)?;
            let census = engine.census(dir, &meta)?;
            Ok((meta, census))
        })
        .map_err(|error| match error {
            StoreError::Io(what) => open_error(dir, format!("{what}. {WAY_OUT}")),
            other => other,
        })?;
        engine.lost = Mutex::new(lost);
        Point::Opened.pass();
        if meta.format < FORMAT {
            (meta.format, meta.heads) = (FORMAT, heads);
        }
        let identity = meta.identity;
        let (tally, counted) = Tally::open(dir, meta.identity).map_err(failed)?;
        let doubt = doubt(&meta, heads, counted);
        let mut writer = Writer { meta, card_committed: 0, tally, broken: None };
        guarded(|| engine.sweep_leftovers(&mut writer).and_then(|()| engine.rename_spellings(&mut writer, &spelled)))?;
        if doubt.is_none() {
            writer.write_card(dir).map_err(failed)?;
            saved_segments::forget(dir);
        }
        let_go();
        Ok(Self {
            dir: dir.to_owned(),
            identity,
            engine: RwLock::new(Some(engine)),
            writer: Mutex::new(writer),
            doubt,
            rescue: Rescue::default(),
        })
    }

    /// Runs `work` on the open engine.
    pub(super) fn with_engine<T>(&self, work: impl FnOnce(&Engine) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        let engine = engine.as_ref().ok_or(StoreError::Closed)?;
        guarded(|| work(engine))
    }
}

impl Store for SledStore {
    fn commit(&self, writes: &[Write]) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = &writer.broken {
            return Err(error.clone());
        }
        // All that was acknowledged, and where sled's cleaner has moved it since.
        let acknowledged = self.with_engine(|engine| Ok(engine.log_position()));
        let outcome = self.with_engine(|engine| engine.commit(&mut writer, writes)).and_then(|()| {
            writer.tally.set(&writer.meta);
            if writer.meta.committed - writer.card_committed < CARD_EVERY_RECORDS {
                return Ok(());
            }
            match writer.write_card(&self.dir) {
                // The card is behind then, as it is between two of its writings. The next commit tries again.
                Err(error) if is_out_of_files(&error) => Ok(()),
                written => written.map_err(|error| StoreError::Io(error.to_string())),
            }
        });
        if let Err(error) = &outcome {
            writer.broken = Some(error.clone());
            if let Ok(acknowledged) = acknowledged {
                self.rescue.engine_failed(acknowledged);
            }
        }
        outcome
    }

    fn load(&self, document: &DocumentName) -> Result<Option<Stored>, StoreError> {
        let loaded = self.with_engine(|engine| engine.load_guarded(document));
        if loaded.is_err() {
            // A commit that fails leaves half a batch in the engine's memory before anybody knows: wait for its end.
            drop(self.writer.lock());
        }
        self.rescue.load(&self.dir, document, loaded)
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
        // After an error nothing is known about what a sync would cover: leave the files to the next open.
        let outcome = if writer.broken.is_none() {
            guarded(|| engine.sync())
                .and_then(|()| writer.write_card(&self.dir).map_err(|error| StoreError::Io(error.to_string())))
        } else {
            Ok(())
        };
        guarded(|| {
            drop(engine);
            Ok(())
        })
        .and(outcome)
    }
}

impl Engine {
    /// Makes everything applied so far durable.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(failed)?;
        Point::BeforeSync.pass();
        let reached = self.log_position();
        (self.sync_data)(&self.db_file).map_err(|error| StoreError::Io(format!("sync: {error}")))?;
        self.blobs.sync().map_err(|error| StoreError::Io(format!("sync: {error}")))?;
        self.synced.store(reached, Ordering::Relaxed);
        let_go();
        Ok(())
    }

    /// Syncs when sled has written about as much since the last time as it may.
    pub fn sync_when_due(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(failed)?;
        if self.log_position() - self.synced.load(Ordering::Relaxed) > UNSYNCED_LOG_BYTES {
            return self.sync();
        }
        Ok(())
    }

    /// How far sled has handed its log to the operating system, in bytes of all it ever wrote.
    pub fn log_position(&self) -> i64 {
        self.db.context.pagecache.log.stable_offset()
    }

    /// Reads the store's own value, or writes a new one into an engine that is as new as the missing card says.
    fn meta(&self, dir: &Path, card: Option<Card>) -> Result<Meta, StoreError> {
        let stored = self.db.get(META_KEY).map_err(failed)?;
        let Some(value) = stored else {
            if let Some(card) = card {
                return Err(came_back(dir, "is empty", &card, 0));
            }
            if self.db.iter().next().is_some() {
                return Err(open_error(dir, format!("its description is missing. {WAY_OUT}")));
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
            .ok_or_else(|| open_error(dir, format!("its description is damaged. {WAY_OUT}")))?;
        refuse_newer(dir, meta.format)?;
        match card {
            Some(card) if card.identity != meta.identity => Err(open_error(
                dir,
                "syncline.store and the sled directory belong to different stores. Restore both from one copy",
            )),
            Some(card) if card.committed > meta.committed => Err(came_back(dir, "is older", &card, meta.committed)),
            Some(_) => Ok(meta),
            None => {
                if meta.committed > 0 {
                    warn!(dir = %dir.display(), "syncline.store was missing and is written anew");
                }
                Ok(meta)
            }
        }
    }
}

impl Writer {
    fn write_card(&mut self, dir: &Path) -> io::Result<()> {
        let Meta { identity, format, committed, .. } = self.meta;
        Card { identity, format, committed }.write(dir)?;
        self.card_committed = committed;
        Ok(())
    }
}

/// Opens sled, whatever it does when it meets damage.
fn open_engine(dir: &Path, engine_dir: &Path, clean_every_ms: Option<u64>, known: bool) -> Result<Db, StoreError> {
    let config = sled::Config::new()
        .path(engine_dir)
        .cache_capacity(CACHE_BYTES)
        .segment_size(segment_bytes(engine_dir))
        .flush_every_ms(clean_every_ms)
        .use_compression(false);
    let way_out = if known {
        WAY_OUT
    } else {
        "Nothing was ever reported as saved here: if the directory is a new one, remove its sled directory and start again"
    };
    let mut tries = ENGINE_LOCK_TRIES;
    loop {
        let what = match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => format!("its files are damaged ({})", words(panic.as_ref())),
        };
        if what.contains("could not acquire lock") && tries > 0 {
            tries -= 1;
            thread::sleep(ENGINE_LOCK_PAUSE);
            continue;
        }
        let way_out = if what.contains(NO_SPACE) { FREE_SPACE } else { way_out };
        return Err(open_error(dir, format!("{what}. {way_out}")));
    }
}

/// sled's error as ours.
pub(super) fn failed(error: sled::Error) -> StoreError {
    StoreError::Io(error.to_string())
}

/// Runs `work`, with a panic in it as an error.
fn guarded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(StoreError::Io(format!("the engine stopped at damage or a fault of its own: {}", words(panic.as_ref()))))
    })
}

/// What a panic said.
pub(super) fn words(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(words), _) => words,
        (_, Some(words)) => words,
        _ => "no message",
    }
}

#[cfg(test)]
mod tests;
