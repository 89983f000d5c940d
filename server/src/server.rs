//! Listening, upgrading, stopping: the order in which things begin and end.
//!
//! Stopping goes the way data goes: no new connections; sessions are told to come back and end; documents put
//! everything on disk and end; the log commits, closes its store and ends. The first two have a deadline, the log never.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{HeaderName, SEC_WEBSOCKET_PROTOCOL};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::admin::{self, Admin, AdminSocket};
use crate::auth::Authorize;
use crate::config::Config;
use crate::document::DocumentOptions;
use crate::http::{self, Readiness};
use crate::ids::{Counter, SessionId, UserId};
use crate::limits::{Gate, Unfinished};
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::session::{self, Context, Stop};
use syncline_log::Log;
use syncline_log::store::{Store, StoreError};
use syncline_replica::GrowthLimits;

/// How long a client may take to send its request headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long sessions may take to end when the server stops.
const SESSIONS_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that may wait to be accepted; the system allows no more by itself. With fewer, those who come together
/// after a restart are answered a second later.
const BACKLOG: u32 = 4096;
/// Pause after a failed accept (out of file descriptors): others may free some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", explain_bind(.error))]
pub struct ListenError {
    address: SocketAddr,
    error: io::Error,
}

fn explain_bind(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the address is in use by another process; stop it, or choose another with --listen".into()
        }
        _ => error.to_string(),
    }
}

/// An address that is ours. Taken before the store is opened: a second server should not touch the disk.
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Takes `address`; port 0 takes any that is free.
    pub async fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let failed = |error| ListenError { address, error };
        let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }.map_err(failed)?;
        // As `TcpListener::bind` does.
        socket.set_reuseaddr(true).map_err(failed)?;
        socket.bind(address).map_err(failed)?;
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }
}

/// A running server.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
    sessions: TaskTracker,
    admin: TaskTracker,
    /// Ends commands: a backup is stopped, an import's lease goes.
    admin_stop: CancellationToken,
    log: Log,
}

struct Shared {
    context: Arc<Context>,
    log: Log,
    session_ids: Counter,
    sessions: TaskTracker,
    /// Where a proxy says who a user is.
    user_header: Option<HeaderName>,
}

