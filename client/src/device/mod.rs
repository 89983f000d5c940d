//! A device: its store, its identity, and one connection for all its documents.
//!
//! ```text
//! task.rs        the task that owns the device's state
//! connection.rs  messages from and to the server, reconnecting
//! clock.rs       clock correction from the server's time
//! identity.rs    the device's id and clock offset, in a file
//! net.rs         connection states: off, connecting, up, waiting, stopped
//! storage.rs     opening the store, and reopening it after a failure
//! open.rs        an open document: its core, its journal, its subscribers
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

pub(crate) use self::open::{Work, WorkContext, read};
use crate::backoff::BackoffConfig;
use crate::document::Document;
use crate::stock::driver::Connection;

/// Capacity of the command queue; callers wait while it is full.
const MAX_QUEUED_COMMANDS: usize = 256;

/// A wall clock. Apps use [`SystemClock`]; a simulation has its own.
pub trait WallClock: Send + Sync + 'static {
    /// Returns milliseconds since the Unix epoch. The value may jump and may be wrong.
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

/// Opens a store. May block; it is called on a blocking thread.
pub type StoreOpener = Arc<dyn Fn() -> Result<Arc<dyn Store>, StoreError> + Send + Sync>;

/// Settings of a device. [`DeviceConfig::new`] has the defaults.
#[derive(Clone)]
pub struct DeviceConfig {
    /// Directory of the device's store and identity. Created if it does not exist; only one process can use it at a time.
    pub directory: PathBuf,
    /// The server's address, as `ws://host:port`. `wss://` is not supported yet.
    pub url: String,
    /// Access token sent to the server, if the server requires one. Default: none.
    pub token: Option<String>,
    /// Name of the user, stored with writes to versioned registers and choice registers. Default: empty.
    pub author: String,
    /// Delays between attempts to connect.
    pub backoff: BackoffConfig,
    /// The wall clock. Default: [`SystemClock`].
    pub clock: Arc<dyn WallClock>,
    /// Opens another store instead of sled in `directory`, for tests that inject faults. Called again after a storage
    /// error. Default: none.
    pub open_store: Option<StoreOpener>,
    /// Start offline: do not connect until [`Device::go_online`]. Default: false.
    pub offline: bool,
    /// Timeout of one attempt to connect. Default: 10 s.
    pub connect_timeout: Duration,
    /// Time without a message from the server after which the connection is dropped; a ping is sent after half of it.
    /// Default: 30 s.
    pub silence: Duration,
    /// Largest accepted message of the server, in bytes. Default: 256 MiB. The first sync of a document is one message.
    pub max_message_bytes: usize,
}

impl DeviceConfig {
    /// Returns the default settings for a device directory and a server address.
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

/// Why an operation on a device or a document failed.
#[derive(Debug, Clone, Error)]
pub enum DeviceError {
    /// The document name is not valid.
    #[error(transparent)]
    BadDocumentName(#[from] NameError),
    /// The server's address is not valid.
    #[error("invalid server address {url}: {reason}")]
    BadUrl {
        /// The address of [`DeviceConfig::url`].
        url: String,
        /// What is wrong with the address.
        reason: String,
    },
    /// The device's store cannot be opened, read or written.
    #[error("the device's store failed: {0}")]
    Store(#[from] StoreError),
    /// The device's directory cannot be used.
    #[error("cannot use the device's directory {}: {reason}", directory.display())]
    Directory {
        /// The directory of [`DeviceConfig::directory`].
        directory: PathBuf,
        /// The error of the operating system.
        reason: String,
    },
    /// The document cannot be encoded.
    #[error("the document cannot be encoded: {0}")]
    Broken(String),
    /// The server has another history of the document; see [`crate::SyncState::HistoryChanged`].
    #[error(
        "the history of the document changed on the server; call `rebase` to keep unsaved edits or `discard` to drop them"
    )]
    HistoryChanged,
    /// The document was deleted on the server.
    #[error("the document was deleted on the server; the local copy is kept and can be exported")]
    Deleted,
    /// The server rejected the request or some edits, or the request is not possible now; the text is the reason.
    #[error("refused: {0}")]
    Refused(String),
    /// The device was closed.
    #[error("the device is closed")]
    Closed,
}

/// Network traffic since the device was opened: WebSocket payloads, without frame headers and handshakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes sent to the server.
    pub sent_bytes: u64,
    /// Messages sent to the server.
    pub sent_messages: u64,
    /// Bytes received from the server.
    pub received_bytes: u64,
    /// Messages received from the server.
    pub received_messages: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    sent_bytes: AtomicU64,
    sent_messages: AtomicU64,
    received_bytes: AtomicU64,
    received_messages: AtomicU64,
}

