//! What the rest of the server holds of the log: [`Log`] and, for each open document, [`DocumentLog`].

mod append;
mod figures;
mod reading;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task;

use self::figures::Counts;
pub use self::figures::Figures;
use self::reading::Reading;
use super::backup::{self, BackupError, Cancel, Pace};
use super::store::{Record, Salvaged, Snapshot, Store, StoreError, Stored};
use super::thread::{self, Committer, Running};

/// Commands waiting for the log's thread. When full, handing in waits.
pub const MAX_QUEUED_COMMANDS: usize = 16 * 1024;
/// Bytes of updates and snapshots waiting or being committed. When full, handing in waits; one command that is
/// larger alone passes alone.
pub const MAX_QUEUED_BYTES: usize = 64 << 20;

/// How much of a document's log is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    /// The last record known to be on disk.
    pub upto: Seq,
    /// Nothing will follow: the store failed, or the log was closed under this document.
    pub failed: bool,
}

/// The log of all documents. Cheap to clone. When the last handle of any kind is dropped the log's thread commits what
/// is queued and closes the store; [`Log::close`] does the same and waits for it.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

/// The log of one document, for its task.
pub struct DocumentLog {
    document: Arc<Document>,
    epoch: Epoch,
    /// The last record handed in. Written by [`DocumentLog::append`].
    last: AtomicU64,
    /// What [`DocumentLog::durable_changed`] reported last.
    seen: Durable,
    progress: watch::Receiver<Progress>,
    commands: mpsc::Sender<Command>,
    room: Arc<Semaphore>,
}

impl Log {
    /// Starts the log's thread on `store`. No commit waits.
    ///
    /// Panics when the operating system has no thread to give.
    pub fn start(store: Arc<dyn Store>) -> Self {
        Self::start_with(store, Duration::ZERO)
    }

    /// [`Log::start`]; commits begin this far apart while many documents change.
    pub fn start_with(store: Arc<dyn Store>, commit_distance: Duration) -> Self {
        let (log, queue) = Self::new(store, Blocking::OnPool);
        let committer = Committer::new(Arc::clone(&log.shared), queue);
        *lock(&log.shared.thread) = Some(thread::spawn(committer, commit_distance));
        log
    }

    /// A log without a thread, for simulation: nothing is committed but by the [`Committer`], and what blocks runs where
    /// it is asked for.
    pub fn by_hand(store: Arc<dyn Store>) -> (Self, Committer) {
        let (log, queue) = Self::new(store, Blocking::InPlace);
        let committer = Committer::new(Arc::clone(&log.shared), queue);
        (log, committer)
    }

    fn new(store: Arc<dyn Store>, blocking: Blocking) -> (Self, mpsc::Receiver<Command>) {
        let (commands, queue) = mpsc::channel(MAX_QUEUED_COMMANDS);
        let shared = Shared {
            store,
            blocking,
            reading: Arc::default(),
            documents: Mutex::default(),
            failed: watch::Sender::new(None),
            room: Arc::new(Semaphore::new(MAX_QUEUED_BYTES)),
            counts: Counts::default(),
            thread: Mutex::default(),
        };
        (Self { shared: Arc::new(shared), commands }, queue)
    }

    /// Reads a document and checks it, after what is queued for it is committed. `None`: there is no such document.
    ///
    /// Errors: those of [`Store::load`]. After a storage error documents can still be read, as far as they are durable.
    pub async fn load(&self, document: &DocumentName) -> Result<Option<Stored>, StoreError> {
        let live = self.shared.documents().get(document).and_then(Weak::upgrade);
        if let Some(live) = live {
            live.settled().await;
        }
        let (store, document) = (Arc::clone(&self.shared.store), document.clone());
        self.read(move || store.load(&document)).await
    }

    /// Reads what can be read of a document that [`Log::load`] calls damaged.
    pub async fn salvage(&self, document: &DocumentName) -> Result<Salvaged, StoreError> {
        let (store, document) = (Arc::clone(&self.shared.store), document.clone());
        self.read(move || store.salvage(&document)).await
    }

