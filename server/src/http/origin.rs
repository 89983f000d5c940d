//! PURE: which web pages may open a WebSocket.
//!
//! A browser lets any page connect to any server, even to one on localhost, and sends the page's origin (RFC
//! 6454) with the handshake. Pages from the server's own address may connect, and pages from origins that the
//! operator allows. Programs other than browsers send no origin and may connect.

use hyper::HeaderMap;
use hyper::header::{HOST, HeaderValue, ORIGIN};

/// Origins that may connect, besides the server's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedOrigins {
    any: bool,
    /// As browsers send them: in lower case, without a path.
    listed: Vec<String>,
}

/// The origin of a page that may not connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignOrigin {
    /// The origin as sent.
    pub origin: String,
    /// The `Host` header: the server's address as the page used it.
    pub host: String,
}

impl AllowedOrigins {
    /// Parses a list of origins; `*` allows any origin.
    ///
    /// Errors: an entry that no browser would send as an origin.
    pub fn new(origins: &[String]) -> Result<Self, String> {
        let mut allowed = Self::default();
        for origin in origins {
            let origin = origin.trim().to_ascii_lowercase();
            match origin.as_str() {
                "" => {}
                "*" => allowed.any = true,
                "null" => allowed.listed.push(origin),
                _ if authority(&origin)
                    .is_some_and(|host| !host.is_empty() && !host.contains(['/', '?', '#', ' '])) =>
                {
                    allowed.listed.push(origin);
                }
                _ => {
                    return Err(format!(
                        "{origin:?} is not an origin: write http://localhost:5173 (without a path), * or null"
                    ));
                }
            }
        }
        Ok(allowed)
    }

    /// Checks a handshake by its headers.
    ///
    /// Errors: the page has another origin, which is not allowed.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), ForeignOrigin> {
        let mut origins = headers.get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else { return Ok(()) };
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let (origin, host) = (text(origin), headers.get(HOST).map(text).unwrap_or_default());
        // A request with two origins is refused.
        let is_one = origins.next().is_none();
        let is_allowed = self.any || is_one && (is_same(&origin, &host) || self.lists(&origin));
        if is_allowed { Ok(()) } else { Err(ForeignOrigin { origin, host }) }
    }

    fn lists(&self, origin: &str) -> bool {
        self.listed.iter().any(|listed| listed.eq_ignore_ascii_case(origin))
    }
}

impl ForeignOrigin {
    /// The refusal, and what the operator can do about it.
    pub fn explain(&self) -> String {
        format!(
            "pages from {:?} may not connect to this server at {:?}; to allow them, start the server with --allow-origin {}",
            self.origin, self.host, self.origin
        )
    }
}

/// Whether `origin` is the address `host`. A scheme's default port may be omitted.
fn is_same(origin: &str, host: &str) -> bool {
    let default_port = match origin.split_once("://") {
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => ":443",
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("http") => ":80",
        _ => return false,
    };
    let without_default = |authority: &str| {
        let authority = authority.to_ascii_lowercase();
        authority.strip_suffix(default_port).map(str::to_owned).unwrap_or(authority)
    };
    authority(origin).is_some_and(|of| !of.is_empty() && without_default(of) == without_default(host))
}

/// Host and port of an origin.
fn authority(origin: &str) -> Option<&str> {
    origin.split_once("://").map(|(_, authority)| authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(allowed: &[&str], host: &str, origins: &[&str]) -> bool {
        let allowed: Vec<String> = allowed.iter().map(|&origin| origin.to_owned()).collect();
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        for origin in origins {
            headers.append(ORIGIN, HeaderValue::from_bytes(origin.as_bytes()).unwrap());
        }
        AllowedOrigins::new(&allowed).unwrap().check(&headers).is_ok()
    }

    #[test]
    fn own_origin_or_no_origin_may_connect() {
        assert!(check(&[], "127.0.0.1:1234", &[]));
        for (host, origin) in [
            ("127.0.0.1:1234", "http://127.0.0.1:1234"),
            ("Notes.example", "https://notes.example"),
            ("notes.example:443", "https://notes.example"),
            ("notes.example", "http://notes.example:80"),
            ("[::1]:1234", "http://[::1]:1234"),
        ] {
            assert!(check(&[], host, &[origin]), "{origin} at {host}");
        }
    }

    #[test]
    fn other_origin_may_connect_only_if_listed() {
        for (host, origin) in [
            ("127.0.0.1:1234", "https://evil.example"),
            ("127.0.0.1:1234", "http://127.0.0.1"),
            ("127.0.0.1:1234", "http://localhost:1234"),
            ("127.0.0.1:1234", "http://127.0.0.1:1234.evil.example"),
            ("127.0.0.1:1234", "null"),
            ("127.0.0.1:1234", ""),
            ("127.0.0.1:1234", "127.0.0.1:1234"),
            ("notes.example", "http://notes.example:443"),
            ("localhost", "capacitor://localhost"),
            ("", "http://"),
        ] {
            assert!(!check(&[], host, &[origin]), "{origin} at {host}");
            assert!(check(&["*"], host, &[origin]), "{origin} at {host}");
        }
        let listed = ["http://localhost:5173", "Capacitor://Localhost", "null"];
        assert!(listed.iter().all(|origin| check(&listed, "127.0.0.1:1234", &[&origin.to_lowercase()])));
        assert!(!check(&listed, "127.0.0.1:1234", &["http://localhost:5174"]));
        assert!(!check(&listed, "127.0.0.1:1234", &["null", "https://evil.example"]));
        assert!(!check(&[], "a", &["http://a", "http://a"]));
    }

    #[test]
    fn text_that_is_not_an_origin_is_rejected() {
        for wrong in ["localhost:5173", "http://localhost:5173/", "http://", "http://a b"] {
            assert!(AllowedOrigins::new(&[wrong.to_owned()]).is_err_and(|error| error.contains("5173")), "{wrong}");
        }
    }
}
