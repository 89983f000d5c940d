//! Handles a connection from its first byte until it is a session. The common WebSocket handshake is made here;
//! hyper handles everything else, so its memory is not held by sessions. Nothing here names TCP: any [`Stream`] will do.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::future::{self, Either};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Chain, Join, ReadBuf, ReadHalf, WriteHalf, join, split};
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::ServerContext;
use crate::auth::Handshake;
use crate::http;
use crate::http::handshake::{self, Head, MAX_HEAD_BYTES, Upgrade};
use crate::http::origin::{AllowedOrigins, ForeignOrigin};
use crate::ids::{SessionId, UserId};
use crate::limits::Unfinished;
use crate::session::{self, Stream};

/// How long a client may take to send its request headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes per read of a request head; a typical head is smaller.
const HEAD_READ_BYTES: usize = 2048;

/// A socket for hyper: first yields the bytes that were already read.
type Replayed<S> = Join<Chain<io::Cursor<Bytes>, ReadHalf<S>>, WriteHalf<S>>;

/// Runs a connection until it has ended or become a session.
pub(super) async fn run<S: Stream>(
    mut socket: S,
    address: SocketAddr,
    unfinished: Unfinished,
    shared: Arc<ServerContext>,
) {
    let cut = unfinished.cut();
    let mut read = BytesMut::new();
    let upgrade = tokio::select! {
        upgrade = timeout(HEADER_TIMEOUT, upgrade(&mut socket, &mut read, &shared.allow_origin)) => upgrade,
        () = shared.context.stop.cancelled() => return,
        () = cut.cancelled() => return debug!(address = %address.ip(), "cut to make room: the client had not sent a request"),
    };
    match upgrade {
        Ok(Ok(Some(upgrade))) => {
            let Upgrade { uri, headers, .. } = *upgrade;
            let session = new_session(&uri, headers, address, Some(unfinished), &shared);
            let context = Arc::clone(&shared.context);
            shared.sessions.spawn(session::run(socket, read.freeze(), session, context));
        }
        // Boxed: rare, and a large future.
        Ok(Ok(None)) => Box::pin(serve_http(socket, read.freeze(), address, unfinished, shared)).await,
        Ok(Err(error)) => debug!(address = %address.ip(), %error, "the connection ended before a request"),
        Err(_) => debug!(address = %address.ip(), "no request within the time limit"),
    }
}

/// Makes the WebSocket handshake; `None` if the client sends any other request. Bytes after the handshake, or
/// of the other request, are left in `read`.
async fn upgrade<S: Stream>(
    socket: &mut S,
    read: &mut BytesMut,
    origins: &AllowedOrigins,
) -> io::Result<Option<Box<Upgrade>>> {
    loop {
        let seen = read.len();
        read_some(socket, read).await?;
        match handshake::look(read, seen) {
            Head::Partial => {}
            Head::Other => return Ok(None),
            // The HTTP server refuses it with an explanation.
            Head::Upgrade(upgrade) if origins.check(&upgrade.headers).is_err() => return Ok(None),
            Head::Upgrade(upgrade) => {
                // The session gets the bytes after the head.
                *read = BytesMut::from(&read[upgrade.head_bytes..]);
                socket.write_all(&upgrade.response).await?;
                return Ok(Some(upgrade));
            }
        }
    }
}

/// Appends what has arrived to `read`. While it waits, it holds no buffer.
async fn read_some<S: Stream>(socket: &mut S, read: &mut BytesMut) -> io::Result<()> {
    poll_fn(|cx| {
        let mut bytes = [0; HEAD_READ_BYTES];
        let mut buffer = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut *socket).poll_read(cx, &mut buffer))?;
        read.extend_from_slice(buffer.filled());
        let is_end = buffer.filled().is_empty();
        Poll::Ready(if is_end { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) })
    })
    .await
}

/// Identifies the new session of an upgraded connection.
fn new_session(
    uri: &Uri,
    headers: HeaderMap,
    address: SocketAddr,
    unfinished: Option<Unfinished>,
    shared: &ServerContext,
) -> session::Peer {
    let id = SessionId(shared.session_ids.next());
    let user = shared.user_header.as_ref().and_then(|name| headers.get(name));
    let user = user.map(|user| String::from_utf8_lossy(user.as_bytes())).filter(|user| !user.is_empty());
    let user = user.map(|user| UserId::from(&*user));
    shared.context.services.metrics.sessions.inc();
    let path = shared.path_prefix.strip(handshake::document_path(uri));
    debug!(session = %id, path, "session started");
    let mut handshake = Handshake::new(path, address);
    if shared.context.services.auth.reads_handshake() {
        handshake = handshake.with(uri.query().unwrap_or_default(), headers);
    }
    session::Peer { id, handshake, user, unfinished }
}

