//! Runs a [`Session`] on Tokio: one task owns the session and its socket, a [`Client`] is a handle to it.

mod task;
mod url;

use std::time::Duration;

use rand::RngExt;
use syncline_protocol::detect::Dialect;
use syncline_protocol::ids::{DocumentName, NameError};
use syncline_protocol::varint::MAX_SAFE_INTEGER;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use yrs::{Transaction, TransactionMut};

use super::session::{AckKnowledge, Echo, Session, SessionConfig, SessionOutputs};
use crate::backoff::BackoffConfig;
use crate::socket::Endpoint;
use task::{Driver, Reply};

/// Capacity of the command queue; callers wait while it is full.
const MAX_QUEUED_COMMANDS: usize = 256;

/// Settings of a [`Client`]. [`ClientConfig::new`] has the defaults.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The server's address, as `ws://host:port`, with a path if the server needs one. `wss://` is not supported.
    pub url: String,
    /// The document name; for y-websocket it becomes the last segment of the URL, exactly as given.
    pub document: String,
    /// The server's dialect.
    pub dialect: Dialect,
    /// The access token: sent as the URL parameter `token` in y-websocket, as a message in Hocuspocus.
    pub token: Option<String>,
    /// The meaning of an echo of a y-websocket server.
    pub echo: Echo,
    /// Delays between attempts to connect.
    pub backoff: BackoffConfig,
    /// Largest accepted message of the server, in bytes. Default: 64 MiB. The first sync of a document is one message.
    pub max_message_bytes: usize,
    /// Timeout of one attempt to connect. Default: 10 s.
    pub connect_timeout: Duration,
}

impl ClientConfig {
    /// Returns the default settings for a document on a server.
    pub fn new(url: impl Into<String>, document: impl Into<String>, dialect: Dialect) -> Self {
        Self {
            url: url.into(),
            document: document.into(),
            dialect,
            token: None,
            echo: Echo::default(),
            backoff: BackoffConfig::default(),
            max_message_bytes: 64 * 1024 * 1024,
            connect_timeout: Duration::from_secs(10),
        }
    }
}

/// Why an operation on a [`Client`] failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClientError {
    /// The document name is not valid.
    #[error(transparent)]
    BadDocumentName(#[from] NameError),
    /// The server's address is not valid.
    #[error("invalid server address {url}: {reason}")]
    BadUrl {
        /// The address of [`ClientConfig::url`].
        url: String,
        /// What is wrong with the address.
        reason: String,
    },
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
    /// The server denied access, with its reason.
    #[error("the server denied access: {0}")]
    Denied(String),
    /// The server refused some edits; they are in the local document only.
    #[error("the server refused {0} edits; they are in the local document only and are not saved")]
    Refused(u64),
}

/// The state of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// Offline on request: there are no attempts to connect.
    Offline,
    /// An attempt to connect is running.
    Connecting,
    /// The connection is open.
    Connected,
    /// The last connection or attempt failed, with the reason; the next attempt is scheduled.
    Waiting(String),
    /// The server rejected the client, with the reason; there are no further attempts.
    Denied(String),
    /// Closed on request.
    Closed,
}

/// The state of a [`Client`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The state of the connection.
    pub connection: Connection,
    /// True if the document contains everything that the server had when this connection was opened.
    pub synced: bool,
    /// True if the server grants read access only.
    pub read_only: bool,
    /// Number of local edits that the server has not confirmed as saved.
    pub unsaved: u64,
    /// Number of those that the server refused.
    pub refused: u64,
    /// Whether the server acknowledges saved edits at all.
    pub acks: AckKnowledge,
    /// Number of remote updates that changed the document.
    pub remote_updates: u64,
    /// Number of changes of other clients' awareness states.
    pub presence_changes: u64,
}

/// A handle to an in-memory document that is synced with a server. Cheap to clone; its task ends with [`Client::close`],
/// or when the last handle is dropped.
///
/// ```no_run
/// use syncline_client::{Client, ClientConfig, Dialect};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::connect(ClientConfig::new("ws://127.0.0.1:1234", "page", Dialect::YWebsocket))?;
/// client.wait_until_synced().await?;
/// println!("{}", client.text("body").await?);
/// client.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    commands: mpsc::Sender<DriverCommand>,
    status: watch::Receiver<Status>,
}

type SessionWork = Box<dyn FnOnce(&mut Session, &mut SessionOutputs) -> Reply + Send>;

enum DriverCommand {
    /// Runs a closure on the session; its reply is sent after the status was updated.
    Session(SessionWork),
    GoOffline,
    GoOnline,
    Close,
}

impl Client {
    /// Starts a task that connects, and reconnects when the connection is lost. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::BadDocumentName`] or [`ClientError::BadUrl`]. A server that is unreachable is not an error.
    pub fn connect(config: ClientConfig) -> Result<Self, ClientError> {
        let session = Session::new(SessionConfig {
            document: DocumentName::parse(&config.document)?,
            dialect: config.dialect,
            token: config.token.clone().unwrap_or_default(),
            echo: config.echo,
            client_id: rand::rng().random_range(1..=MAX_SAFE_INTEGER),
        });
        let endpoint = endpoint(&config)?;
        let (commands, inbox) = mpsc::channel(MAX_QUEUED_COMMANDS);
        let (publish, status) = watch::channel(Status {
            connection: Connection::Connecting,
            synced: false,
            read_only: false,
            unsaved: 0,
            refused: 0,
            acks: session.ack_knowledge(),
            remote_updates: 0,
            presence_changes: 0,
        });
        tokio::spawn(Driver::new(endpoint, config.backoff, session, inbox, publish).run());
        Ok(Self { commands, status })
    }

