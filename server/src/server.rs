//! Starts and stops the server: the order in which its parts begin and end.
//!
//! Stopping follows the data flow: no new connections are accepted; sessions ask their clients to reconnect and
//! end; documents write everything to disk and end; the log commits, closes its store and ends. Sessions and
//! documents have a deadline, after which sockets are cut and unacknowledged work is dropped; the log has none.

mod accept;
mod descriptors;
mod operator_listeners;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderName;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use self::descriptors::Descriptors;
use crate::admin::AdminSocket;
use crate::auth::Authorize;
use crate::config::Config;
use crate::document::DocumentOptions;
use crate::document::usage::MemoryLimits;
use crate::http::operator::Operator;
use crate::http::origin::AllowedOrigins;
use crate::http::prefix::PathPrefix;
use crate::http::routes::{self, Readiness};
use crate::ids::Counter;
use crate::limits::Gate;
use crate::log_limit;
use crate::metrics::Metrics;
use crate::outbox::Budget;
use crate::registry::Registry;
use crate::session::{Context, Stream};
use syncline_log::store::{Store, StoreError};
use syncline_log::{Figures, Log};
use syncline_replica::{HubLimits, Superseded};

/// How long sessions may take to end when the server stops.
const SESSIONS_TIMEOUT: Duration = Duration::from_millis(2_500);
/// How long the stop waits for sessions whose sockets were cut.
const CUT_TIMEOUT: Duration = Duration::from_millis(250);
/// How long documents may work on updates: from the start of the stop, and at least from the end of the last session.
const WORK_TIMEOUT: Duration = Duration::from_secs(3);
const MIN_WORK_TIMEOUT: Duration = Duration::from_millis(250);
/// Maximum number of connections waiting to be accepted, Linux's default upper limit. With fewer, clients that
/// reconnect together after a restart are delayed by a second.
const BACKLOG: u32 = 4096;
/// Pause after a failed accept, so that resources may become free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", explain_bind(.error))]
pub struct ListenError {
    address: SocketAddr,
    error: io::Error,
}

impl ListenError {
    /// True if another process listens on the address.
    pub fn is_in_use(&self) -> bool {
        self.error.kind() == io::ErrorKind::AddrInUse
    }
}

fn explain_bind(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the address is in use by another process".into(),
        _ => error.to_string(),
    }
}

/// A bound address. Bind before the store is opened: a second server should not touch the disk.
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens on `address`; port 0 chooses a free port.
    pub async fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let failed = |error| ListenError { address, error };
        let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }.map_err(failed)?;
        // `TcpListener::bind` does the same.
        socket.set_reuseaddr(true).map_err(failed)?;
        socket.bind(address).map_err(failed)?;
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }
}

/// Passes connections to a running server that it has not accepted itself: over Unix-domain sockets, or over any stream
/// that implements [`Stream`]. They are counted and limited like those of its own address, but no file descriptors are
/// reserved for the store before they are accepted.
///
/// ```
/// # use std::sync::Arc;
/// # use syncline_log::memory::MemoryStore;
/// # use syncline_server::{Listener, Server, auth::OpenToAll, config::RawConfig};
/// # async fn example() -> anyhow::Result<()> {
/// # let config = RawConfig::default().check()?;
/// # let listener = Listener::bind(config.listen).await?;
/// let server = Server::start(listener, &config, Arc::new(MemoryStore::new()), Arc::new(OpenToAll));
/// let (connections, local) = (server.connections(), ([127, 0, 0, 1], 0).into());
/// let unix = tokio::net::UnixListener::bind("/run/syncline/clients.sock")?;
/// tokio::spawn(async move {
///     while let Ok((socket, _)) = unix.accept().await {
///         connections.serve(socket, local);
///     }
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Connections(Arc<ServerContext>);

impl Connections {
    /// Serves a connection until it ends or the server stops. `peer` is the address for which it is counted, and which the
    /// log and the authorizer see.
    pub fn serve<S: Stream>(&self, socket: S, peer: SocketAddr) {
        let unfinished = self.0.context.services.gate.arrive();
        tokio::spawn(accept::run(socket, peer, unfinished, Arc::clone(&self.0)));
    }
}

/// A running server.
pub struct Server {
    address: SocketAddr,
    shared: Arc<ServerContext>,
    accepting: tokio::task::JoinHandle<()>,
    sessions: TaskTracker,
    admin: TaskTracker,
    /// Ends admin requests: cancels a backup and closes an import's lease.
    admin_stop: CancellationToken,
    log: Log,
}

struct ServerContext {
    context: Arc<Context>,
    log: Log,
    /// Answers the requests to the main port that are not WebSocket handshakes.
    routes: routes::Public,
    session_ids: Counter,
    sessions: TaskTracker,
    /// Request header in which a proxy names the user.
    user_header: Option<HeaderName>,
    /// Web pages that may connect.
    allow_origin: AllowedOrigins,
    /// Path prefix that a proxy keeps in forwarded requests.
    path_prefix: PathPrefix,
}

