//! PURE: the usual WebSocket handshake, for a connection that has no HTTP server behind it yet.
//!
//! tungstenite reads the head, checks it by RFC 6455 section 4.2.1 and makes the answer. Whatever is not a sound upgrade
//! is left to the HTTP server, with the bytes that were read: it answers everything that is to be explained.

use bytes::Bytes;
use hyper::header::{CONTENT_LENGTH, EXPECT, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING};
use hyper::{HeaderMap, Request, Response};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;
use tokio_tungstenite::tungstenite::handshake::server::{create_response_with_body, write_response};

/// Longest request head, in bytes.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The version of the protocol (RFC 6455).
pub const VERSION: &str = "13";

/// What the beginning of a connection is.
#[derive(Debug, PartialEq, Eq)]
pub enum Head {
    /// Not all of it has come.
    Partial,
    /// A sound upgrade.
    Upgrade(Upgrade),
    /// Something for the HTTP server.
    Other,
}

/// A request for a WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// The raw path without its leading slash.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// What the client is to be sent.
    pub response: Bytes,
    /// Where its first frame begins.
    pub head_bytes: usize,
}

/// Looks at what has come of a head; `seen` bytes of it were looked at before.
pub fn look(head: &[u8], seen: usize) -> Head {
    // Whole heads only, but the first time: what is no HTTP at all is answered at once, and a head that comes byte by
    // byte is not read again for each.
    let is_whole = || {
        let new = &head[seen.saturating_sub(3)..];
        // A line may end without its CR, too.
        new.windows(3).any(|end| end == b"\n\r\n") || new.windows(2).any(|end| end == b"\n\n")
    };
    if seen == 0 || is_whole() {
        match Request::<()>::try_parse(head) {
            Ok(None) => {}
            Ok(Some((head_bytes, request))) => return upgrade(request, head_bytes).unwrap_or(Head::Other),
            Err(_) => return Head::Other,
        }
    }
    if head.len() < MAX_HEAD_BYTES { Head::Partial } else { Head::Other }
}

fn upgrade(request: Request<()>, head_bytes: usize) -> Option<Head> {
    // A body would be taken for frames.
    if [CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT].iter().any(|name| request.headers().contains_key(name)) {
        return None;
    }
    let mut response = Vec::with_capacity(256);
    write_response(&mut response, &answer(&request, || ()).ok()?).ok()?;
    let path = document_path(&request);
    let headers = request.into_parts().0.headers;
    Some(Head::Upgrade(Upgrade { path, headers, response: response.into(), head_bytes }))
}

/// The response that makes a WebSocket of a request.
///
/// Errors: why it is no sound handshake.
pub fn answer<T, B>(request: &Request<T>, body: impl FnOnce() -> B) -> Result<Response<B>, Error> {
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

/// True for a handshake of a version of the protocol that is not spoken here.
pub fn is_of_another_version(headers: &HeaderMap) -> bool {
    let version = headers.get(SEC_WEBSOCKET_VERSION);
    version.is_some_and(|version| version.as_bytes().trim_ascii() != VERSION.as_bytes())
}

/// The raw path of a request, by which y-websocket names its document.
pub fn document_path<T>(request: &Request<T>) -> String {
    let path = request.uri().path();
    // One slash only: a name may begin with the next.
    path.strip_prefix('/').unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "GET //a%2Fb?x=1 HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn upgrade_of(head: &[u8]) -> Upgrade {
        let Head::Upgrade(upgrade) = look(head, 0) else { panic!("{}", head.escape_ascii()) };
        upgrade
    }

    #[test]
    fn a_sound_request_is_answered_and_what_follows_is_left() {
        let with_frames = [GOOD.as_bytes(), b"\x82\x80\0\0\0\0\r\n\r\n"].concat();
        for head in [GOOD.as_bytes(), &with_frames] {
            let Upgrade { path, headers, response, head_bytes } = upgrade_of(head);
            assert_eq!((headers.len(), headers.get("Host").unwrap().as_bytes()), (5, &b"x"[..]));
            assert_eq!((path.as_str(), head_bytes), ("/a%2Fb", GOOD.len()));
            let response = String::from_utf8(response.to_vec()).unwrap().to_ascii_lowercase();
            assert!(response.starts_with("http/1.1 101 switching protocols\r\n") && response.ends_with("\r\n\r\n"));
            // The answer of section 1.3 to this key.
            assert!(response.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{response}");
        }
    }

    #[test]
    fn a_head_that_comes_in_pieces_is_looked_at_when_it_is_whole() {
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
    fn what_is_no_sound_upgrade_is_left_to_the_http_server() {
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
            ("a question first", GOOD.replace("Host: x", "Expect: 100-continue")),
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