    /// Changes the document, online or offline, and returns the closure's result. The closure runs in the client's task:
    /// keep it short.
    ///
    /// # Errors
    /// [`ClientError::Closed`] after [`Client::close`].
    pub async fn edit<R: Send + 'static>(
        &self,
        change: impl FnOnce(&mut TransactionMut<'_>) -> R + Send + 'static,
    ) -> Result<R, ClientError> {
        self.with_session(move |session, out| session.edit(change, out)).await
    }

    /// Reads the document and returns the closure's result. The closure runs in the client's task: keep it short.
    ///
    /// # Errors
    /// [`ClientError::Closed`] after [`Client::close`].
    pub async fn read<R: Send + 'static>(
        &self,
        look: impl FnOnce(&Transaction<'_>) -> R + Send + 'static,
    ) -> Result<R, ClientError> {
        self.with_session(move |session, _| session.read(look)).await
    }

    /// Returns the content of the root text named `root`; empty if there is none.
    ///
    /// # Errors
    /// [`ClientError::Closed`] after [`Client::close`].
    pub async fn text(&self, root: &str) -> Result<String, ClientError> {
        use yrs::{GetString, ReadTxn};
        let root = root.to_owned();
        self.read(move |txn| txn.get_text(root).map(|text| text.get_string(txn)).unwrap_or_default()).await
    }

    /// Sets this client's awareness state (JSON), which other clients see, or clears it.
    ///
    /// # Errors
    /// [`ClientError::Closed`] after [`Client::close`].
    pub async fn set_presence(&self, state: Option<String>) -> Result<(), ClientError> {
        self.with_session(move |session, out| session.set_presence(state, out)).await
    }

    /// Returns client id and awareness state (JSON) of every other client.
    ///
    /// # Errors
    /// [`ClientError::Closed`] after [`Client::close`].
    pub async fn presence(&self) -> Result<Vec<(u64, String)>, ClientError> {
        self.with_session(|session, _| session.presence().map(|(id, state)| (id, state.to_owned())).collect()).await
    }

    /// Returns a channel that follows the status.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Waits until the document contains everything that the server has. Continues to wait while offline and across lost
    /// connections.
    ///
    /// # Errors
    /// [`ClientError::Closed`] or [`ClientError::Denied`].
    pub async fn wait_until_synced(&self) -> Result<(), ClientError> {
        self.wait_for(|status| status.synced.then_some(Ok(()))).await
    }

    /// Waits until every edit made before this call is on the server's disk. With a server that does not acknowledge
    /// edits (see [`AckKnowledge::Unknown`]) this never returns: use a timeout with unknown servers.
    ///
    /// # Errors
    /// [`ClientError::Closed`], [`ClientError::Denied`], or [`ClientError::Refused`] if the server refused an edit.
    pub async fn wait_until_saved(&self) -> Result<(), ClientError> {
        self.wait_for(|status| match (status.unsaved, status.refused) {
            (0, _) => Some(Ok(())),
            (_, 0) => None,
            (_, refused) => Some(Err(ClientError::Refused(refused))),
        })
        .await
    }

    /// Closes the connection and does not reconnect until [`Client::go_online`]. The document can still be edited.
    ///
    /// # Errors
    /// [`ClientError::Closed`] after [`Client::close`].
    pub async fn go_offline(&self) -> Result<(), ClientError> {
        self.command(DriverCommand::GoOffline).await?;
        self.wait_for(|status| (status.connection == Connection::Offline).then_some(Ok(()))).await
    }

    /// Connects again, also after [`Connection::Denied`].
    ///
    /// # Errors
    /// [`ClientError::Closed`] after [`Client::close`].
    pub async fn go_online(&self) -> Result<(), ClientError> {
        self.command(DriverCommand::GoOnline).await
    }

    /// Sends queued frames, closes the connection and ends the task. Unsaved edits are lost: call
    /// [`Client::wait_until_saved`] first.
    pub async fn close(&self) {
        if self.command(DriverCommand::Close).await.is_ok() {
            // An error means that the task has ended, which is the goal.
            drop(self.status.clone().wait_for(|status| status.connection == Connection::Closed).await);
        }
    }

    async fn command(&self, command: DriverCommand) -> Result<(), ClientError> {
        self.commands.send(command).await.map_err(|_| ClientError::Closed)
    }

    async fn with_session<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session, &mut SessionOutputs) -> R + Send + 'static,
    ) -> Result<R, ClientError> {
        let (answer, result) = oneshot::channel();
        let command = DriverCommand::Session(Box::new(move |session, out| {
            let done = work(session, out);
            // The caller may have been cancelled; the work is done anyway.
            Box::new(move || drop(answer.send(done)))
        }));
        self.command(command).await?;
        result.await.map_err(|_| ClientError::Closed)
    }

    async fn wait_for(
        &self,
        mut done: impl FnMut(&Status) -> Option<Result<(), ClientError>>,
    ) -> Result<(), ClientError> {
        let mut status = self.status.clone();
        let mut result = Err(ClientError::Closed);
        let seen = status.wait_for(|status| {
            let outcome = done(status).or_else(|| match &status.connection {
                Connection::Closed => Some(Err(ClientError::Closed)),
                Connection::Denied(reason) => Some(Err(ClientError::Denied(reason.clone()))),
                _ => None,
            });
            match outcome {
                Some(outcome) => {
                    result = outcome;
                    true
                }
                None => false,
            }
        });
        match seen.await {
            Ok(_) => result,
            Err(_) => Err(ClientError::Closed),
        }
    }
}

fn endpoint(config: &ClientConfig) -> Result<Endpoint, ClientError> {
    Endpoint::new(&url::url_of(config), config.max_message_bytes, config.connect_timeout)
        .map_err(|reason| ClientError::BadUrl { url: config.url.clone(), reason })
}
