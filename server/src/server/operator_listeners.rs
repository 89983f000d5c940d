//! The operators' listeners: the port of `/metrics`, separate so that a proxy for users does not expose it, and the admin
//! socket. A connection serves one request.

use std::io;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{ACCEPT_PAUSE, ServerContext};
use crate::admin::AdminSocket;
use crate::metrics::Now;

/// Connections of a listener that are served at the same time: a few programs and a person. Further ones wait.
const MAX_CONNECTIONS: usize = 8;
/// Maximum length of a request head, in bytes: a document name of 512 characters takes 6 KiB.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// A kind of listener.
pub(super) struct OperatorListener {
    name: &'static str,
    /// How long a client may take to send its request headers.
    header_timeout: Duration,
    /// How long a connection may take.
    timeout: Duration,
}

/// Collectors of metrics.
pub(super) const METRICS: OperatorListener = OperatorListener {
    name: "metrics port",
    header_timeout: Duration::from_secs(10),
    timeout: Duration::from_secs(10),
};
/// Operators' commands. A backup may take hours.
pub(super) const ADMIN: OperatorListener =
    OperatorListener { name: "admin socket", header_timeout: Duration::from_secs(30), timeout: Duration::MAX };

impl OperatorListener {
    /// Serves `router` on the connections of `listener` until `stop` is cancelled, which cuts them.
    pub(super) async fn run(self, listener: impl Accept, router: Router, stop: CancellationToken) {
        let Self { name, header_timeout, timeout: connection_timeout } = self;
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_buf_size(MAX_HEAD_BYTES)
            .keep_alive(false);
        let router = TowerToHyperService::new(router);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.next(), if connections.len() < MAX_CONNECTIONS => match accepted {
                    Ok(socket) => {
                        let connection = http.serve_connection(TokioIo::new(socket), router.clone());
                        connections.spawn(async move {
                            match timeout(connection_timeout, connection).await {
                                Ok(Ok(())) => {}
                                Ok(Err(error)) => debug!(%error, "a connection to the {name} ended"),
                                Err(_) => debug!("a request on the {name} took too long"),
                            }
                        });
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept a connection on the {name}");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
                () = stop.cancelled() => return connections.shutdown().await,
            }
        }
    }
}

/// A listener of any kind.
pub(super) trait Accept: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection. Cancel safe.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(socket, _)| socket)
    }
}

impl Accept for AdminSocket {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await
    }
}

/// The gauges of `/metrics`.
pub(super) fn now(shared: &ServerContext) -> Now {
    let context = &shared.context;
    Now {
        sessions: context.services.gate.sessions(),
        unfinished: context.services.gate.unfinished(),
        documents: context.services.registry.len(),
        document_bytes: context.services.registry.memory_bytes(),
        outbox_bytes: context.outboxes.used_bytes(),
        log: shared.log.figures(),
        has_storage_failed: shared.log.failed().is_some(),
    }
}