impl Server {
    /// Starts a server on `listener` with the documents in `store`; `auth` decides on access.
    pub fn start(listener: Listener, config: &Config, store: Arc<dyn Store>, auth: Arc<dyn Authorize>) -> Self {
        let Listener { listener, address } = listener;
        let metrics = Arc::new(Metrics::default());
        let log = Log::start_with(store, config.commit_delay);
        let hub_limits = HubLimits {
            bytes: config.limits.document_bytes,
            clients: config.limits.document_clients,
            ..HubLimits::default()
        };
        let superseded = Superseded::default();
        let options = DocumentOptions {
            hub_limits,
            awareness_bytes: config.limits.presence_bytes,
            superseded: superseded.clone(),
            memory: MemoryLimits { bytes: config.limits.open_bytes, documents: config.limits.open_documents },
            ..DocumentOptions::new(config.idle_unload)
        };
        let registry = Registry::new(log.clone(), options, Arc::clone(&metrics));
        registry.keep_within_bounds();
        let sessions = TaskTracker::new();
        let gate = Gate::new(config.limits, Arc::clone(&metrics));
        let outboxes = Budget::with_superseded(config.limits.outbox_bytes_in_all, superseded);
        let context = Context::new(registry, auth, gate, config.session, outboxes);
        let readiness = {
            let (context, log) = (Arc::clone(&context), log.clone());
            move || readiness(&context, &log)
        };
        let shared = Arc::new(ServerContext {
            context,
            log: log.clone(),
            routes: routes::Public::new(config.path_prefix.clone(), readiness),
            session_ids: Counter::default(),
            sessions: sessions.clone(),
            user_header: config.user_header.clone(),
            allow_origin: config.allow_origin.clone(),
            path_prefix: config.path_prefix.clone(),
        });
        let accepting = tokio::spawn(accept(listener, Connections(Arc::clone(&shared))));
        tokio::spawn(log_suppressed(Arc::clone(&shared.context)));
        let (admin, admin_stop) = (TaskTracker::new(), CancellationToken::new());
        Self { address, shared, accepting, sessions, admin, admin_stop, log }
    }

    /// Serves operators' commands on `socket` until the server stops.
    pub fn serve_admin(&self, socket: AdminSocket) {
        let operator = Operator::new(self.log.clone(), Arc::clone(&self.shared.context.services.registry));
        let router = routes::operator(Arc::new(operator));
        self.admin.spawn(operator_listeners::ADMIN.run(socket, router, self.admin_stop.clone()));
    }

    /// Serves `/metrics` on `listener` until the server stops. Returns the bound address.
    pub fn serve_metrics(&self, listener: Listener) -> SocketAddr {
        let Listener { listener, address } = listener;
        let shared = Arc::clone(&self.shared);
        let router = routes::metrics(move || shared.context.services.metrics.page(&operator_listeners::now(&shared)));
        self.admin.spawn(operator_listeners::METRICS.run(listener, router, self.admin_stop.clone()));
        address
    }

    /// Passes further connections to this server.
    pub fn connections(&self) -> Connections {
        Connections(Arc::clone(&self.shared))
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.context.services.metrics
    }

    /// Connection counts and limits.
    #[doc(hidden)]
    pub fn gate(&self) -> &Gate {
        &self.shared.context.services.gate
    }

    /// Figures of the log.
    pub fn log_figures(&self) -> Figures {
        self.shared.log.figures()
    }

    /// Number of documents in memory.
    pub fn open_documents(&self) -> usize {
        self.shared.context.services.registry.len()
    }

    /// Estimated bytes of memory of the open documents.
    pub fn open_bytes(&self) -> usize {
        self.shared.context.services.registry.memory_bytes()
    }

    /// Stops the server: asks every client to reconnect later. When this returns, everything is on disk.
    ///
    /// Errors: the storage error, if the store has failed.
    pub async fn stop(self) -> Result<(), StoreError> {
        let context = &self.shared.context;
        let work_deadline = Instant::now() + WORK_TIMEOUT;
        context.stop.cancel();
        self.admin_stop.cancel();
        self.accepting.await.ok();
        self.sessions.close();
        if timeout(SESSIONS_TIMEOUT, self.sessions.wait()).await.is_err() {
            warn!(left = self.sessions.len(), "some sessions did not end in time; their sockets are cut");
            // Documents wait for their last lease: a stuck session must not delay the stop.
            context.stop.cut();
            // A session that is only sending its close frame holds no lease.
            tokio::time::timeout(CUT_TIMEOUT, self.sessions.wait()).await.ok();
        }
        log_counts(context.services.log_limit.take_counts(None));
        self.admin.close();
        self.admin.wait().await;
        context.services.registry.stop(work_deadline.max(Instant::now() + MIN_WORK_TIMEOUT)).await;
        self.log.close().await;
        self.log.failed().map_or(Ok(()), Err)
    }
}

async fn accept(listener: TcpListener, connections: Connections) {
    let shared = &connections.0;
    let mut descriptors = Descriptors::of_this_process();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.context.stop.cancelled() => return,
        };
        match accepted {
            Ok((socket, peer)) => {
                if !descriptors.admit(&socket, &shared.context.services.gate) {
                    descriptors::reject(socket);
                    continue;
                }
                // Small frames must be sent without delay; a socket that refuses the option still works.
                socket.set_nodelay(true).ok();
                connections.serve(socket, peer);
            }
            Err(error) => {
                if let Some(not_logged) = shared.context.services.log_limit.admit(("accept failed", 0), Instant::now())
                {
                    warn!(%error, not_logged, "cannot accept a connection");
                }
                shared.context.services.gate.cut_oldest();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Logs once a minute how many lines were suppressed (`log_limit.rs`).
async fn log_suppressed(context: Arc<Context>) {
    while timeout(log_limit::PERIOD, context.stop.cancelled()).await.is_err() {
        log_counts(context.services.log_limit.take_counts(Some(Instant::now())));
    }
}

fn log_counts(counts: Vec<(log_limit::Kind, u64)>) {
    for ((kind, code), count) in counts {
        info!(kind, code, count, "repeated lines suppressed; RUST_LOG=debug logs each of them");
    }
}

fn readiness(context: &Context, log: &Log) -> Readiness {
    if context.stop.is_cancelled() {
        return Readiness::Stopping;
    }
    match log.failed() {
        Some(failure) => Readiness::StorageFailed(format!("edits are rejected: {failure}")),
        None => Readiness::Ready,
    }
}
