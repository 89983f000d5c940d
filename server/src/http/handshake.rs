//! PURE: the common WebSocket handshake, without an HTTP server.
//!
//! tungstenite parses the request head, checks it by RFC 6455 section 4.2.1 and makes the response. A request
//! that is not a valid upgrade is passed to the HTTP server together with the bytes read so far; it answers
//! with an explanation.

use std::fmt;

use bytes::Bytes;
use hyper::header::{CONTENT_LENGTH, EXPECT, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING};
use hyper::{HeaderMap, Request, Response, Uri};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;
use tokio_tungstenite::tungstenite::handshake::server::{create_response_with_body, write_response};

/// Maximum length of a request head, in bytes.
pub(crate) const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The supported WebSocket protocol version (RFC 6455).
pub(crate) const VERSION: &str = "13";

/// Classification of the first bytes of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Head {
    /// The head is incomplete.
    Partial,
    /// A valid upgrade request.
    Upgrade(Box<Upgrade>),
    /// Anything else: the HTTP server answers it.
    Other,
}

/// A valid WebSocket upgrade request.
#[derive(PartialEq, Eq)]
pub struct Upgrade {
    /// The requested URL.
    pub uri: Uri,
    /// The request headers.
    pub headers: HeaderMap,
    /// The encoded response to send to the client.
    pub response: Bytes,
    /// Length of the head; the client's first frame begins after it.
    pub head_bytes: usize,
}

/// Without the query and the headers, which may hold tokens.
impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrade").field("path", &self.uri.path()).finish_non_exhaustive()
    }
}

/// Parses a request head as received so far; `seen` bytes of it were parsed before.
pub fn look(head: &[u8], seen: usize) -> Head {
    // The first time any head is parsed, so that bytes that are not HTTP are answered without delay; later only
    // a complete one, so that a head that arrives byte by byte is not parsed again for each byte.
    let is_complete = || {
        let new = &head[seen.saturating_sub(3)..];
        // A line may also end with LF alone.
        new.windows(3).any(|end| end == b"\n\r\n") || new.windows(2).any(|end| end == b"\n\n")
    };
    if seen == 0 || is_complete() {
        match Request::<()>::try_parse(head) {
            Ok(None) => {}
            Ok(Some((head_bytes, request))) => return upgrade(request, head_bytes).unwrap_or(Head::Other),
            Err(_) => return Head::Other,
        }
    }
    if head.len() < MAX_HEAD_BYTES { Head::Partial } else { Head::Other }
}

fn upgrade(request: Request<()>, head_bytes: usize) -> Option<Head> {
    // A request body would be parsed as frames.
    if [CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT].iter().any(|name| request.headers().contains_key(name)) {
        return None;
    }
    let mut response = Vec::with_capacity(256);
    write_response(&mut response, &answer(&request, || ()).ok()?).ok()?;
    let (hyper::http::request::Parts { uri, headers, .. }, ()) = request.into_parts();
    Some(Head::Upgrade(Box::new(Upgrade { uri, headers, response: response.into(), head_bytes })))
}

/// The response that accepts a WebSocket handshake.
///
/// Errors: the handshake is invalid.
pub(crate) fn answer<T, B>(request: &Request<T>, body: impl FnOnce() -> B) -> Result<Response<B>, Error> {
    let mut response = create_response_with_body(request, body)?;
    // A client that offers subprotocols (y-websocket's `protocols`) expects one of them.
    if let Some(offered) = request.headers().get(SEC_WEBSOCKET_PROTOCOL)
        && let Some(first) = offered.to_str().ok().and_then(|offered| offered.split(',').next())
        && let Ok(first) = first.trim().parse()
    {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, first);
    }
    Ok(response)
}

/// True if the handshake asks for an unsupported protocol version.
pub(crate) fn is_of_another_version(headers: &HeaderMap) -> bool {
    let version = headers.get(SEC_WEBSOCKET_VERSION);
    version.is_some_and(|version| version.as_bytes().trim_ascii() != VERSION.as_bytes())
}

