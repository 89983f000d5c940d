//! The WebSocket: how it is opened, its limits, and a queue of frames written in one go.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt, StreamExt};
use syncline_protocol::detect::Dialect;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use super::{ClientConfig, ClientError};

// One connection a document, mostly small messages: its 128 KiB default is for servers' proxies.
/// Bytes of read buffer for each connection.
const READ_BUFFER_BYTES: usize = 8 * 1024;

/// Bytes gathered before they are written even without a flush.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;

/// Most bytes waiting for a socket that takes none; the connection is then given up, nothing is lost by that.
const MAX_QUEUED_BYTES: usize = 256 * 1024 * 1024;

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Where to connect to, checked.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    request: Request,
    web_socket: WebSocketConfig,
    connect_timeout: Duration,
}

impl Endpoint {
    pub(super) fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        let url = url_of(config);
        let bad = |reason: String| ClientError::BadUrl { url: config.url.clone(), reason };
        let request = url.into_client_request().map_err(|error| bad(error.to_string()))?;
        if request.uri().scheme_str() != Some("ws") {
            return Err(bad("only ws:// is supported".into()));
        }
        let web_socket = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_write_buffer_size(MAX_QUEUED_BYTES + WRITE_BUFFER_BYTES)
            .max_message_size(Some(config.max_message_bytes))
            .max_frame_size(Some(config.max_message_bytes));
        Ok(Self { request, web_socket, connect_timeout: config.connect_timeout })
    }

    pub(super) async fn connect(&self) -> Result<Socket, Error> {
        let attempt = connect_async_with_config(self.request.clone(), Some(self.web_socket), true);
        let timed_out = || Error::Io(std::io::ErrorKind::TimedOut.into());
        let (stream, _response) =
            tokio::time::timeout(self.connect_timeout, attempt).await.map_err(|_| timed_out())??;
        Ok(Socket { stream, queue: VecDeque::new(), queued_bytes: 0, unflushed: false })
    }
}

fn url_of(config: &ClientConfig) -> String {
    let (base, query) = match config.url.split_once('?') {
        Some((base, query)) => (base, Some(query)),
        None => (config.url.as_str(), None),
    };
    let mut url = base.to_owned();
    let mut parameters: Vec<String> = query.map(str::to_owned).into_iter().collect();
    if config.dialect == Dialect::YWebsocket {
        url = format!("{}/{}", base.trim_end_matches('/'), config.document);
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

/// An open connection.
pub(super) struct Socket {
    stream: Stream,
    /// Written by `queue`, emptied by `progress`.
    queue: VecDeque<Message>,
    queued_bytes: usize,
    unflushed: bool,
}

impl Socket {
    pub(super) fn queue(&mut self, frames: impl IntoIterator<Item = Bytes>) -> Result<(), Error> {
        for frame in frames {
            self.queued_bytes += frame.len();
            self.queue.push_back(Message::Binary(frame));
        }
        if self.queued_bytes > MAX_QUEUED_BYTES {
            return Err(Error::WriteBufferFull(Box::new(Message::Binary(Bytes::new()))));
        }
        Ok(())
    }

    pub(super) fn queue_ping(&mut self) {
        self.queue.push_back(Message::Ping(Bytes::new()));
    }

    /// Writes and reads at once, so that two full sockets cannot wait for each other. Cancel-safe. Gives the next
    /// message; what is queued goes out in one flush meanwhile.
    pub(super) async fn next(&mut self) -> Option<Result<Message, Error>> {
        std::future::poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = self.poll_write(cx) {
                return Poll::Ready(Some(Err(error)));
            }
            self.stream.poll_next_unpin(cx)
        })
        .await
    }

    /// Writes everything that is queued.
    pub(super) async fn flush(&mut self) -> Result<(), Error> {
        std::future::poll_fn(|cx| self.poll_write(cx)).await
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut sink = std::pin::Pin::new(&mut self.stream);
        while !self.queue.is_empty() {
            ready!(sink.as_mut().poll_ready(cx))?;
            if let Some(message) = self.queue.pop_front() {
                self.queued_bytes -= if message.is_binary() { message.len() } else { 0 };
                sink.as_mut().start_send(message)?;
                self.unflushed = true;
            }
        }
        if self.unflushed {
            ready!(sink.as_mut().poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what is queued, then says goodbye.
    pub(super) async fn close(mut self) -> Result<(), Error> {
        self.flush().await?;
        self.stream.send(Message::Close(None)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_and_the_token_find_their_place_in_the_url() {
        let mut config = ClientConfig::new("ws://host:1/?a=1", "x%2Fy", Dialect::YWebsocket);
        config.token = Some("a&b=c".into());
        assert_eq!(url_of(&config), "ws://host:1/x%2Fy?a=1&token=a%26b%3Dc");
        config.dialect = Dialect::Hocuspocus;
        assert_eq!(url_of(&config), "ws://host:1/?a=1");
    }

    #[test]
    fn a_url_that_cannot_work_is_refused_at_once() {
        for url in ["wss://host", "http://host", "host", "ws://"] {
            let config = ClientConfig::new(url, "doc", Dialect::Hocuspocus);
            assert!(matches!(Endpoint::new(&config), Err(ClientError::BadUrl { .. })), "{url}");
        }
    }
}