impl Server {
    /// Starts on `listener`. Documents lie in `store`; `auth` decides who may do what.
    pub fn start(listener: Listener, config: &Config, store: Arc<dyn Store>, auth: Arc<dyn Authorize>) -> Self {
        let Listener { listener, address } = listener;
        let metrics = Arc::new(Metrics::default());
        let log = Log::start_with(store, config.commit_delay);
        let growth = GrowthLimits {
            bytes: config.limits.document_bytes,
            clients: config.limits.document_clients,
            ..GrowthLimits::default()
        };
        let presence_bytes = config.limits.presence_bytes;
        let options = DocumentOptions { growth, presence_bytes, ..DocumentOptions::new(config.idle_unload) };
        let registry = Registry::new(log.clone(), options, Arc::clone(&metrics));
        let sessions = TaskTracker::new();
        let gate = Gate::new(config.limits, Arc::clone(&metrics));
        let context = Context { registry, auth, gate, limits: config.session, metrics, stop: Stop::default() };
        let shared = Arc::new(Shared {
            context: Arc::new(context),
            log: log.clone(),
            session_ids: Counter::default(),
            sessions: sessions.clone(),
            user_header: config.user_header.clone(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        let (admin, admin_stop) = (TaskTracker::new(), CancellationToken::new());
        Self { address, shared, accepting, sessions, admin, admin_stop, log }
    }

    /// Takes operators' commands from `socket`, until it stops.
    pub fn serve_admin(&self, socket: AdminSocket) {
        let (log, registry) = (self.log.clone(), Arc::clone(&self.shared.context.registry));
        let admin = Arc::new(Admin { log, registry, stop: self.admin_stop.clone() });
        self.admin.spawn(admin::run(socket, admin));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has counted.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.context.metrics
    }

    /// Who is connected.
    pub fn gate(&self) -> &Gate {
        &self.shared.context.gate
    }

    /// How many documents are in memory.
    pub fn open_documents(&self) -> usize {
        self.shared.context.registry.len()
    }

    /// Stops: every client is told to come back, and everything is on disk when this returns.
    pub async fn stop(self) -> Result<(), StoreError> {
        let context = &self.shared.context;
        context.stop.cancel();
        self.admin_stop.cancel();
        self.accepting.await.ok();
        self.sessions.close();
        if tokio::time::timeout(SESSIONS_TIMEOUT, self.sessions.wait()).await.is_err() {
            warn!(left = self.sessions.len(), "some sessions did not end in time; their sockets are cut");
            // Documents wait for their last lease: without this a session that is stuck would hold up the stop.
            context.stop.cut();
            self.sessions.wait().await;
        }
        self.admin.close();
        self.admin.wait().await;
        context.registry.stop().await;
        self.log.close().await;
        self.log.failed().map_or(Ok(()), Err)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.context.stop.cancelled() => return,
        };
        match accepted {
            Ok((socket, peer)) => {
                // Small frames must leave at once; a socket that refuses the option still works.
                socket.set_nodelay(true).ok();
                let unfinished = shared.context.gate.arrive();
                let shared = Arc::clone(&shared);
                tokio::spawn(connection(socket, peer, unfinished, shared));
            }
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                shared.context.gate.cut_oldest();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What a connection is until one of its requests makes it a session.
struct Arrived {
    peer: SocketAddr,
    /// Goes with the session.
    unfinished: Mutex<Option<Unfinished>>,
    shared: Arc<Shared>,
}

async fn connection(socket: TcpStream, peer: SocketAddr, unfinished: Unfinished, shared: Arc<Shared>) {
    let context = Arc::clone(&shared.context);
    let cut = unfinished.cut();
    let arrived = Arrived { peer, unfinished: Mutex::new(Some(unfinished)), shared };
    let service = service_fn(move |request| {
        let response = respond(request, &arrived);
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    let serve = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    tokio::select! {
        served = serve => if let Err(error) = served { debug!(%peer, %error, "HTTP connection ended") },
        () = context.stop.cancelled() => {}
        () = cut.cancelled() => debug!(%peer, "cut to make room: it had not said what it wants"),
    }
}

fn respond(mut request: Request<Incoming>, arrived: &Arrived) -> Response<Full<Bytes>> {
    let shared = &arrived.shared;
    if !is_upgrade(&request) {
        return http::answer(request.method(), request.uri().path(), || readiness(shared));
    }
    // tungstenite checks the request by RFC 6455 section 4.2.1 and computes the accept key.
    let bare = strip_body(&request);
    let mut response = match create_response_with_body(&bare, Full::default) {
        Ok(response) => response,
        Err(error) => {
            let mut response = Response::new(Full::from(format!("not a WebSocket handshake: {error}\n")));
            *response.status_mut() = hyper::StatusCode::BAD_REQUEST;
            return response;
        }
    };
    // A client that offers subprotocols (y-websocket's `protocols`) expects one of them.
    if let Some(offered) = request.headers().get(SEC_WEBSOCKET_PROTOCOL)
        && let Some(first) = offered.to_str().ok().and_then(|offered| offered.split(',').next())
        && let Ok(first) = first.trim().parse()
    {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, first);
    }
    let path = request.uri().path();
    // One slash only: a name may begin with the next.
    let path = path.strip_prefix('/').unwrap_or(path).to_owned();
    let upgrade = hyper::upgrade::on(&mut request);
    let unfinished = arrived.unfinished.lock().unwrap_or_else(PoisonError::into_inner).take();
    let user = shared.user_header.as_ref().and_then(|name| request.headers().get(name));
    let user = user.map(|user| String::from_utf8_lossy(user.as_bytes())).filter(|user| !user.is_empty());
    let user = user.map(|user| UserId::from(&*user));
    let id = SessionId(shared.session_ids.next());
    begin_session(upgrade, session::Peer { id, path, address: arrived.peer.ip(), user, unfinished }, shared);
    response
}

fn begin_session(upgrade: OnUpgrade, peer: session::Peer, shared: &Arc<Shared>) {
    let context = Arc::clone(&shared.context);
    shared.sessions.spawn(async move {
        let parts = match upgrade.await.map(|upgraded| upgraded.downcast::<TokioIo<TcpStream>>()) {
            Ok(Ok(parts)) => parts,
            Ok(Err(_)) | Err(_) => return debug!(session = %peer.id, "the client left during the upgrade"),
        };
        context.metrics.sessions.inc();
        debug!(session = %peer.id, path = peer.path, "session begins");
        session::run(parts.io.into_inner(), parts.read_buf, peer, context).await;
    });
}

fn is_upgrade(request: &Request<Incoming>) -> bool {
    let upgrade = request.headers().get(hyper::header::UPGRADE);
    upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

fn strip_body(request: &Request<Incoming>) -> Request<()> {
    let mut bare = Request::new(());
    *bare.method_mut() = request.method().clone();
    *bare.uri_mut() = request.uri().clone();
    *bare.version_mut() = request.version();
    *bare.headers_mut() = request.headers().clone();
    bare
}

fn readiness(shared: &Shared) -> Readiness {
    if shared.context.stop.is_cancelled() {
        return Readiness::Stopping;
    }
    match shared.log.failed() {
        Some(failure) => Readiness::StorageFailed(format!("edits are not taken: {failure}")),
        None => Readiness::Ready,
    }
}

/// Waits for SIGTERM or SIGINT.
pub async fn stop_signal() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let which = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    info!(signal = which, "stopping: clients are told to come back, everything goes to disk");
    Ok(())
}