/// A connection whose requests hyper reads.
struct HttpConnection {
    address: SocketAddr,
    /// Moves to the session on an upgrade.
    unfinished: Mutex<Option<Unfinished>>,
    shared: Arc<ServerContext>,
}

/// Serves requests other than the common WebSocket handshake.
async fn serve_http<S: Stream>(
    socket: S,
    read: Bytes,
    address: SocketAddr,
    unfinished: Unfinished,
    shared: Arc<ServerContext>,
) {
    let context = Arc::clone(&shared.context);
    let cut = unfinished.cut();
    let connection = HttpConnection { address, unfinished: Mutex::new(Some(unfinished)), shared };
    let service = service_fn(move |request| match is_upgrade(&request) {
        true => Either::Left(future::ready(Ok(upgrade_by_hyper::<S>(request, &connection).map(Body::new)))),
        false => Either::Right(connection.shared.routes.call(request)),
    });
    let (reading, writing) = split(socket);
    let replayed: Replayed<S> = join(io::Cursor::new(read).chain(reading), writing);
    let serve = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(replayed), service)
        .with_upgrades();
    tokio::select! {
        served = serve => if let Err(error) = served { debug!(address = %address.ip(), %error, "HTTP connection ended") },
        () = context.stop.cancelled() => {}
        () = cut.cancelled() => debug!(address = %address.ip(), "cut to make room: the client had not sent a request"),
    }
}

/// Makes a WebSocket handshake that is not the common one, or refuses it with an explanation.
fn upgrade_by_hyper<S: Stream>(mut request: Request<Incoming>, connection: &HttpConnection) -> Response<Full<Bytes>> {
    let shared = &connection.shared;
    if handshake::is_of_another_version(request.headers()) {
        let why =
            format!("this server supports only version {} of the WebSocket protocol (RFC 6455)", handshake::VERSION);
        return http::refuse_upgrade(StatusCode::UPGRADE_REQUIRED, &why);
    }
    let response = match handshake::answer(&request, Full::default) {
        Ok(response) => response,
        Err(error) => {
            let why = format!("invalid WebSocket handshake: {error}");
            return http::refuse_upgrade(StatusCode::BAD_REQUEST, &why);
        }
    };
    if let Err(foreign) = shared.allow_origin.check(request.headers()) {
        return refuse_origin(&foreign, connection);
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let unfinished = connection.unfinished.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (address, parts, shared) = (connection.address, request.into_parts().0, Arc::clone(shared));
    connection.shared.sessions.spawn(async move {
        let Some((socket, read)) = upgraded::<S>(upgrade).await else {
            return debug!(address = %address.ip(), "the connection ended during the upgrade");
        };
        let session = new_session(&parts.uri, parts.headers, address, unfinished, &shared);
        session::run(socket, read, session, Arc::clone(&shared.context)).await;
    });
    response
}

fn refuse_origin(foreign: &ForeignOrigin, connection: &HttpConnection) -> Response<Full<Bytes>> {
    let (address, why) = (connection.address.ip(), foreign.explain());
    if let Some(not_logged) =
        connection.shared.context.services.log_limit.admit(("web page refused", 403), Instant::now())
    {
        warn!(%address, origin = foreign.origin, host = foreign.host, code = 403, not_logged, "web page refused: {why}");
    } else {
        debug!(%address, origin = foreign.origin, host = foreign.host, code = 403, "web page refused");
    }
    http::refuse_upgrade(StatusCode::FORBIDDEN, &why)
}

/// The socket after an upgrade by hyper, and the bytes that were read but not used by hyper.
async fn upgraded<S: Stream>(upgrade: OnUpgrade) -> Option<(S, Bytes)> {
    let parts = upgrade.await.ok()?.downcast::<TokioIo<Replayed<S>>>().ok()?;
    let (reading, writing) = parts.io.into_inner().into_inner();
    let (before, reading) = reading.into_inner();
    let at = usize::try_from(before.position()).ok()?;
    let unread = before.into_inner();
    let read = if at < unread.len() { [&parts.read_buf, &unread[at..]].concat().into() } else { parts.read_buf };
    // Both are halves of the same socket: they were split in `serve_http`.
    Some((reading.unsplit(writing), read))
}

fn is_upgrade(request: &Request<Incoming>) -> bool {
    let upgrade = request.headers().get(hyper::header::UPGRADE);
    upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

#[cfg(test)]
mod tests;
