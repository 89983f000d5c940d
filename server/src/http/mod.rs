//! HTTP: one router for every listener, and what its routes answer.
//!
//! ```text
//! routes.rs     every route, by listener
//! problem.rs    errors as RFC 9457 problem details
//! page.rs       the files of the console page
//! prefix.rs     the path prefix that a proxy keeps
//! operator/     what commands ask of a running server
//! handshake.rs  the common WebSocket handshake, which needs no HTTP server
//! origin.rs     which web pages may open a WebSocket
//! ```

pub(crate) mod fuzzing;
pub(crate) mod handshake;
pub(crate) mod operator;
pub(crate) mod origin;
mod page;
pub(crate) mod prefix;
pub(crate) mod problem;
pub(crate) mod routes;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_VERSION, UPGRADE};
use hyper::{Response, StatusCode};

const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// Refuses a WebSocket handshake. `why` is for people; a browser shows only the status.
pub(crate) fn refuse_upgrade(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    let mut response = respond(status, PLAIN_TEXT, Full::from(format!("{why}\n")));
    if status == StatusCode::UPGRADE_REQUIRED {
        // RFC 6455 section 4.4 and RFC 9110 section 15.5.22.
        response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(handshake::VERSION));
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    response
}

fn respond<B>(status: StatusCode, kind: &'static str, body: B) -> Response<B> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
