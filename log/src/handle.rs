//! The handles to the log: [`Log`], and a [`DocumentLog`] for each open document.

mod append;
mod figures;
mod reading;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use tokio::sync::{oneshot, watch};
use tokio::task;

use self::figures::Counts;
pub use self::figures::Figures;
use self::reading::ReadPool;
use super::backup::{self, BackupError, Cancel, Pace};
use super::queue::{Command, DocumentQueue, Queue, Sender};
use super::store::{Salvaged, Store, StoreError, Stored};
use super::thread::{self, Committer, Running};

/// How much of a document's log is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    /// The last record that is known to be on disk.
    pub upto: Seq,
    /// No later record will become durable: the store failed, or the log was closed.
    pub failed: bool,
}

/// The log of all documents. Cheap to clone. When the last handle of any kind is dropped, the log's thread commits the
/// queued commands and closes the store. [`Log::close`] does the same and waits for it.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    commands: Arc<Sender>,
}

/// The log of one document, for its task.
pub struct DocumentLog {
    document: Arc<Document>,
    epoch: Epoch,
    /// The last record appended. Written by [`DocumentLog::append`].
    last: Seq,
    /// The value that [`DocumentLog::changed`] returned last.
    seen: Durable,
    /// [`DocumentLog::has_room`] returned false.
    waits_for_room: bool,
    progress: watch::Receiver<CommitProgress>,
    commands: Arc<Sender>,
}

impl Log {
    /// Starts the log's thread on `store`. Commits are never delayed.
    ///
    /// Panics if the operating system cannot create the thread.
    pub fn start(store: Arc<dyn Store>) -> Self {
        Self::start_with(store, Duration::ZERO)
    }

    /// [`Log::start`], with commits at least `commit_interval` apart while many documents change.
    pub fn start_with(store: Arc<dyn Store>, commit_interval: Duration) -> Self {
        let (log, committer) = Self::new(store, Blocking::OnPool);
        *lock(&log.shared.thread) = Some(thread::spawn(committer, commit_interval));
        log
    }

    /// A log without a thread, for simulations: only the [`Committer`] commits, and blocking work runs on the caller's
    /// thread.
    pub fn with_committer(store: Arc<dyn Store>) -> (Self, Committer) {
        Self::new(store, Blocking::InPlace)
    }

    fn new(store: Arc<dyn Store>, blocking: Blocking) -> (Self, Committer) {
        let queue = Arc::<Queue>::default();
        let shared = Shared {
            store,
            blocking,
            read_pool: Arc::default(),
            documents: Mutex::default(),
            failed: watch::Sender::new(None),
            counts: Counts::default(),
            thread: Mutex::default(),
        };
        let shared = Arc::new(shared);
        let committer = Committer::new(Arc::clone(&shared), Arc::clone(&queue));
        (Self { shared, commands: Arc::new(Sender::new(queue)) }, committer)
    }

    /// Reads and verifies a document, after its queued commands are committed. `None`: there is no such document.
    ///
    /// Errors: those of [`Store::load`]. After a storage error the durable state of documents can still be read.
    pub async fn load(&self, document: &DocumentName) -> Result<Option<Stored>, StoreError> {
        let live = self.shared.documents().get(document).and_then(Weak::upgrade);
        if let Some(live) = live {
            live.wait_until_done().await;
        }
        let (store, document) = (Arc::clone(&self.shared.store), document.clone());
        self.read(move || store.load(&document)).await
    }

    /// Reads the readable parts of a document for which [`Log::load`] returns [`StoreError::Damaged`].
    pub async fn salvage(&self, document: &DocumentName) -> Result<Salvaged, StoreError> {
        let (store, document) = (Arc::clone(&self.shared.store), document.clone());
        self.read(move || store.salvage(&document)).await
    }

    /// The names of all documents, in no particular order.
    pub async fn list(&self) -> Result<Vec<DocumentName>, StoreError> {
        let store = Arc::clone(&self.shared.store);
        self.read(move || store.list()).await
    }

    /// Runs long work on the blocking pool. `None`: it did not finish, because it panicked or the runtime is shutting
    /// down.
    pub async fn run_blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        match self.shared.blocking {
            Blocking::OnPool => task::spawn_blocking(work).await.ok(),
            Blocking::InPlace => Some(work()),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let read = match self.shared.blocking {
            Blocking::OnPool => self.shared.read_pool.run(read).await,
            Blocking::InPlace => Some(read()),
        };
        read.unwrap_or_else(|| Err(StoreError::Io("the read panicked or was interrupted by a shutdown".into())))
    }

