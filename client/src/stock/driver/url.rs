//! Builds the connection URL, with document name and token where the dialect expects them.

use syncline_protocol::detect::Dialect;
use syncline_protocol::names::url_path;

use super::ClientConfig;

pub(super) fn url_of(config: &ClientConfig) -> String {
    let (base, query) = match config.url.split_once('?') {
        Some((base, query)) => (base, Some(query)),
        None => (config.url.as_str(), None),
    };
    let mut url = base.to_owned();
    let mut parameters: Vec<String> = query.map(str::to_owned).into_iter().collect();
    if config.dialect == Dialect::YWebsocket {
        url = format!("{}/{}", base.trim_end_matches('/'), url_path(config.document.as_str()));
        parameters.extend(config.token.as_deref().map(|token| format!("token={}", percent_encode(token))));
    }
    if !parameters.is_empty() {
        url = format!("{url}?{}", parameters.join("&"));
    }
    url
}

fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stock::driver::{ClientError, endpoint};

    #[test]
    fn url_contains_document_and_token_for_the_dialect() {
        let mut config = ClientConfig::new("ws://host:1/?a=1", "x%2Fy", Dialect::YWebsocket);
        config.token = Some("a&b=c".into());
        assert_eq!(url_of(&config), "ws://host:1/x%2Fy?a=1&token=a%26b%3Dc");
        config.dialect = Dialect::Hocuspocus;
        assert_eq!(url_of(&config), "ws://host:1/?a=1");
        for name in ["文 1", "%E6%96%87%201"] {
            let config = ClientConfig::new("ws://host:1", name, Dialect::YWebsocket);
            assert_eq!(url_of(&config), "ws://host:1/%E6%96%87%201");
        }
    }

    #[test]
    fn invalid_url_is_rejected() {
        for url in ["wss://host", "http://host", "host", "ws://"] {
            let config = ClientConfig::new(url, "doc", Dialect::Hocuspocus);
            assert!(matches!(endpoint(&config), Err(ClientError::BadUrl { .. })), "{url}");
        }
    }
}
