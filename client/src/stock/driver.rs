//! Tokio around a [`Session`]: one task owns the session and its socket, a [`Client`] is a
//! handle to it.

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

use super::session::{AckKnowledge, Echo, Outputs, Session, SessionConfig};
use crate::backoff::BackoffConfig;
use crate::socket::Endpoint;
use task::{Driver, Reply};

/// Most commands waiting for the task; more make their callers wait.
const MAX_QUEUED_COMMANDS: usize = 256;

/// Where and how to connect.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The server, as `ws://host:port`, with a path if the server wants one. `wss` is not built in.
    pub url: String,
    /// The document name; for y-websocket it becomes the last part of the URL, exactly as given.
    pub document: String,
    /// The wire format.
    pub dialect: Dialect,
    /// The token: a `token` parameter of the URL in y-websocket, a message in Hocuspocus.
    pub token: Option<String>,
    /// What it means when a y-websocket server echoes.
    pub echo: Echo,
    /// When to come back.
    pub backoff: BackoffConfig,
    /// Largest message taken from the server, in bytes. A first sync of a large document is one message.
    pub max_message_bytes: usize,
    /// Longest wait for a connection to be made.
    pub connect_timeout: Duration,
}

impl ClientConfig {
    /// The usual settings.
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

/// Why a call did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClientError {
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
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
    /// The server will not let this client in.
    #[error("the server refused: {0}")]
    Denied(String),
    /// The server refused some edits; they are in the local document only.
    #[error("the server refused {0} edits; they are kept locally and are not saved")]
    Refused(u64),
}

/// The state of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// By request: no attempt is made.
    Offline,
    /// An attempt is under way.
    Connecting,
    /// The socket is open.
    Connected,
    /// The last connection ended for this reason; the next attempt is coming.
    Waiting(String),
    /// The server said that coming back cannot help.
    Denied(String),
    /// Closed by request.
    Closed,
}

/// What can be watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The connection.
    pub connection: Connection,
    /// Everything the server had when this connection began is here.
    pub synced: bool,
    /// We may look, not change.
    pub read_only: bool,
    /// Local edits that the server has not confirmed as saved.
    pub unsaved: u64,
    /// Of these, how many it refused.
    pub refused: u64,
    /// Whether the server says what is saved at all.
    pub acks: AckKnowledge,
    /// Counts updates by others that changed the document.
    pub remote_updates: u64,
    /// Counts changes of the presence of others.
    pub presence_changes: u64,
}

/// A handle to one document. Cheap to clone; the task behind it ends when [`Client::close`] is called or the last
/// handle is dropped.
#[derive(Clone)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
}

type Work = Box<dyn FnOnce(&mut Session, &mut Outputs) -> Reply + Send>;

enum Command {
    /// Does something with the session; the reply is sent after the status is up to date.
    Session(Work),
    GoOffline,
    GoOnline,
    Close,
}

impl Client {
    /// Starts the task that connects and stays connected. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the name or the URL cannot be used. A server that is not there yet is no error.
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

    /// Changes the document, online or offline, and gives what the closure gave. The closure runs in the client's
    /// task: keep it short.
    ///
    /// # Errors
    /// [`ClientError::Closed`] after [`Client::close`].
    pub async fn edit<R: Send + 'static>(
        &self,
        change: impl FnOnce(&mut TransactionMut<'_>) -> R + Send + 'static,
    ) -> Result<R, ClientError> {
        self.with_session(move |session, out| session.edit(change, out)).await
    }

    /// Looks at the document. The closure runs in the client's task.
    ///
    /// # Errors
    /// [`ClientError::Closed`] after [`Client::close`].
    pub async fn read<R: Send + 'static>(
        &self,
        look: impl FnOnce(&Transaction<'_>) -> R + Send + 'static,
    ) -> Result<R, ClientError> {
        self.with_session(move |session, _| session.read(look)).await
    }

    /// The text of a root type; empty if there is none of this name.
    ///
    /// # Errors
    /// [`ClientError::Closed`] after [`Client::close`].
    pub async fn text(&self, root: &str) -> Result<String, ClientError> {
        use yrs::{GetString, ReadTxn};
        let root = root.to_owned();
        self.read(move |txn| txn.get_text(root).map(|text| text.get_string(txn)).unwrap_or_default()).await
    }

    /// Sets (JSON) or clears what others see of us.
    ///
    /// # Errors
    /// [`ClientError::Closed`] after [`Client::close`].
    pub async fn set_presence(&self, state: Option<String>) -> Result<(), ClientError> {
        self.with_session(move |session, out| session.set_presence(state, out)).await
    }

    /// Everyone else who is here: client id and state as JSON.
    ///
    /// # Errors
    /// [`ClientError::Closed`] after [`Client::close`].
    pub async fn presence(&self) -> Result<Vec<(u64, String)>, ClientError> {
        self.with_session(|session, _| session.presence().map(|(id, state)| (id, state.to_owned())).collect()).await
    }

    /// The status, to look at or to watch.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Waits until everything the server has is here. Waits through lost connections and while offline.
    ///
    /// # Errors
    /// When it can no longer happen: the client is closed or denied.
    pub async fn wait_until_synced(&self) -> Result<(), ClientError> {
        self.wait_for(|status| status.synced.then_some(Ok(()))).await
    }

    /// Waits until every edit made before this call is on the server's disk. A server that does not say
    /// (see [`AckKnowledge::Unknown`]) makes this wait for ever: use a timeout with a server you do not know.
    ///
    /// # Errors
    /// When it can no longer happen: closed, denied, or the server refused an edit.
    pub async fn wait_until_saved(&self) -> Result<(), ClientError> {
        self.wait_for(|status| match (status.unsaved, status.refused) {
            (0, _) => Some(Ok(())),
            (_, 0) => None,
            (_, refused) => Some(Err(ClientError::Refused(refused))),
        })
        .await
    }

    /// Leaves the server and stays away until [`Client::go_online`]. Edits go on.
    ///
    /// # Errors
    /// [`ClientError::Closed`] after [`Client::close`].
    pub async fn go_offline(&self) -> Result<(), ClientError> {
        self.command(Command::GoOffline).await?;
        self.wait_for(|status| (status.connection == Connection::Offline).then_some(Ok(()))).await
    }

    /// Connects again, also after a denial.
    ///
    /// # Errors
    /// [`ClientError::Closed`] after [`Client::close`].
    pub async fn go_online(&self) -> Result<(), ClientError> {
        self.command(Command::GoOnline).await
    }

    /// Sends what is queued, closes the connection and ends the task. What is unsaved then is lost with the process:
    /// call [`Client::wait_until_saved`] before. Returns when it is done.
    pub async fn close(&self) {
        if self.command(Command::Close).await.is_ok() {
            // An error means that the task is gone: just what we wait for.
            drop(self.status.clone().wait_for(|status| status.connection == Connection::Closed).await);
        }
    }

    async fn command(&self, command: Command) -> Result<(), ClientError> {
        self.commands.send(command).await.map_err(|_| ClientError::Closed)
    }

    async fn with_session<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session, &mut Outputs) -> R + Send + 'static,
    ) -> Result<R, ClientError> {
        let (answer, result) = oneshot::channel();
        let command = Command::Session(Box::new(move |session, out| {
            let done = work(session, out);
            // Nobody waiting any more is fine: the work is done all the same.
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
