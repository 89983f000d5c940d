//! Every HTTP route, by listener. A WebSocket handshake is no route: any path of the main port may be a document.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{BoxError, Router};
use bytes::Bytes;
use futures_util::future::{Either, ready as ready_future};
use futures_util::stream;
use hyper::header::{HeaderMap, HeaderValue, LOCATION};
use hyper::http::uri::PathAndQuery;
use hyper::service::Service;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::service::TowerToHyperService;

use super::operator::{Operator, backups, documents};
use super::prefix::PathPrefix;
use super::problem::Problem;
use super::{PLAIN_TEXT, page, respond};

/// Content type of `/metrics`.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The state that `/readyz` reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Edits are accepted.
    Ready,
    /// The server is stopping.
    Stopping,
    /// The store has failed and edits are rejected; the text explains it to the operator.
    StorageFailed(String),
}

/// The main port: health and the page, below the path prefix and without it.
pub(crate) struct Public {
    prefix: PathPrefix,
    router: TowerToHyperService<Router>,
}

impl Public {
    /// The routes below `prefix`. `readiness` is asked for each request to `/readyz`.
    pub(crate) fn new<R>(prefix: PathPrefix, readiness: R) -> Self
    where
        R: Fn() -> Readiness + Clone + Send + Sync + 'static,
    {
        let page = get(page_file).fallback(only_get);
        let router = Router::new()
            .route("/healthz", get(async || text(StatusCode::OK, "alive\n")))
            .route("/readyz", get(async move || ready(readiness())))
            // Routes, because axum empties the body of a HEAD before a fallback's own length is taken.
            .route("/", page.clone())
            .route("/{*path}", page.clone())
            // Requests for `*`, and for the authority of CONNECT.
            .fallback(page)
            .method_not_allowed_fallback(only_get);
        Self { prefix, router: TowerToHyperService::new(router) }
    }

    /// Answers a request. The path prefix is removed before a route is chosen.
    pub(crate) fn call<B>(&self, mut request: Request<B>) -> impl Future<Output = Result<Response, Infallible>> + use<B>
    where
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        match strip_prefix(&self.prefix, &mut request) {
            Some(redirect) => Either::Left(ready_future(Ok(redirect))),
            None => Either::Right(self.router.call(request)),
        }
    }
}

/// The metrics port. `page` renders `/metrics`.
pub(crate) fn metrics<P>(page: P) -> Router
where
    P: Fn() -> String + Clone + Send + Sync + 'static,
{
    Router::new()
        .route("/metrics", get(async move || respond(StatusCode::OK, OPENMETRICS, Body::from(page()))))
        .fallback(async || not_found("this port serves only /metrics; documents are served on the main port"))
        .method_not_allowed_fallback(only_get)
}

/// The admin socket: the operators' commands.
pub(crate) fn operator(operator: Arc<Operator>) -> Router {
    Router::new()
        .route("/admin/backups", post(backups::take))
        .route("/admin/documents/{name}", get(documents::export).post(documents::import))
        .fallback(async || not_found("the admin socket has no such path"))
        .method_not_allowed_fallback(async || not_allowed("the path does not support this method"))
        .with_state(operator)
}

/// Removes the prefix from the request's path. Returns the redirect to the page if the path is the prefix without a slash.
fn strip_prefix<B>(prefix: &PathPrefix, request: &mut Request<B>) -> Option<Response> {
    let path = request.uri().path();
    let path = path.strip_prefix('/').unwrap_or(path);
    if prefix.is(path) && matches!(*request.method(), Method::GET | Method::HEAD) {
        return Some(redirect(&format!("{}/", prefix.last_segment())));
    }
    let inside = prefix.strip(path);
    if inside.len() < path.len() {
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        // Parts of a valid path and query are valid.
        if let Ok(stripped) = PathAndQuery::try_from(format!("/{inside}{query}")) {
            *request.uri_mut() = Uri::from(stripped);
        }
    }
    None
}

fn ready(readiness: Readiness) -> Result<Response, Problem> {
    match readiness {
        Readiness::Ready => Ok(text(StatusCode::OK, "ready\n")),
        Readiness::Stopping => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping")),
        Readiness::StorageFailed(why) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, why)),
    }
}

