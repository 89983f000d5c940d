//! One device: its store, its identity, its one socket for all its documents.
//!
//! ```text
//! task.rs        the one task that owns all of it
//! connection.rs  what it does with the network
//! clock.rs       when the server tells the time
//! identity.rs    who this device is, and how wrong its clock
//! net.rs         the socket's life: connecting, up, waiting, off
//! storage.rs     the store: opened, and opened again after it failed
//! open.rs        one open document: its core, its journal, those who watch it
//! ```

mod clock;
mod connection;
mod identity;
mod net;
mod open;
mod storage;
mod task;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use syncline_log::{Store, StoreError};
use syncline_protocol::ids::{DocumentName, NameError};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use ulid::Ulid;

pub(crate) use self::open::{Step, Work, read};
use crate::backoff::BackoffConfig;
use crate::document::Document;
use crate::stock::driver::Connection;

/// Most commands waiting for the task; more make their callers wait.
const MAX_QUEUED_COMMANDS: usize = 256;

/// A wall clock. Apps use [`SystemClock`]; a simulation brings its own.
pub trait WallClock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch. May jump, may be wrong.
    fn now_ms(&self) -> u64;
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Opens a store. Blocks.
pub type StoreOpener = Arc<dyn Fn() -> Result<Arc<dyn Store>, StoreError> + Send + Sync>;

/// How a device is opened.
#[derive(Clone)]
pub struct DeviceConfig {
    /// Where it keeps what is its own. Made if it is not there; one process at a time.
    pub directory: PathBuf,
    /// The server, as `ws://host:port`.
    pub url: String,
    /// The right to its documents.
    pub token: Option<String>,
    /// Who uses it: told with register writes and choices.
    pub author: String,
    /// When to come back.
    pub backoff: BackoffConfig,
    /// What time it is.
    pub clock: Arc<dyn WallClock>,
    /// Opens another store than sled in `directory`: to inject faults. Asked again after a storage error.
    pub open_store: Option<StoreOpener>,
    /// Does not connect until [`Device::go_online`].
    pub offline: bool,
    /// Longest wait for a connection to be made.
    pub connect_timeout: Duration,
    /// Silence of the server after which the connection counts as dead.
    pub silence: Duration,
    /// Largest message taken from the server, in bytes.
    pub max_message_bytes: usize,
}

impl DeviceConfig {
    /// The usual settings.
    pub fn new(directory: impl Into<PathBuf>, url: impl Into<String>) -> Self {
        Self {
            directory: directory.into(),
            url: url.into(),
            token: None,
            author: String::new(),
            backoff: BackoffConfig::default(),
            clock: Arc::new(SystemClock),
            open_store: None,
            offline: false,
            connect_timeout: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            max_message_bytes: 256 * 1024 * 1024,
        }
    }
}

