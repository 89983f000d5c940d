//! The request that begins a session, for authorizers that look for more than a token.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::LazyLock;

use hyper::HeaderMap;

static NO_HEADERS: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);

/// The WebSocket handshake of a session. Tokens are secrets: the `Debug` output has neither the query nor the value of any
/// header.
pub struct Handshake {
    path: Box<str>,
    address: SocketAddr,
    query: Box<str>,
    /// Boxed, because sessions do not keep them if no authorizer reads them.
    headers: Option<Box<HeaderMap>>,
}

impl Handshake {
    /// A handshake without a query and headers.
    pub fn new(path: &str, address: SocketAddr) -> Self {
        Self { path: path.into(), address, query: Box::default(), headers: None }
    }

    /// Adds what an authorizer may read. `query` is the part of the URL after the first `?`, not decoded.
    pub fn with(self, query: &str, headers: HeaderMap) -> Self {
        Self { query: query.into(), headers: Some(Box::new(headers)), ..self }
    }

    /// The URL's path without its first slash and without the server's path prefix, not decoded. In y-websocket it names
    /// the document.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The client's address, or that of the proxy in front of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL's query, not decoded: `a=1&b=2`. Empty if there is none.
    pub fn query(&self) -> &str {
        &self.query
    }

    /// The first value of a parameter of the query, decoded as browsers do (URL Standard,
    /// `application/x-www-form-urlencoded`): `+` is a space, `%` begins an escape, bytes that are not UTF-8 are replaced.
    /// `None` if there is no such parameter.
    ///
    /// ```
    /// use syncline_server::auth::Handshake;
    ///
    /// let address = ([127, 0, 0, 1], 50_000).into();
    /// let handshake = Handshake::new("notes", address).with("token=a%2Bb&lang=de", Default::default());
    /// assert_eq!(handshake.parameter("token").as_deref(), Some("a+b"));
    /// assert_eq!(handshake.parameter("user"), None);
    /// ```
    pub fn parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        self.query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (!pair.is_empty() && decode(key) == name).then(|| decode(value))
        })
    }

    /// The request's headers.
    pub fn headers(&self) -> &HeaderMap {
        self.headers.as_deref().unwrap_or(&NO_HEADERS)
    }

    /// A copy with path and address only.
    pub(crate) fn without_secrets(&self) -> Self {
        Self::new(&self.path, self.address)
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers().keys().collect();
        f.debug_struct("Handshake")
            .field("path", &self.path)
            .field("address", &self.address)
            .field("headers", &names)
            .finish_non_exhaustive()
    }
}

fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = if byte == b'%' { after.first_chunk().and_then(escaped_byte) } else { None };
        decoded.push(escaped.unwrap_or(if byte == b'+' { b' ' } else { byte }));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

fn escaped_byte(digits: &[u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? * 16 + low?).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use syncline_protocol::ids::DocumentName;

    use super::*;
    use crate::auth::{AccessRequest, Dialect};

    fn handshake(query: &str) -> Handshake {
        let mut headers = HeaderMap::new();
        for name in ["authorization", "cookie", "x-token"] {
            headers.insert(name, "sesame".parse().unwrap());
        }
        Handshake::new("notes", ([127, 0, 0, 1], 1).into()).with(query, headers)
    }

    #[test]
    fn parameters_are_decoded_as_browsers_decode_them() {
        for (query, value) in [
            ("", None),
            ("&", None),
            ("tok=1&tokens=2", None),
            ("token", Some("")),
            ("token=", Some("")),
            ("a=1&token=x=y&token=z", Some("x=y")),
            ("t%6Fken=%C3%BC+%2B%26", Some("ü +&")),
            ("token=%&a", Some("%")),
            ("token=100%25%2", Some("100%%2")),
            ("token=%zz%F", Some("%zz%F")),
            ("token=%+1", Some("% 1")),
            ("token=%FF", Some("\u{fffd}")),
            ("token=a?b", Some("a?b")),
        ] {
            assert_eq!(handshake(query).parameter("token").as_deref(), value, "{query}");
        }
    }

    #[test]
    fn secrets_are_not_in_the_debug_output() {
        let handshake = Arc::new(handshake("token=sesame"));
        let (document, token) = (DocumentName::parse("notes").unwrap(), Some("sesame".to_owned()));
        let request = AccessRequest { document, token, dialect: Dialect::YWebsocket, handshake };
        let shown = format!("{request:?} {request:#?}");
        assert!(!shown.contains("sesame") && !shown.contains("token="), "{shown}");
        assert!(shown.contains("authorization") && shown.contains("127.0.0.1:1"), "{shown}");
        let reduced = request.handshake.without_secrets();
        assert_eq!((reduced.path(), reduced.query(), reduced.headers().len()), ("notes", "", 0));
    }
}
