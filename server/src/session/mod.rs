//! One WebSocket connection: timers, a writer and a reader in one task; when one ends, so do the others.
//!
//! ```text
//! frames.rs         socket -> frames
//! echo.rs           echo server for WebSocket conformance tests
//! reader.rs         incoming frames: the first starts the handler of a dialect (`dialect/`), which gets the others
//! wire.rs           a socket in two halves
//! timers.rs         timers: pings, heartbeats, time limits
//! rate_limit.rs     rate limit and unfinished messages
//! identity.rs       what the log shows about a session
//! shutdown.rs       all sessions, to close them when the server stops
//! fuzzing.rs        fuzz target for the frame decoder
//! ```

mod echo;
mod frames;
#[doc(hidden)]
pub(crate) mod fuzzing;
mod identity;
mod rate_limit;
mod reader;
mod shutdown;
mod timers;
mod wire;

use std::future::poll_fn;
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Duration;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::limits::DEFAULT_MAX_MESSAGE_BYTES;
use syncline_protocol::update::ScanLimits;
use tokio::io::AsyncRead;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info};

use self::frames::Frames;
use self::identity::SessionIdentity;
use self::rate_limit::{RateLimitedSocket, RateLimiter};
use self::reader::{ReadEnd, SessionReader};
pub(crate) use self::shutdown::Stop;
use self::timers::{Liveness, Timers};
pub use self::wire::{Socket, Stream, Wire};
use crate::auth::{Authorize, Handshake};
use crate::dialect::{MessageLimits, Services, SessionAccess};
use crate::ids::{SessionId, UserId};
use crate::limits::{Gate, SessionUsers, Unfinished};
use crate::log_limit::LogLimit;
use crate::outbox::{Broken, Budget, Outbox};
use crate::registry::Registry;
use crate::websocket;

/// Time limit for sending the close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the peer's remaining bytes are read and dropped after the close frame: closing a socket with
/// unread bytes resets it, and the peer would never see the close code.
const LINGER: Duration = Duration::from_secs(2);

/// Limits of one session.
#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    /// Maximum size of a message in bytes.
    pub message_bytes: usize,
    /// Bytes queued for a socket before its reader falls behind.
    pub outbox_bytes: usize,
    /// Maximum number of documents in one Hocuspocus or native session.
    pub documents: usize,
    /// How long a new connection may send nothing.
    pub first_frame: Duration,
    /// How long a Hocuspocus connection may take to send a token or open a document.
    pub authentication: Duration,
    /// A session that sends nothing for this long, not even a pong, is closed.
    pub silence: Duration,
    /// How long a message may take from its first byte to its last, at the slowest allowed rate, and how long no
    /// byte of it may arrive (`rate_limit.rs`).
    pub message_time: Duration,
    /// Interval of the session's timers, from which pings and heartbeats follow (`timers.rs`).
    pub tick: Duration,
    /// A socket that accepts no byte for this long is closed.
    pub write_stall: Duration,
    /// Limits on the contents of an update.
    pub scan: ScanLimits,
    /// Echoes every message, texts too, and opens no document: for WebSocket conformance tests.
    #[doc(hidden)]
    pub echoes: bool,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
            outbox_bytes: 1024 * 1024,
            documents: 1_000,
            first_frame: Duration::from_secs(30),
            authentication: Duration::from_secs(60),
            silence: Duration::from_secs(60),
            message_time: Duration::from_secs(30),
            tick: Duration::from_secs(7),
            write_stall: Duration::from_secs(30),
            scan: ScanLimits::default(),
            echoes: false,
        }
    }
}

/// State shared by all sessions of a server.
pub struct Context {
    /// What the handlers of the dialects use, too.
    pub services: Arc<Services>,
    /// Limits of each session.
    pub limits: SessionLimits,
    /// Byte count of all outboxes.
    pub outboxes: Arc<Budget>,
    /// Closes every session when the server stops.
    pub stop: Stop,
}

impl Context {
    /// For a server without sessions. `auth` decides on access.
    pub fn new(
        registry: Arc<Registry>,
        auth: Arc<dyn Authorize>,
        gate: Arc<Gate>,
        limits: SessionLimits,
        outboxes: Arc<Budget>,
    ) -> Arc<Self> {
        let (metrics, log_limit) = (Arc::clone(registry.metrics()), LogLimit::default());
        let SessionLimits { message_bytes, documents, scan, .. } = limits;
        let message_limits = MessageLimits { message_bytes, documents, scan };
        let services = Services { registry, auth, gate, metrics, log_limit, limits: message_limits };
        Arc::new(Self { services: Arc::new(services), limits, outboxes, stop: Stop::default() })
    }
}

