//! A socket in two halves: one is read by the session's task, to the other writes whoever has something to say.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use rustix::net::Shutdown;
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// What a session runs on.
pub trait Socket: Send {
    /// Where it reads.
    type Read: AsyncRead + Unpin + Send;
    /// Where it writes.
    type Wire: Wire;

    /// Takes it apart. Dropping both halves closes it.
    fn split(self) -> (Self::Read, Self::Wire);
}

/// The writing half of a socket. Nothing here waits.
pub trait Wire: Send + Sync + 'static {
    /// Writes what the socket takes now, of one or more pieces; [`io::ErrorKind::WouldBlock`] when it takes nothing.
    fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Ready when the socket may take something again. Only the session's task asks.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Nothing follows.
    fn shutdown(&self) -> io::Result<()>;
}

impl Socket for TcpStream {
    type Read = OwnedReadHalf;
    type Wire = OwnedWriteHalf;

    fn split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        self.into_split()
    }
}

impl Wire for OwnedWriteHalf {
    fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match pieces {
            [one] => OwnedWriteHalf::try_write(self, one),
            more => self.try_write_vectored(more),
        }
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.as_ref().poll_write_ready(cx)
    }

    fn shutdown(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self.as_ref(), Shutdown::Write)?)
    }
}
