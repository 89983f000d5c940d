//! PURE: parses an address to listen on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::Deserialize;
use serde::de::{Deserializer, Error};

/// The address to listen on by default: reachable from this machine only.
pub(super) const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1234);

/// Parses `ADDRESS:PORT`. `localhost` and an omitted address (`:1234`) mean the IPv4 loopback address, so that
/// an omission does not open a server without access control to a network.
///
/// Errors: lists the valid forms.
pub(super) fn parse(text: &str) -> Result<SocketAddr, String> {
    let local = text.rsplit_once(':').filter(|(host, _)| host.is_empty() || host.eq_ignore_ascii_case("localhost"));
    let parsed = match local {
        Some((_, port)) => port.parse().ok().map(|port| SocketAddr::new(DEFAULT.ip(), port)),
        None => text.parse().ok(),
    };
    parsed.ok_or_else(|| {
        "not an address and a port: 127.0.0.1:1234, [::1]:1234, localhost:1234, :1234 (this machine only), \
         or 0.0.0.0:1234 (every network)"
            .to_owned()
    })
}

/// Parses an address in the configuration file.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(value: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(value)?;
    parse(&text).map(Some).map_err(|why| D::Error::custom(format!("{text:?} is {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_and_omitted_address_are_loopback() {
        let addresses = ["127.0.0.1:1", "localhost:1", "LOCALHOST:1", ":1", "0.0.0.0:1", "[::1]:1"];
        let read = addresses.map(|text| parse(text).unwrap().to_string());
        assert_eq!(read, ["127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:1", "0.0.0.0:1", "[::1]:1"]);
        for wrong in ["", ":", "1234", "localhost", "localhost:70000", "example.com:1", "::1:1234x", "127.0.0.1"] {
            assert!(parse(wrong).is_err_and(|error| error.contains("0.0.0.0:1234")), "{wrong}");
        }
    }
}
