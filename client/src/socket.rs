//! The WebSocket: how it is opened, its limits, and a queue of frames written in one go.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

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
pub(crate) struct Endpoint {
    request: Request,
    web_socket: WebSocketConfig,
    connect_timeout: Duration,
}

impl Endpoint {
    /// `Err`: what is wrong with the URL.
    pub(crate) fn new(url: &str, max_message_bytes: usize, connect_timeout: Duration) -> Result<Self, String> {
        let request = url.into_client_request().map_err(|error| error.to_string())?;
        if request.uri().scheme_str() != Some("ws") {
            return Err("only ws:// is supported".into());
        }
        let web_socket = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_write_buffer_size(MAX_QUEUED_BYTES + WRITE_BUFFER_BYTES)
            .max_message_size(Some(max_message_bytes))
            .max_frame_size(Some(max_message_bytes));
        Ok(Self { request, web_socket, connect_timeout })
    }

    pub(crate) async fn connect(&self) -> Result<Socket, Error> {
        let attempt = connect_async_with_config(self.request.clone(), Some(self.web_socket), true);
        let timed_out = || Error::Io(std::io::ErrorKind::TimedOut.into());
        let (stream, _response) =
            tokio::time::timeout(self.connect_timeout, attempt).await.map_err(|_| timed_out())??;
        Ok(Socket { stream, queue: VecDeque::new(), queued_bytes: 0, unflushed: false })
    }
}

/// An open connection.
pub(crate) struct Socket {
    stream: Stream,
    /// Written by `queue`, emptied by `progress`.
    queue: VecDeque<Message>,
    queued_bytes: usize,
    unflushed: bool,
}

impl Socket {
    pub(crate) fn queue(&mut self, frames: impl IntoIterator<Item = Bytes>) -> Result<(), Error> {
        for frame in frames {
            self.queued_bytes += frame.len();
            self.queue.push_back(Message::Binary(frame));
        }
        if self.queued_bytes > MAX_QUEUED_BYTES {
            return Err(Error::WriteBufferFull(Box::new(Message::Binary(Bytes::new()))));
        }
        Ok(())
    }

    pub(crate) fn queue_ping(&mut self) {
        self.queue.push_back(Message::Ping(Bytes::new()));
    }

    /// Writes and reads at once, so that two full sockets cannot wait for each other. Cancel-safe. Gives the next
    /// message; what is queued goes out in one flush meanwhile.
    pub(crate) async fn next(&mut self) -> Option<Result<Message, Error>> {
        std::future::poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = self.poll_write(cx) {
                return Poll::Ready(Some(Err(error)));
            }
            self.stream.poll_next_unpin(cx)
        })
        .await
    }

    /// Writes everything that is queued.
    pub(crate) async fn flush(&mut self) -> Result<(), Error> {
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
    pub(crate) async fn close(mut self) -> Result<(), Error> {
        self.flush().await?;
        self.stream.send(Message::Close(None)).await
    }
}