    /// Every document's name, without order.
    pub async fn list(&self) -> Result<Vec<DocumentName>, StoreError> {
        let store = Arc::clone(&self.shared.store);
        self.read(move || store.list()).await
    }

    /// Does work that takes long on the blocking pool. `None`: it did not end, for the program stops.
    pub async fn aside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
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
            Blocking::OnPool => self.shared.reading.run(read).await,
            Blocking::InPlace => Some(read()),
        };
        read.unwrap_or_else(|| Err(StoreError::Io("reading was interrupted".into())))
    }

    /// Takes a backup of everything that is committed, beside the commits. Dropping the future does not stop it: `cancel`
    /// does. See [`backup::take`].
    pub async fn back_up(
        &self,
        dir: PathBuf,
        pace: Pace,
        cancel: Cancel,
        mut report: impl FnMut(backup::Progress) + Send + 'static,
    ) -> Result<backup::Taken, BackupError> {
        let store = Arc::clone(&self.shared.store);
        let taken = self.aside(move || backup::take(&*store, &dir, pace, &cancel, &mut report)).await;
        taken.unwrap_or(Err(BackupError::Cancelled))
    }

    /// Forgets a document, durably. Only for a document that nobody has open.
    ///
    /// Errors: [`StoreError::Closed`], or the error that the log latched.
    pub async fn delete(&self, document: &DocumentName) -> Result<(), StoreError> {
        let (reply, outcome) = oneshot::channel();
        let command = Command::Delete { document: document.clone(), reply };
        self.commands.send(command).await.map_err(|_| StoreError::Closed)?;
        outcome.await.unwrap_or(Err(StoreError::Closed))
    }

    /// The handle for a document that was loaded with, or begins with, `last` as its last record. `epoch` is written
    /// with the first record of a new document.
    pub fn document(&self, name: DocumentName, epoch: Epoch, last: Seq) -> DocumentLog {
        let durable = Durable { upto: last, failed: false };
        let document = Arc::new(Document {
            name: name.clone(),
            progress: watch::Sender::new(Progress { durable, done: 0 }),
            queued: AtomicU64::new(0),
            commit: AtomicU64::new(0),
            shared: Arc::downgrade(&self.shared),
        });
        let mut documents = self.shared.documents();
        documents.insert(name, Arc::downgrade(&document));
        // Under the lock under which the latch goes through all documents: one of the two sees the other.
        if self.shared.failed.borrow().is_some() {
            document.fail();
        }
        drop(documents);
        let progress = document.progress.subscribe();
        DocumentLog {
            document,
            epoch,
            last: AtomicU64::new(last.0),
            seen: durable,
            progress,
            commands: self.commands.clone(),
            room: Arc::clone(&self.shared.room),
        }
    }

    /// The first storage error, after which nothing is committed.
    pub fn failed(&self) -> Option<StoreError> {
        self.shared.failed.borrow().clone()
    }

    /// [`Log::failed`], to wait on.
    pub fn watch_failed(&self) -> watch::Receiver<Option<StoreError>> {
        self.shared.failed.subscribe()
    }

    /// Commits what is queued, closes the store and ends the thread. What is handed in later fails. A second call
    /// returns when the first is through.
    pub async fn close(&self) {
        // An error says that the thread is ending already.
        self.commands.send(Command::Close).await.ok();
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
    /// What is on disk now.
    pub fn durable(&self) -> Durable {
        self.progress.borrow().durable
    }

    /// Waits until [`DocumentLog::durable`] is another than this method returned last, and returns it.
    pub async fn durable_changed(&mut self) -> Durable {
        let seen = self.seen;
        // This handle keeps the sender alive: waiting cannot end otherwise.
        if let Ok(progress) = self.progress.wait_for(|progress| progress.durable != seen).await {
            self.seen = progress.durable;
        }
        self.seen
    }

    /// The same, for a task of its own.
    pub fn watch(&self) -> DurableWatch {
        DurableWatch { progress: self.document.progress.subscribe(), seen: self.durable() }
    }
}

