//! A simulated network connection: bytes stay in flight, in both directions, until the plan delivers them.
//!
//! The server's end implements the session's [`Socket`]; the client's end is for a non-blocking client's WebSocket. Bytes
//! written by the server fill a buffer of limited size, like a kernel's: when the client does not read, the session's
//! writer waits.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use syncline_server::internals::{Socket, Wire};
use tokio::io::{AsyncRead, ReadBuf};

#[derive(Default)]
struct Inner {
    /// In flight to the server: one entry for each write of the client.
    to_server: VecDeque<Bytes>,
    /// Delivered to the server, not yet read.
    arrived: VecDeque<u8>,
    /// The server reads end-of-file after the delivered bytes.
    server_eof: bool,
    reader: Option<Waker>,
    /// In flight to the client.
    to_client: VecDeque<u8>,
    capacity: usize,
    writer: Option<Waker>,
    /// Delivered to the client, not yet read.
    received: VecDeque<u8>,
    /// The session has dropped its end.
    server_closed: bool,
    /// The client has dropped its end: bytes written to it are lost.
    client_closed: bool,
}

/// A connection, for the code that drives the network.
#[derive(Clone)]
pub struct Pipe(Arc<Mutex<Inner>>);

/// The server's end: the session's socket.
pub struct ServerEnd(Pipe);

/// The writing half of the server's end.
pub struct ServerWire(Pipe);

/// The client's end.
pub struct ClientEnd(Pipe);

impl Pipe {
    /// A connection with a buffer of `capacity` bytes to the client.
    pub fn new(capacity: usize) -> (Self, ServerEnd, ClientEnd) {
        let pipe = Self(Arc::new(Mutex::new(Inner { capacity, ..Inner::default() })));
        (pipe.clone(), ServerEnd(pipe.clone()), ClientEnd(pipe))
    }

    /// Delivers up to `count` of the client's writes, and returns how many.
    pub fn deliver(&self, count: usize) -> usize {
        let mut inner = self.lock();
        let count = count.min(inner.to_server.len());
        for _ in 0..count {
            if let Some(chunk) = inner.to_server.pop_front() {
                inner.arrived.extend(chunk);
            }
        }
        inner.wake_reader();
        count
    }

    /// Delivers up to `count` of the server's bytes, and returns how many.
    pub fn receive(&self, count: usize) -> usize {
        let mut inner = self.lock();
        let count = count.min(inner.to_client.len());
        let arriving: Vec<u8> = inner.to_client.drain(..count).collect();
        inner.received.extend(arriving);
        inner.wake_writer();
        count
    }

    /// The client loses the connection. What it has sent is still in flight.
    pub fn disconnect_client(&self) {
        let mut inner = self.lock();
        inner.client_closed = true;
        inner.to_client.clear();
        inner.wake_writer();
    }

    /// The server loses the connection. What was in flight to it is lost.
    pub fn disconnect_server(&self) {
        let mut inner = self.lock();
        inner.to_server.clear();
        inner.server_eof = true;
        inner.wake_reader();
    }

    /// The number of writes in flight to the server.
    pub fn writes_in_flight(&self) -> usize {
        self.lock().to_server.len()
    }

    /// The number of bytes in flight to the client.
    pub fn bytes_in_flight(&self) -> usize {
        self.lock().to_client.len()
    }

    /// Whether the session has ended.
    pub fn server_closed(&self) -> bool {
        self.lock().server_closed
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }
}

impl AsyncRead for ServerEnd {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        if inner.arrived.is_empty() && !inner.server_eof {
            inner.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = buf.remaining().min(inner.arrived.len());
        let bytes: Vec<u8> = inner.arrived.drain(..count).collect();
        buf.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl Socket for ServerEnd {
    type ReadHalf = Self;
    type WriteHalf = ServerWire;

    fn split(self) -> (Self, ServerWire) {
        let wire = ServerWire(self.0.clone());
        (self, wire)
    }
}

impl Wire for ServerWire {
    fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut inner = self.0.lock();
        if inner.client_closed {
            // The server notices by reading, some time later, as on a real network.
            return Ok(pieces.iter().map(|piece| piece.len()).sum());
        }
        let mut space = inner.capacity.saturating_sub(inner.to_client.len());
        if space == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut written = 0;
        for piece in pieces {
            let count = space.min(piece.len());
            inner.to_client.extend(&piece[..count]);
            (space, written) = (space - count, written + count);
        }
        Ok(written)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        if inner.client_closed || inner.to_client.len() < inner.capacity {
            return Poll::Ready(Ok(()));
        }
        inner.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn shutdown(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ServerEnd {
    fn drop(&mut self) {
        self.0.lock().server_closed = true;
    }
}

impl Read for ClientEnd {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut inner = self.0.lock();
        if inner.received.is_empty() {
            let is_eof = inner.server_closed && inner.to_client.is_empty();
            return if is_eof { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let count = buf.len().min(inner.received.len());
        for (to, from) in buf.iter_mut().zip(inner.received.drain(..count)) {
            *to = from;
        }
        Ok(count)
    }
}

impl Write for ClientEnd {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().to_server.push_back(Bytes::copy_from_slice(buf));
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
