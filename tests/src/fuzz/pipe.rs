//! An in-memory connection for the fuzz target of sessions: Tokio's duplex carries the client's bytes, a bounded
//! buffer the server's.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use syncline_server::internals::{Socket, Wire};
use tokio::io::{DuplexStream, duplex};

/// How many unread bytes each direction holds.
const SOCKET_BYTES: usize = 64 * 1024;

/// The client's end. Dropping it closes the connection.
pub(super) struct ClientEnd {
    /// Where the client writes.
    pub write: DuplexStream,
    output: ServerOutput,
}

/// The server's end.
pub(super) struct ServerEnd {
    read: DuplexStream,
    output: ServerOutput,
}

/// The bytes that the server has written and the client has not read.
#[derive(Clone, Default)]
pub(super) struct ServerOutput(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    bytes: VecDeque<u8>,
    client_is_gone: bool,
    waker: Option<Waker>,
}

/// Creates a connection and returns both ends.
pub(super) fn connection() -> (ClientEnd, ServerEnd) {
    let ((write, read), output) = (duplex(SOCKET_BYTES), ServerOutput::default());
    (ClientEnd { write, output: output.clone() }, ServerEnd { read, output })
}

impl ClientEnd {
    /// Returns all unread bytes and wakes the server.
    pub(super) fn take(&self) -> Vec<u8> {
        let mut inner = self.output.lock();
        inner.wake();
        inner.bytes.drain(..).collect()
    }
}

impl Drop for ClientEnd {
    fn drop(&mut self) {
        let mut inner = self.output.lock();
        inner.client_is_gone = true;
        inner.wake();
    }
}

impl ServerOutput {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no panic while it is locked")
    }
}

impl Inner {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Socket for ServerEnd {
    type ReadHalf = DuplexStream;
    type WriteHalf = ServerOutput;

    fn split(self) -> (DuplexStream, ServerOutput) {
        (self.read, self.output)
    }
}

impl Wire for ServerOutput {
    fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut inner = self.lock();
        if inner.client_is_gone {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let mut room = SOCKET_BYTES - inner.bytes.len();
        if room == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut written = 0;
        for piece in pieces {
            let count = room.min(piece.len());
            inner.bytes.extend(&piece[..count]);
            (room, written) = (room - count, written + count);
        }
        Ok(written)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        if inner.client_is_gone || inner.bytes.len() < SOCKET_BYTES {
            return Poll::Ready(Ok(()));
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn shutdown(&self) -> io::Result<()> {
        Ok(())
    }
}
