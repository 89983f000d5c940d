//! HTTP responses: the console page, `/healthz` (alive) and `/readyz` (accepts edits) on the WebSocket port;
//! `/metrics` on a separate port.

pub mod handshake;
pub mod origin;
mod page;
pub mod prefix;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, SEC_WEBSOCKET_VERSION, UPGRADE};
use hyper::{Method, Response, StatusCode};

use self::prefix::PathPrefix;

/// Content type of `/metrics`.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The state that `/readyz` reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Edits are accepted.
    Ready,
    /// The server is stopping.
    Stopping,
    /// The store has failed and edits are rejected; the text explains it to the operator.
    StorageFailed(String),
}

/// Answers a request to the operators' port. `page` renders `/metrics`.
pub fn answer_operator(method: &Method, path: &str, page: impl FnOnce() -> String) -> Response<Full<Bytes>> {
    match path {
        "/metrics" if method == Method::GET => respond(StatusCode::OK, OPENMETRICS, page().into()),
        "/metrics" => problem(StatusCode::METHOD_NOT_ALLOWED, "only GET is supported"),
        _ => problem(StatusCode::NOT_FOUND, "this port serves only /metrics; documents are served on the main port"),
    }
}

/// Answers a request that is not a WebSocket upgrade. `path` may begin with `prefix`.
pub fn answer(
    method: &Method,
    path: &str,
    prefix: &PathPrefix,
    headers: &HeaderMap,
    readiness: impl FnOnce() -> Readiness,
) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        return problem(StatusCode::METHOD_NOT_ALLOWED, "only GET is supported");
    }
    let path = path.strip_prefix('/').unwrap_or(path);
    if prefix.is(path) {
        return redirect(&format!("{}/", prefix.last_segment()));
    }
    match prefix.strip(path) {
        "healthz" => text(StatusCode::OK, "alive\n"),
        "readyz" => match readiness() {
            Readiness::Ready => text(StatusCode::OK, "ready\n"),
            Readiness::Stopping => problem(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"),
            Readiness::StorageFailed(why) => problem(StatusCode::SERVICE_UNAVAILABLE, &why),
        },
        path => page::answer(path.strip_prefix('/').unwrap_or(path), headers)
            .unwrap_or_else(|| problem(StatusCode::NOT_FOUND, "page not found; documents are opened over WebSocket")),
    }
}

/// Redirects to `location`, which is relative to the request, as the page's own links are.
fn redirect(location: &str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::PERMANENT_REDIRECT, "the URL of the page ends with a slash\n");
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", Bytes::from_static(body.as_bytes()))
}

/// Refuses a WebSocket handshake. `why` is for people; a browser shows only the status.
pub fn refuse_upgrade(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    let mut response = respond(status, "text/plain; charset=utf-8", format!("{why}\n").into());
    if status == StatusCode::UPGRADE_REQUIRED {
        // RFC 6455 section 4.4 and RFC 9110 section 15.5.22.
        response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(handshake::VERSION));
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    response
}

/// An error as RFC 9457 problem details.
fn problem(status: StatusCode, detail: &str) -> Response<Full<Bytes>> {
    let title = status.canonical_reason().unwrap_or("Error");
    let body = serde_json::json!({ "status": status.as_u16(), "title": title, "detail": detail });
    respond(status, "application/problem+json", Bytes::from(body.to_string()))
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