/// Why a call did not do what was asked.
#[derive(Debug, Clone, Error)]
pub enum DeviceError {
    /// The document name breaks the rules.
    #[error(transparent)]
    BadDocumentName(#[from] NameError),
    /// The address cannot be used.
    #[error("cannot connect to {url}: {reason}")]
    BadUrl {
        /// The address.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The device's store cannot be opened, read or written.
    #[error("this device's store: {0}")]
    Store(#[from] StoreError),
    /// The device's directory cannot be used.
    #[error("this device's directory {}: {reason}", directory.display())]
    Directory {
        /// Which.
        directory: PathBuf,
        /// Why.
        reason: String,
    },
    /// The document cannot be encoded.
    #[error("the document cannot be encoded: {0}")]
    Broken(String),
    /// The document has another history at the server.
    #[error("the document's history changed at the server: rebase or discard what is not saved")]
    HistoryChanged,
    /// The document was deleted at the server.
    #[error("the document was deleted at the server; what is here stays and can be exported")]
    Deleted,
    /// The server will not do it.
    #[error("the server refused: {0}")]
    Refused(String),
    /// The device was closed.
    #[error("the device is closed")]
    Closed,
}

/// What went over the wire since the device was opened: WebSocket payloads, without headers and handshakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes to the server.
    pub sent_bytes: u64,
    /// Messages to the server.
    pub sent_messages: u64,
    /// Bytes from the server.
    pub received_bytes: u64,
    /// Messages from the server.
    pub received_messages: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    sent_bytes: AtomicU64,
    sent_messages: AtomicU64,
    received_bytes: AtomicU64,
    received_messages: AtomicU64,
}

/// A handle to one device. Cheap to clone; its task ends by [`Device::close`], or when the last handle of any kind is
/// dropped.
#[derive(Clone)]
pub struct Device {
    id: Ulid,
    commands: Commands,
    connection: watch::Receiver<Connection>,
    traffic: Arc<Counters>,
}

/// What the task is asked to do.
pub(crate) enum Command {
    OpenDocument {
        document: DocumentName,
        reply: oneshot::Sender<Result<Document, DeviceError>>,
    },
    CloseDocument {
        document: DocumentName,
    },
    Documents {
        reply: oneshot::Sender<Result<Vec<String>, DeviceError>>,
    },
    /// Does something with a document. `writes`: it may change it.
    Work {
        document: DocumentName,
        writes: bool,
        work: Work,
        refused: oneshot::Sender<DeviceError>,
    },
    Rebase {
        document: DocumentName,
        reply: oneshot::Sender<Result<(), DeviceError>>,
    },
    /// Opens it at the server again, if it is not.
    Reopen {
        document: DocumentName,
    },
    /// The store failed a while ago: opens it again.
    StoreAgain,
    /// One that changes the device itself; told when done.
    Device {
        change: Change,
        done: oneshot::Sender<()>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

pub(crate) enum Change {
    GoOffline,
    GoOnline,
    SetToken(Option<String>),
}

/// Where commands go.
#[derive(Clone)]
pub(crate) struct Commands(mpsc::Sender<Command>);

impl Commands {
    pub(crate) async fn send(&self, command: Command) -> Result<(), DeviceError> {
        self.0.send(command).await.map_err(|_| DeviceError::Closed)
    }

    pub(crate) async fn write(&self, document: &DocumentName, work: Work) -> Result<(), DeviceError> {
        self.work(document, true, work).await
    }

    pub(crate) async fn look(&self, document: &DocumentName, work: Work) -> Result<(), DeviceError> {
        self.work(document, false, work).await
    }

    async fn work(&self, document: &DocumentName, writes: bool, work: Work) -> Result<(), DeviceError> {
        let (refused, refusal) = oneshot::channel();
        self.send(Command::Work { document: document.clone(), writes, work, refused }).await?;
        // Dropped without a word when the work was begun.
        match refusal.await {
            Ok(error) => Err(error),
            Err(_) => Ok(()),
        }
    }
}

impl Device {
    /// Opens the device's store and begins to connect. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the URL cannot be used, or the store cannot be opened (the message says why: in use, damaged, disk full).
    pub async fn open(config: DeviceConfig) -> Result<Self, DeviceError> {
        let (commands, inbox) = mpsc::channel(MAX_QUEUED_COMMANDS);
        let commands = Commands(commands);
        let (publish, connection) = watch::channel(Connection::Offline);
        let traffic = Arc::new(Counters::default());
        let weak = commands.0.downgrade();
        let task = task::Task::open(config, inbox, weak, publish, Arc::clone(&traffic)).await?;
        let id = task.id();
        tokio::spawn(task.run());
        Ok(Self { id, commands, connection, traffic })
    }

    /// Its identity, drawn when its directory was first used.
    pub fn id(&self) -> Ulid {
        self.id
    }

    /// Opens a document, as this device knows it; it is synced in the background from now on.
    ///
    /// # Errors
    /// When the name breaks the rules or what is stored of it cannot be read.
    pub async fn document(&self, name: &str) -> Result<Document, DeviceError> {
        let document = DocumentName::parse(name)?;
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::OpenDocument { document, reply }).await?;
        let mut document = answer.await.map_err(|_| DeviceError::Closed)??;
        document.commands = self.commands.clone();
        Ok(document)
    }

    /// The names of the documents in the device's store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn documents(&self) -> Result<Vec<String>, DeviceError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Documents { reply }).await?;
        answer.await.map_err(|_| DeviceError::Closed)?
    }

    /// Ends the connection and makes no attempt until [`Device::go_online`]. Editing goes on.
    pub async fn go_offline(&self) {
        self.change(Change::GoOffline).await;
    }

    /// Connects now.
    pub async fn go_online(&self) {
        self.change(Change::GoOnline).await;
    }

    /// Uses another token from now on, and tries again what was refused.
    pub async fn set_token(&self, token: Option<String>) {
        self.change(Change::SetToken(token)).await;
    }

    /// A closed device has nothing to change.
    async fn change(&self, change: Change) {
        let (done, is_done) = oneshot::channel();
        if self.commands.send(Command::Device { change, done }).await.is_ok() {
            is_done.await.ok();
        }
    }

    /// The connection.
    pub fn connection(&self) -> Connection {
        self.connection.borrow().clone()
    }

    /// The same, to wait on.
    pub fn watch_connection(&self) -> watch::Receiver<Connection> {
        self.connection.clone()
    }

    /// What went over the wire.
    pub fn traffic(&self) -> Traffic {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            sent_bytes: get(&self.traffic.sent_bytes),
            sent_messages: get(&self.traffic.sent_messages),
            received_bytes: get(&self.traffic.received_bytes),
            received_messages: get(&self.traffic.received_messages),
        }
    }

    /// Ends the connection and the task; everything is on the device's disk then.
    pub async fn close(self) {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Close { reply }).await.is_ok() {
            drop(answer.await);
        }
    }
}