/// Watches how much of a document's log is on disk.
pub struct DurableWatch {
    progress: watch::Receiver<Progress>,
    seen: Durable,
}

impl DurableWatch {
    /// Waits until it is another than before. `None`: the document's handle is gone.
    pub async fn changed(&mut self) -> Option<Durable> {
        let seen = self.seen;
        self.seen = self.progress.wait_for(|progress| progress.durable != seen).await.ok()?.durable;
        Some(self.seen)
    }
}

/// What the log's thread is asked to do. `room` is given back when the command is done.
pub(super) enum Command {
    Append { document: Arc<Document>, epoch: Epoch, records: Vec<Record>, room: OwnedSemaphorePermit },
    Compact { document: Arc<Document>, snapshot: Snapshot, room: OwnedSemaphorePermit },
    Delete { document: DocumentName, reply: oneshot::Sender<Result<(), StoreError>> },
    Close,
}

/// Where work that blocks is done.
#[derive(Debug, Clone, Copy)]
enum Blocking {
    OnPool,
    InPlace,
}

/// What handles and thread share.
pub(super) struct Shared {
    pub store: Arc<dyn Store>,
    blocking: Blocking,
    reading: Arc<Reading>,
    /// Documents with a handle or a queued command. A document removes itself when it is dropped.
    documents: Mutex<BTreeMap<DocumentName, Weak<Document>>>,
    /// The latch. Written once, by the thread.
    failed: watch::Sender<Option<StoreError>>,
    room: Arc<Semaphore>,
    pub counts: Counts,
    thread: Mutex<Option<Running>>,
}

impl Shared {
    /// Latches the first error and tells every document. Returns whether it was the first.
    pub fn latch(&self, error: &StoreError) -> bool {
        let is_first = self.failed.send_if_modified(|failed| {
            let is_first = failed.is_none();
            failed.get_or_insert_with(|| error.clone());
            is_first
        });
        // Dropping a document takes the lock: not while it is held.
        let live: Vec<_> = self.documents().values().filter_map(Weak::upgrade).collect();
        for document in &live {
            document.fail();
        }
        is_first
    }

    pub fn latched(&self) -> Option<StoreError> {
        self.failed.borrow().clone()
    }

    fn documents(&self) -> MutexGuard<'_, BTreeMap<DocumentName, Weak<Document>>> {
        lock(&self.documents)
    }
}

/// What a document's handles and queued commands share.
pub(super) struct Document {
    pub name: DocumentName,
    progress: watch::Sender<Progress>,
    /// Commands handed in. Written by [`DocumentLog`].
    queued: AtomicU64,
    /// The last commit it was in; zero: none yet. Written by the log's thread.
    pub commit: AtomicU64,
    shared: Weak<Shared>,
}

#[derive(Debug, Clone, Copy)]
struct Progress {
    durable: Durable,
    /// Commands that are through, one way or the other.
    done: u64,
}

impl Document {
    /// Reports that `commands` more are on disk, the last record among them being `upto`.
    pub fn committed(&self, upto: Option<Seq>, commands: u64) {
        self.progress.send_modify(|progress| {
            progress.durable.upto = upto.unwrap_or(progress.durable.upto).max(progress.durable.upto);
            progress.done += commands;
        });
    }

    /// Reports that `commands` more were dropped.
    pub fn dropped(&self, commands: u64) {
        self.progress.send_modify(|progress| {
            progress.durable.failed = true;
            progress.done += commands;
        });
    }

    fn fail(&self) {
        self.dropped(0);
    }

    /// Waits until everything handed in so far is through.
    async fn settled(&self) {
        let queued = self.queued.load(Ordering::Relaxed);
        let mut progress = self.progress.subscribe();
        // `self` keeps the sender alive: waiting cannot end otherwise.
        progress.wait_for(|progress| progress.done >= queued).await.ok();
    }
}

impl Drop for Document {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut documents = shared.documents();
        // A later handle of the same name may have taken the place.
        if documents.get(&self.name).is_some_and(|document| document.strong_count() == 0) {
            documents.remove(&self.name);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
