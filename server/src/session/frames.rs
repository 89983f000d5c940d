//! Socket -> frames. The read buffer belongs to the thread; an idle session has none.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

use crate::websocket::{Decoder, FrameError, Incoming};

/// Bytes per read.
const READ_BUFFER_BYTES: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BUFFER_BYTES].into_boxed_slice());
}

/// Why reading ended.
#[derive(Debug)]
pub(super) enum SocketEnd {
    /// The client disconnected.
    Gone,
    /// Its input breaks the WebSocket protocol.
    FrameError(FrameError),
}

/// The reading half of a connection.
pub(super) struct Frames<R> {
    socket: R,
    decoder: Decoder,
    /// Read and not yet decoded. Holds no memory while it is empty.
    input: BytesMut,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    /// `read_already` was received together with the handshake.
    pub(super) fn new(socket: R, read_already: &[u8], max_message_bytes: usize) -> Self {
        Self { socket, decoder: Decoder::new(max_message_bytes), input: read_already.into() }
    }

    /// Returns text messages instead of skipping them.
    pub(super) fn read_texts(&mut self) {
        self.decoder.read_texts();
    }

    /// Drops the current message: the part received so far and the rest.
    pub(super) fn skip(&mut self) {
        self.decoder.skip();
    }

    /// True while a message is read from the socket and dropped.
    pub(super) fn is_skipping(&self) -> bool {
        self.decoder.is_skipping()
    }

    /// The next message or control frame.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming, SocketEnd>> {
        loop {
            if !self.input.is_empty() {
                let next = self.decoder.next(&mut self.input).map_err(SocketEnd::FrameError);
                if self.input.is_empty() {
                    self.input = BytesMut::new();
                }
                if let Some(incoming) = next? {
                    return Poll::Ready(Ok(incoming));
                }
            }
            ready!(self.poll_fill(cx))?;
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SocketEnd>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            match ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    self.input.extend_from_slice(buffer.filled());
                    Poll::Ready(Ok(()))
                }
                Ok(()) | Err(_) => Poll::Ready(Err(SocketEnd::Gone)),
            }
        })
    }

    /// Reads and drops everything until the client disconnects.
    pub(super) async fn drain(&mut self) {
        self.input = BytesMut::new();
        while std::future::poll_fn(|cx| self.poll_fill(cx)).await.is_ok() {
            self.input.clear();
        }
    }
}
