//! The operators' port: `/metrics` for Prometheus. It is a separate port, so that a proxy for users does not
//! expose it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{ACCEPT_PAUSE, Shared};
use crate::http;
use crate::metrics::Now;

/// Connections served at the same time: a few collectors and a person. Further ones wait.
const MAX_CONNECTIONS: usize = 8;
/// Time limit of a connection, which serves one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers requests until `stop` is cancelled.
pub(super) async fn run(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accepting = async {
        // The semaphore is never closed.
        while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
            match listener.accept().await {
                Ok((socket, _)) => {
                    let (shared, stop) = (Arc::clone(&shared), stop.clone());
                    tokio::spawn(async move {
                        stop.run_until_cancelled(answer(socket, shared)).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection on the metrics port");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accepting).await;
}

async fn answer(socket: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let page = || shared.context.services.metrics.page(&now(&shared));
        let response = http::answer_operator(request.method(), request.uri().path(), page);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(socket), service);
    match timeout(REQUEST_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection to the metrics port ended"),
        Err(_) => debug!("a request on the metrics port took too long"),
    }
}

fn now(shared: &Shared) -> Now {
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