    /// Takes a backup of everything that is committed, while commits continue. Dropping the future does not stop the
    /// backup; `cancel` does. See [`backup::take`].
    pub async fn back_up(
        &self,
        dir: PathBuf,
        pace: Pace,
        cancel: Cancel,
        mut report: impl FnMut(backup::Progress) + Send + 'static,
    ) -> Result<backup::CompletedBackup, BackupError> {
        let store = Arc::clone(&self.shared.store);
        let taken = self.run_blocking(move || backup::take(&*store, &dir, pace, &cancel, &mut report)).await;
        taken.unwrap_or(Err(BackupError::Cancelled))
    }

    /// Removes a document durably. The document must not be open.
    ///
    /// Errors: [`StoreError::Closed`], or the error that the log has latched.
    pub async fn delete(&self, document: &DocumentName) -> Result<(), StoreError> {
        let (reply, outcome) = oneshot::channel();
        // After what a task that has ended has left in the document's queue.
        let live = self.shared.documents().get(document).and_then(Weak::upgrade);
        let document = live.unwrap_or_else(|| Arc::new(Document::new(document.clone(), Seq::ZERO, Weak::new())));
        document.queued.fetch_add(1, Ordering::Relaxed);
        if self.commands.push(&document, Command::Delete { reply }).is_err() {
            document.dropped(1);
            return Err(StoreError::Closed);
        }
        outcome.await.unwrap_or(Err(StoreError::Closed))
    }

    /// The handle for a document whose last record is `last` ([`Seq::ZERO`] for a new one). `epoch` is written with the
    /// first record of a new document.
    pub fn document(&self, name: DocumentName, epoch: Epoch, last: Seq) -> DocumentLog {
        let document = Arc::new(Document::new(name.clone(), last, Arc::downgrade(&self.shared)));
        let mut documents = self.shared.documents();
        documents.insert(name, Arc::downgrade(&document));
        // `Shared::latch` lists the documents under this lock: either it finds this document, or the error is visible here.
        if self.shared.failed.borrow().is_some() {
            document.fail();
        }
        drop(documents);
        let progress = document.progress.subscribe();
        DocumentLog {
            document,
            epoch,
            last,
            seen: Durable { upto: last, failed: false },
            waits_for_room: false,
            progress,
            commands: Arc::clone(&self.commands),
        }
    }

    /// The first storage error, after which nothing is committed. `None`: the store works.
    pub fn failed(&self) -> Option<StoreError> {
        self.shared.failed.borrow().clone()
    }

    /// [`Log::failed`] as a watch.
    pub fn watch_failed(&self) -> watch::Receiver<Option<StoreError>> {
        self.shared.failed.subscribe()
    }

    /// Commits what is queued, closes the store and ends the thread. Later commands fail. A second call returns when
    /// the first has finished.
    pub async fn close(&self) {
        self.commands.close();
        let shared = Arc::clone(&self.shared);
        let join = move || {
            let mut thread = lock(&shared.thread);
            if let Some(running) = thread.take() {
                running.join();
            }
        };
        task::spawn_blocking(join).await.ok();
    }

    #[cfg(test)]
    pub(super) fn take_thread(&self) -> Running {
        lock(&self.shared.thread).take().unwrap()
    }
}

impl DocumentLog {
    /// How much of the document is on disk now.
    pub fn durable(&self) -> Durable {
        self.progress.borrow().durable
    }

    /// Waits until [`DocumentLog::durable`] differs from the value that this method returned last, or, after
    /// [`DocumentLog::has_room`] has returned false, until there is room. Returns the value.
    pub async fn changed(&mut self) -> Durable {
        let Self { seen, waits_for_room, progress, commands, document, .. } = self;
        let has_changed =
            |progress: &CommitProgress| progress.durable != *seen || (*waits_for_room && commands.has_room(document));
        // This handle keeps the sender alive, so the wait cannot fail.
        if let Ok(durable) = progress.wait_for(has_changed).await.map(|progress| progress.durable) {
            self.seen = durable;
            self.waits_for_room = false;
        }
        self.seen
    }

    /// A watch on [`DocumentLog::durable`] for another task.
    pub fn watch(&self) -> DurableWatch {
        DurableWatch { progress: self.document.progress.subscribe(), seen: self.durable() }
    }
}

