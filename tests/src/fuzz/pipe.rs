//! An in-memory connection for the fuzz target of sessions: the client's bytes go through Tokio's duplex, the server's through
//! a buffer that takes as much as a socket's.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use syncline_server::session::{Socket, Wire};
use tokio::io::{DuplexStream, duplex};

/// What either direction takes before the other side has read it.
const SOCKET_BYTES: usize = 64 * 1024;

/// The client's end. Dropped, it hangs up.
pub struct ClientEnd {
    /// Where it writes.
    pub write: DuplexStream,
    said: Said,
}

/// The server's end.
pub struct ServerEnd {
    read: DuplexStream,
    said: Said,
}

/// What the server has said and the client has not read.
#[derive(Clone, Default)]
pub struct Said(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    bytes: VecDeque<u8>,
    client_is_gone: bool,
    waker: Option<Waker>,
}

/// Both ends.
pub fn connection() -> (ClientEnd, ServerEnd) {
    let ((write, read), said) = (duplex(SOCKET_BYTES), Said::default());
    (ClientEnd { write, said: said.clone() }, ServerEnd { read, said })
}

impl ClientEnd {
    /// Takes what has come.
    pub fn take(&self) -> Vec<u8> {
        let mut inner = self.said.lock();
        inner.wake();
        inner.bytes.drain(..).collect()
    }
}

impl Drop for ClientEnd {
    fn drop(&mut self) {
        let mut inner = self.said.lock();
        inner.client_is_gone = true;
        inner.wake();
    }
}

impl Said {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("nothing panics below")
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
    type Read = DuplexStream;
    type Wire = Said;

    fn split(self) -> (DuplexStream, Said) {
        (self.read, self.said)
    }
}

impl Wire for Said {
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