async fn page_file(method: Method, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    let path = uri.path();
    // A document name may begin with a slash, a file's path does not.
    let path = path.strip_prefix('/').unwrap_or(path);
    let file = page::answer(path.strip_prefix('/').unwrap_or(path), &headers);
    let file = file.ok_or_else(|| not_found("page not found; documents are opened over WebSocket"))?;
    Ok(file.map(|body| match body.is_end_stream() && method == Method::HEAD {
        // Of an unknown length, or axum would announce the length 0 for a 304, which is not that of the file.
        true => Body::from_stream(stream::empty::<Result<Bytes, Infallible>>()),
        false => Body::new(body),
    }))
}

async fn only_get() -> Problem {
    not_allowed("only GET is supported")
}

fn not_allowed(detail: &str) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

fn not_found(detail: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, detail)
}

/// Redirects to `location`, which is relative to the request, as the page's own links are.
fn redirect(location: &str) -> Response {
    let mut response = text(StatusCode::PERMANENT_REDIRECT, "the URL of the page ends with a slash\n");
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn text(status: StatusCode, body: &'static str) -> Response {
    respond(status, PLAIN_TEXT, Body::from(body))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use hyper::header::{ALLOW, CONTENT_LENGTH, ETAG, IF_NONE_MATCH};

    use super::*;

    fn request(method: &Method, uri: &str) -> Request<Body> {
        Request::builder().method(method).uri(uri).body(Body::empty()).unwrap()
    }

    async fn ask(router: &Public, method: &Method, uri: &str) -> (StatusCode, HeaderMap, String) {
        let (parts, body) = router.call(request(method, uri)).await.unwrap().into_parts();
        let body = String::from_utf8_lossy(&body.collect().await.unwrap().to_bytes()).into_owned();
        (parts.status, parts.headers, body)
    }

    fn behind_a_prefix() -> Public {
        Public::new(PathPrefix::parse("/a/collab").unwrap(), || Readiness::Ready)
    }

    #[tokio::test]
    async fn path_is_served_below_the_prefix_and_without_it() {
        let router = behind_a_prefix();
        let index = ask(&router, &Method::GET, "/").await.2;
        assert!(index.starts_with("<!doctype html>"), "{index}");
        for (path, status, expected) in [
            ("/a/collab/", 200, &*index),
            ("//", 200, &index),
            ("/?a#b", 200, &index),
            ("/healthz", 200, "alive\n"),
            ("/a/collab/healthz?x", 200, "alive\n"),
            ("/a/collab/readyz", 200, "ready\n"),
            ("http://host/a/collab/readyz", 200, "ready\n"),
            ("/a/collab", 308, "the URL of the page ends with a slash\n"),
            ("/a/collab//healthz", 404, ""),
            ("/a/collaborate/healthz", 404, ""),
            ("/healthz/", 404, ""),
            ("/a/collab/a/collab/healthz", 404, ""),
        ] {
            let (found, _, body) = ask(&router, &Method::GET, path).await;
            assert_eq!(found, status, "{path}");
            assert!(status == 404 || body == expected, "{path}: {body}");
            let (found, headers, body) = ask(&router, &Method::HEAD, path).await;
            // hyper sends no body of a redirect either.
            assert!(found == status && (status == 308 || body.is_empty()), "HEAD {path}: {body}");
            let location = headers.get(LOCATION).map(HeaderValue::as_bytes);
            assert_eq!(location, (status == 308).then_some(&b"collab/"[..]), "{path}");
        }
    }

    #[tokio::test]
    async fn head_of_an_unchanged_file_announces_no_length() {
        let router = behind_a_prefix();
        let (_, headers, _) = ask(&router, &Method::HEAD, "/").await;
        assert!(headers[CONTENT_LENGTH] != "0");
        let mut known = request(&Method::HEAD, "/");
        known.headers_mut().insert(IF_NONE_MATCH, headers[ETAG].clone());
        let response = router.call(known).await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
        assert!(!response.headers().contains_key(CONTENT_LENGTH));
    }

    #[tokio::test]
    async fn other_method_is_refused_on_every_path() {
        let router = behind_a_prefix();
        let paths = ["/", "/healthz", "/a/collab", "/a/collab/readyz", "/nowhere", "*", "host:80"];
        for (path, method) in paths.iter().flat_map(|path| [(path, Method::POST), (path, Method::CONNECT)]) {
            let (status, headers, body) = ask(&router, &method, path).await;
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert_eq!(headers[ALLOW], "GET,HEAD", "{method} {path}");
            let expected = r#"{"detail":"only GET is supported","status":405,"title":"Method Not Allowed"}"#;
            assert_eq!(body, expected, "{method} {path}");
        }
    }
}