/// Watches how much of a document's log is on disk.
pub struct DurableWatch {
    progress: watch::Receiver<CommitProgress>,
    seen: Durable,
}

impl DurableWatch {
    /// Waits until the value differs from the last one seen, and returns it. `None`: the [`DocumentLog`] was dropped.
    pub async fn changed(&mut self) -> Option<Durable> {
        let seen = self.seen;
        self.seen = self.progress.wait_for(|progress| progress.durable != seen).await.ok()?.durable;
        Some(self.seen)
    }
}

/// Where blocking work runs.
#[derive(Debug, Clone, Copy)]
enum Blocking {
    OnPool,
    InPlace,
}

/// State shared by the handles and the log's thread.
pub(super) struct Shared {
    pub store: Arc<dyn Store>,
    blocking: Blocking,
    read_pool: Arc<ReadPool>,
    /// Documents with a handle or a queued command. A document removes itself when it is dropped.
    documents: Mutex<BTreeMap<DocumentName, Weak<Document>>>,
    /// The first storage error. Written once, by the log's thread.
    failed: watch::Sender<Option<StoreError>>,
    pub counts: Counts,
    thread: Mutex<Option<Running>>,
}

impl Shared {
    /// Latches the first error and marks every document as failed. Returns whether it was the first.
    pub(crate) fn latch(&self, error: &StoreError) -> bool {
        let is_first = self.failed.send_if_modified(|failed| {
            let is_first = failed.is_none();
            failed.get_or_insert_with(|| error.clone());
            is_first
        });
        // Dropping a document takes this lock, so release it before `live` is dropped.
        let live: Vec<_> = self.documents().values().filter_map(Weak::upgrade).collect();
        for document in &live {
            document.fail();
        }
        is_first
    }

    pub(crate) fn latched(&self) -> Option<StoreError> {
        self.failed.borrow().clone()
    }

    fn documents(&self) -> MutexGuard<'_, BTreeMap<DocumentName, Weak<Document>>> {
        lock(&self.documents)
    }
}

/// State shared by a document's handles and queued commands.
pub(super) struct Document {
    pub name: DocumentName,
    progress: watch::Sender<CommitProgress>,
    /// Commands queued so far. Written by [`DocumentLog`].
    queued: AtomicU64,
    /// The number of the last commit that contained the document; zero: none yet. Written by the log's thread.
    pub commit: AtomicU64,
    /// Its commands for the log's thread.
    pub queue: DocumentQueue,
    shared: Weak<Shared>,
}

#[derive(Debug, Clone, Copy)]
struct CommitProgress {
    durable: Durable,
    /// Commands that were committed or dropped.
    done: u64,
}

impl Document {
    fn new(name: DocumentName, last: Seq, shared: Weak<Shared>) -> Self {
        let durable = Durable { upto: last, failed: false };
        Self {
            name,
            progress: watch::Sender::new(CommitProgress { durable, done: 0 }),
            queued: AtomicU64::new(0),
            commit: AtomicU64::new(0),
            queue: DocumentQueue::default(),
            shared,
        }
    }

    /// Reports that `commands` more commands are on disk. `upto` is the last record among them.
    pub(crate) fn committed(&self, upto: Option<Seq>, commands: u64) {
        self.progress.send_modify(|progress| {
            progress.durable.upto = upto.unwrap_or(progress.durable.upto).max(progress.durable.upto);
            progress.done += commands;
        });
    }

    /// Reports that `commands` more commands were dropped.
    pub(crate) fn dropped(&self, commands: u64) {
        self.progress.send_modify(|progress| {
            progress.durable.failed = true;
            progress.done += commands;
        });
    }

    fn fail(&self) {
        self.dropped(0);
    }

    /// Waits until every command queued so far was committed or dropped.
    async fn wait_until_done(&self) {
        let queued = self.queued.load(Ordering::Relaxed);
        let mut progress = self.progress.subscribe();
        // `self` keeps the sender alive, so the wait cannot fail.
        progress.wait_for(|progress| progress.done >= queued).await.ok();
    }
}

impl Drop for Document {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut documents = shared.documents();
        // A newer handle of the same name may have replaced this entry.
        if documents.get(&self.name).is_some_and(|document| document.strong_count() == 0) {
            documents.remove(&self.name);
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