/// A handle to a device: the local store of one user's documents, and their connection to the server.
///
/// Handles are cheap to clone. The device's task ends with [`Device::close`], or when the last handle of any kind
/// (device, document, shared type) is dropped.
///
/// ```no_run
/// use syncline_client::{Device, DeviceConfig};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let device = Device::open(DeviceConfig::new("./my-device", "ws://127.0.0.1:1234")).await?;
/// let document = device.document("shopping").await?;
/// document.list("items").push("milk".into()).await?; // Now on this device's disk.
/// document.wait_until_saved().await?; // Now on the server's disk.
/// device.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Device {
    id: Ulid,
    commands: Commands,
    connection: watch::Receiver<Connection>,
    traffic: Arc<Counters>,
}

/// A command to the device's task.
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
    /// Runs a closure on an open document. `writes` is true if it may change the document.
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
    /// Opens the document on the server again, unless it is open there.
    Reopen {
        document: DocumentName,
    },
    /// Retries to open the store after a failure.
    ReopenStore,
    /// Changes the device itself; `done` is sent afterwards.
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

/// Sends commands to the device's task.
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
        // The sender is dropped without an error once the work has started.
        match refusal.await {
            Ok(error) => Err(error),
            Err(_) => Ok(()),
        }
    }
}

impl Device {
    /// Opens the device's store and starts to connect, unless [`DeviceConfig::offline`] is set. Must be called within a
    /// Tokio runtime. Does not wait for the connection; a server that is unreachable is not an error.
    ///
    /// # Errors
    /// [`DeviceError::BadUrl`] if the address is invalid; [`DeviceError::Directory`] or [`DeviceError::Store`] if the
    /// directory or the store cannot be opened. The text is the reason: in use by another process, damaged, disk full.
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

    /// Returns the device's id, generated when its directory was first used.
    pub fn id(&self) -> Ulid {
        self.id
    }

    /// Opens a document from the device's store, empty if it is new to this device, and syncs it in the background from
    /// now on. Does not wait for the server.
    ///
    /// # Errors
    /// [`DeviceError::BadDocumentName`] if the name is not valid, [`DeviceError::Store`] if the store cannot be read,
    /// [`DeviceError::Closed`] after the device was closed. A damaged journal is not an error: see
    /// [`Document::take_problems`].
    pub async fn document(&self, name: &str) -> Result<Document, DeviceError> {
        let document = DocumentName::parse(name)?;
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::OpenDocument { document, reply }).await?;
        let mut document = answer.await.map_err(|_| DeviceError::Closed)??;
        document.commands = self.commands.clone();
        Ok(document)
    }

    /// Returns the names of all documents in the device's store.
    ///
    /// # Errors
    /// [`DeviceError::Store`] if the store cannot be read, [`DeviceError::Closed`] after the device was closed.
    pub async fn documents(&self) -> Result<Vec<String>, DeviceError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Documents { reply }).await?;
        answer.await.map_err(|_| DeviceError::Closed)?
    }

    /// Closes the connection and does not reconnect until [`Device::go_online`]. Documents can still be edited.
    pub async fn go_offline(&self) {
        self.change(Change::GoOffline).await;
    }

    /// Connects now, without waiting for the next attempt. Also retries after [`Connection::Denied`].
    pub async fn go_online(&self) {
        self.change(Change::GoOnline).await;
    }

    /// Sets the access token for future requests, and retries documents and edits that the server refused.
    pub async fn set_token(&self, token: Option<String>) {
        self.change(Change::SetToken(token)).await;
    }

    /// Sends a change to the task and waits until it is done. Does nothing if the device is closed.
    async fn change(&self, change: Change) {
        let (done, is_done) = oneshot::channel();
        if self.commands.send(Command::Device { change, done }).await.is_ok() {
            is_done.await.ok();
        }
    }

    /// Returns the current state of the connection.
    pub fn connection(&self) -> Connection {
        self.connection.borrow().clone()
    }

    /// Returns a channel that follows the state of the connection.
    pub fn watch_connection(&self) -> watch::Receiver<Connection> {
        self.connection.clone()
    }

    /// Returns the network traffic since the device was opened.
    pub fn traffic(&self) -> Traffic {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            sent_bytes: get(&self.traffic.sent_bytes),
            sent_messages: get(&self.traffic.sent_messages),
            received_bytes: get(&self.traffic.received_bytes),
            received_messages: get(&self.traffic.received_messages),
        }
    }

    /// Closes the connection and ends the device's task. When this returns, all accepted edits are on the device's disk
    /// and the directory can be opened again.
    pub async fn close(self) {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Close { reply }).await.is_ok() {
            drop(answer.await);
        }
    }
}