/// The raw path of a URL without its first slash and its query. y-websocket names its document by it.
pub(crate) fn document_path(uri: &Uri) -> &str {
    let path = uri.path();
    // Removes only one slash: a document name may begin with a slash.
    path.strip_prefix('/').unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "GET //a%2Fb?x=1 HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn upgrade_of(head: &[u8]) -> Box<Upgrade> {
        let Head::Upgrade(upgrade) = look(head, 0) else { panic!("{}", head.escape_ascii()) };
        upgrade
    }

    #[test]
    fn valid_upgrade_is_answered_and_bytes_behind_it_are_kept() {
        let with_frames = [GOOD.as_bytes(), b"\x82\x80\0\0\0\0\r\n\r\n"].concat();
        for head in [GOOD.as_bytes(), &with_frames] {
            let upgrade = upgrade_of(head);
            let shown = format!("{upgrade:?}");
            assert!(shown.contains("a%2Fb") && !shown.contains("x=1") && !shown.contains("Host"), "{shown}");
            let Upgrade { uri, headers, response, head_bytes } = *upgrade;
            assert_eq!((headers.len(), headers.get("Host").unwrap().as_bytes()), (5, &b"x"[..]));
            assert_eq!((document_path(&uri), uri.query(), head_bytes), ("/a%2Fb", Some("x=1"), GOOD.len()));
            let response = String::from_utf8(response.to_vec()).unwrap().to_ascii_lowercase();
            assert!(response.starts_with("http/1.1 101 switching protocols\r\n") && response.ends_with("\r\n\r\n"));
            // The accept value that section 1.3 gives for this key.
            assert!(response.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{response}");
        }
    }

    #[test]
    fn head_received_in_pieces_is_parsed_when_complete() {
        let bare = GOOD.replace("==\r\n", "==\n");
        for good in [GOOD.as_bytes(), bare.as_bytes(), &bare.replace('\r', "").into_bytes()] {
            for size in 1..good.len() {
                let mut seen = 0;
                for end in (size..good.len()).step_by(size) {
                    assert_eq!(look(&good[..end], seen), Head::Partial, "{size}, {end}");
                    seen = end;
                }
                assert_eq!(look(good, seen), Head::Upgrade(upgrade_of(good)), "{size}");
            }
        }
    }

    #[test]
    fn invalid_upgrade_is_left_to_the_http_server() {
        for (what, head) in [
            ("no upgrade", GOOD.replace("Upgrade: WebSocket\r\n", "")),
            ("another upgrade", GOOD.replace("WebSocket\r\n", "h2c\r\n")),
            ("no connection token", GOOD.replace("keep-alive, Upgrade", "keep-alive")),
            ("no key", GOOD.replace("Sec-WebSocket-Key", "X-Key")),
            ("a short key", GOOD.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ==")),
            ("no version", GOOD.replace("Sec-WebSocket-Version", "X-Version")),
            ("another version", GOOD.replace("13", "14")),
            ("HTTP/1.0", GOOD.replace("HTTP/1.1", "HTTP/1.0")),
            ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()),
            ("POST", GOOD.replace("GET ", "POST ")),
            ("a body", GOOD.replace("Host: x", "Content-Length: 4")),
            ("a body in chunks", GOOD.replace("Host: x", "Transfer-Encoding: chunked")),
            ("an Expect header", GOOD.replace("Host: x", "Expect: 100-continue")),
            ("a header without a colon", GOOD.replace("Host: x", "Host x")),
            ("a space in the path", GOOD.replace("a%2Fb", "a b")),
            ("TLS", "\u{16}\u{3}\u{1}".into()),
        ] {
            assert_eq!(look(head.as_bytes(), 0), Head::Other, "{what}");
        }
        let long = GOOD.replace("Host: x", &format!("X: {}", "x".repeat(MAX_HEAD_BYTES)));
        assert_eq!(look(&long.as_bytes()[..MAX_HEAD_BYTES - 1], 0), Head::Partial);
        assert_eq!(look(&long.as_bytes()[..MAX_HEAD_BYTES], MAX_HEAD_BYTES - 1), Head::Other);
    }

    #[test]
    fn the_first_subprotocol_offered_is_agreed_on() {
        let head = GOOD.replace("Host: x", "Sec-WebSocket-Protocol: one , two");
        let response = upgrade_of(head.as_bytes()).response;
        assert!(response.escape_ascii().to_string().contains("sec-websocket-protocol: one\\r\\n"));
    }
}
