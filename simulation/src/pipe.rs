//! A socket whose network is driven from outside: bytes wait on their way until they are let on, in both directions.
//!
//! The server's end is what a session takes for a socket ([`Socket`]); the client's is for the blocking
//! WebSocket of a client that never waits. What the server writes fills a buffer of some size, as a kernel's: when the
//! client does not read, the session's writer waits.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use syncline_server::session::{Socket, Wire};
use tokio::io::{AsyncRead, ReadBuf};

#[derive(Default)]
struct Inner {
    /// Written by the client, one entry for each write; on the way.
    to_server: VecDeque<Bytes>,
    /// Where the server reads.
    arrived: VecDeque<u8>,
    /// The server reads an end behind what arrived.
    server_reads_end: bool,
    reader: Option<Waker>,
    /// Written by the server; on the way.
    to_client: VecDeque<u8>,
    capacity: usize,
    writer: Option<Waker>,
    /// Where the client reads.
    received: VecDeque<u8>,
    /// The session let go of its end.
    server_is_gone: bool,
    /// The client let go of its end: what is written to it is lost.
    client_is_gone: bool,
}

/// Both ends, for whoever drives the network.
#[derive(Clone)]
pub struct Pipe(Arc<Mutex<Inner>>);

/// The session's socket.
pub struct ServerEnd(Pipe);

/// Where its session and its documents write.
pub struct ServerWire(Pipe);

/// The client's socket.
pub struct ClientEnd(Pipe);

impl Pipe {
    /// A connection on which `capacity` bytes to the client may wait.
    pub fn new(capacity: usize) -> (Self, ServerEnd, ClientEnd) {
        let pipe = Self(Arc::new(Mutex::new(Inner { capacity, ..Inner::default() })));
        (pipe.clone(), ServerEnd(pipe.clone()), ClientEnd(pipe))
    }

    /// Lets up to `count` of the client's writes arrive; returns how many.
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

    /// Lets up to `count` bytes of the server's arrive; returns how many.
    pub fn receive(&self, count: usize) -> usize {
        let mut inner = self.lock();
        let count = count.min(inner.to_client.len());
        let arriving: Vec<u8> = inner.to_client.drain(..count).collect();
        inner.received.extend(arriving);
        inner.wake_writer();
        count
    }

    /// The connection is gone for the client. What it had sent is still on the way.
    pub fn client_leaves(&self) {
        let mut inner = self.lock();
        inner.client_is_gone = true;
        inner.to_client.clear();
        inner.wake_writer();
    }

    /// The connection is gone for the server: what was on the way is lost.
    pub fn hang_up(&self) {
        let mut inner = self.lock();
        inner.to_server.clear();
        inner.server_reads_end = true;
        inner.wake_reader();
    }

    /// Writes on their way to the server.
    pub fn waiting_for_server(&self) -> usize {
        self.lock().to_server.len()
    }

    /// Bytes on their way to the client.
    pub fn waiting_for_client(&self) -> usize {
        self.lock().to_client.len()
    }

    /// True when the session has ended.
    pub fn server_is_gone(&self) -> bool {
        self.lock().server_is_gone
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
        if inner.arrived.is_empty() && !inner.server_reads_end {
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
    type Read = Self;
    type Wire = ServerWire;

    fn split(self) -> (Self, ServerWire) {
        let wire = ServerWire(self.0.clone());
        (self, wire)
    }
}

impl Wire for ServerWire {
    fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut inner = self.0.lock();
        if inner.client_is_gone {
            // It will hear of it by reading, as with a real network some time later.
            return Ok(pieces.iter().map(|piece| piece.len()).sum());
        }
        let mut room = inner.capacity.saturating_sub(inner.to_client.len());
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut written = 0;
        for piece in pieces {
            let count = room.min(piece.len());
            inner.to_client.extend(&piece[..count]);
            (room, written) = (room - count, written + count);
        }
        Ok(written)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        if inner.client_is_gone || inner.to_client.len() < inner.capacity {
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
        self.0.lock().server_is_gone = true;
    }
}

impl Read for ClientEnd {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut inner = self.0.lock();
        if inner.received.is_empty() {
            let is_over = inner.server_is_gone && inner.to_client.is_empty();
            return if is_over { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
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