/// The connection of a session.
pub struct Peer {
    /// Unique number of the session.
    pub id: SessionId,
    /// The request that began the session.
    pub handshake: Handshake,
    /// The user, as named by a trusted proxy.
    pub user: Option<UserId>,
    /// Its place among the connections that have not sent a first message.
    pub unfinished: Option<Unfinished>,
}

/// Starts a session on an upgraded connection. The future runs it until it ends.
pub fn run<S: Socket>(
    socket: S,
    read_already: Bytes,
    peer: Peer,
    context: Arc<Context>,
) -> impl Future<Output = ()> + Send {
    // Built before the future: the arguments of an `async fn` are stored in it twice, and thousands of
    // sessions are idle.
    let (read, wire) = socket.split();
    let outbox = Outbox::with_wire(context.limits.outbox_bytes, Arc::clone(&context.outboxes), wire);
    let outbox = ConnectedOutbox(Arc::new(outbox));
    let Peer { id, handshake, user, mut unfinished } = peer;
    let address = handshake.address().ip();
    let access = Arc::new(SessionAccess::new(handshake));
    if let Some(unfinished) = &mut unfinished {
        unfinished.cut_by(&outbox);
    }
    let mut read_already = Box::<[u8]>::from(&read_already[..]);
    let users = SessionUsers::new(&context.services.gate, address);
    let seats = context.services.gate.enter(address).and_then(|seat| Ok((seat, users.admit(user.as_ref())?)));
    if let Err(close) = &seats {
        outbox.close(close.clone());
    }
    let refused_user = if seats.is_err() { user } else { None };
    let seats = seats.ok();
    let limiter = RateLimiter::new(id, &context, seats.as_ref().map(|(seat, _)| seat), &users, &outbox);
    async move {
        let _entry = context.stop.enter(id, &outbox);
        // Moved into the future to be released at the end.
        let _seats = &seats;
        let read_first = std::mem::take(&mut read_already);
        let mut frames = Frames::new(RateLimitedSocket::new(read, &limiter), &read_first, context.limits.message_bytes);
        drop(read_first);
        if context.limits.echoes {
            frames.read_texts();
        }
        let liveness = Liveness::default();
        let timers = pin!(sleep_until(Instant::now()));
        let mut timers = Timers::new(timers, &context, &liveness, &limiter);
        let mut reader = SessionReader::new(&context, &outbox, &users, &access, &liveness, &limiter, &mut unfinished);
        let ended = drive(&mut reader, &mut frames, &outbox, &mut timers).await;
        let session = SessionLabel { id, access: &access, refused_user: refused_user.as_ref() };
        if let Some(last_frame) = last_frame(&session, ended, &context) {
            Box::pin(close_gracefully(&mut frames, &outbox, last_frame)).await;
        }
    }
}

/// Closes the socket when the session ends: documents may hold its outbox for longer.
struct ConnectedOutbox(Arc<Outbox>);

impl Deref for ConnectedOutbox {
    type Target = Arc<Outbox>;

    fn deref(&self) -> &Arc<Outbox> {
        &self.0
    }
}

impl Drop for ConnectedOutbox {
    fn drop(&mut self) {
        self.0.disconnect();
    }
}

/// Data of a session for its last log line.
struct SessionLabel<'a> {
    id: SessionId,
    access: &'a SessionAccess,
    /// The user, if the session was refused because the user has too many connections.
    refused_user: Option<&'a UserId>,
}

impl SessionLabel<'_> {
    fn log(&self, close: &Close, identity: &SessionIdentity, context: &Context) {
        let SessionIdentity { dialect, document, documents, user } = identity;
        let (session, code, reason) = (self.id, close.code(), &*close.reason());
        let handshake = self.access.handshake();
        let address = handshake.address().ip();
        let path = if document.is_none() { Some(handshake.path()) } else { None };
        let user = user.as_deref().or(self.refused_user.map(UserId::as_str));
        let (document, documents) = (document.as_deref(), *documents);
        match context.services.log_limit.admit(("session closed", code), Instant::now()) {
            Some(not_logged) => info!(
                %session, %address, dialect, document, documents, path, user, code, reason, not_logged,
                "session closed by the server"
            ),
            None => debug!(
                %session, %address, dialect, document, documents, path, user, code, reason,
                "session closed by the server"
            ),
        }
    }
}

