//! The client's WebSocket: connecting, limits, and a queue of frames that are written in one flush.

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

// Messages are mostly small; the library's default of 128 KiB is meant for proxies of servers.
/// Size of the read buffer of a connection, in bytes.
const READ_BUFFER_BYTES: usize = 8 * 1024;

/// Number of buffered bytes at which they are written even without a flush.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;

/// Limit of bytes queued for a socket that does not accept any. Beyond it the connection is dropped; no edit is lost.
const MAX_QUEUED_BYTES: usize = 256 * 1024 * 1024;

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A validated server address with connection settings.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    request: Request,
    web_socket: WebSocketConfig,
    connect_timeout: Duration,
}

impl Endpoint {
    /// Validates the URL. The error is the reason why it cannot be used.
    pub(crate) fn new(url: &str, max_message_bytes: usize, connect_timeout: Duration) -> Result<Self, String> {
        let request = url.into_client_request().map_err(|error| error.to_string())?;
        if request.uri().scheme_str() != Some("ws") {
            return Err("only ws:// URLs are supported".into());
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
    /// Filled by `queue`, drained by `poll_write`.
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

    /// Returns the next message, and writes queued frames in one flush meanwhile. Writing and reading at the same time
    /// prevents a deadlock of two peers with full buffers. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Result<Message, Error>> {
        std::future::poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = self.poll_write(cx) {
                return Poll::Ready(Some(Err(error)));
            }
            self.stream.poll_next_unpin(cx)
        })
        .await
    }

    /// Writes all queued frames.
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

    /// Writes all queued frames, then a close frame.
    pub(crate) async fn close(mut self) -> Result<(), Error> {
        self.flush().await?;
        self.stream.send(Message::Close(None)).await
    }
}