/// The close frame for a client that is still connected.
fn last_frame(label: &SessionLabel<'_>, ended: SessionEnd, context: &Context) -> Option<Vec<u8>> {
    let session = label.id;
    match ended {
        SessionEnd::ByClient(None) => debug!(%session, "the client disconnected"),
        SessionEnd::ByClient(Some(code)) => {
            debug!(%session, "the client closed the session");
            return Some(websocket::close_frame(code, ""));
        }
        SessionEnd::Broken => debug!(%session, "the connection failed"),
        SessionEnd::Closed(close, identity) => {
            context.services.metrics.sessions_closed.count(&close);
            label.log(&close, &identity, context);
            return Some(websocket::close_frame(Some(close.code()), &close.reason()));
        }
    }
    None
}

/// How a session ended.
enum SessionEnd {
    /// The client disconnected, or sent a close frame with or without a code.
    ByClient(Option<Option<u16>>),
    Broken,
    /// The server closed it. The client is sent the reason.
    Closed(Close, Box<SessionIdentity>),
}

/// Reads and writes concurrently until one of them ends, then ends the other.
async fn drive(
    reader: &mut SessionReader<'_>,
    frames: &mut Frames<impl AsyncRead + Unpin>,
    outbox: &Outbox,
    timers: &mut Timers<'_>,
) -> SessionEnd {
    let mut poll_write = |cx: &mut task::Context<'_>| match timers.poll(cx, outbox) {
        Poll::Ready(Broken) => Poll::Ready(Err(Broken)),
        Poll::Pending => outbox.poll_write(cx),
    };
    let read_end = {
        let mut read = pin!(reader.run(frames));
        // The writer first: it registers the task to be woken for the notices that the reader looks for.
        poll_fn(|cx| match poll_write(cx) {
            Poll::Ready(written) => Poll::Ready(Err(written)),
            Poll::Pending => read.as_mut().poll(cx).map(Ok),
        })
        .await
    };
    // A session that the client ended is not described in the log.
    let identity = match read_end {
        Err(Ok(_)) | Ok(ReadEnd::Refused(_)) => Some(reader.identity()),
        _ => None,
    };
    // Everything received so far is already with the documents, except an incomplete message.
    reader.leave();
    frames.skip();
    let ended = |written| match (written, identity) {
        (Ok(close), Some(identity)) => SessionEnd::Closed(close, identity),
        _ => SessionEnd::Broken,
    };
    match read_end {
        Err(written) => ended(written),
        Ok(ReadEnd::Left(code)) => SessionEnd::ByClient(Some(code)),
        Ok(ReadEnd::Gone) => SessionEnd::ByClient(None),
        Ok(ReadEnd::Refused(close)) => {
            outbox.close(close);
            ended(poll_fn(poll_write).await)
        }
    }
}

/// Sends the close frame and waits until the client disconnects, for a limited time.
async fn close_gracefully(frames: &mut Frames<impl AsyncRead + Unpin>, outbox: &Outbox, close_frame: Vec<u8>) {
    if let Ok(Ok(())) = timeout(CLOSE_TIMEOUT, outbox.close_socket(close_frame)).await {
        // Either outcome is fine: the peer disconnected, or the time is over.
        timeout(LINGER, frames.drain()).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use std::mem::size_of_val;

    use syncline_log::Log;
    use syncline_log::memory::MemoryStore;

    use super::*;
    use crate::auth::OpenToAll;
    use crate::document::DocumentOptions;
    use crate::limits::Limits;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn idle_session_is_small() {
        let metrics = Arc::new(Metrics::default());
        let log = Log::start(Arc::new(MemoryStore::new()));
        let registry = Registry::new(log, DocumentOptions::new(Duration::from_secs(1)), Arc::clone(&metrics));
        let gate = Gate::new(Limits::default(), Arc::clone(&metrics));
        let (auth, limits, outboxes) = (Arc::new(OpenToAll), SessionLimits::default(), Budget::new(usize::MAX));
        let context = Context::new(registry, auth, gate, limits, outboxes);
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let handshake = Handshake::new("doc", address);
        let peer = Peer { id: SessionId(1), handshake, user: None, unfinished: None };
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let socket = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let session = run(socket, Bytes::new(), peer, context);
        assert!(size_of_val(&session) <= 1_400, "{}", size_of_val(&session));
    }
}
