//! A socket in two halves: the session's task reads from one, any task that pushed writes to the other.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use rustix::net::Shutdown;
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

pub use crate::outbox::Wire;

/// A connection that a session runs on.
pub trait Socket: Send {
    /// The reading half.
    type Read: AsyncRead + Unpin + Send;
    /// The writing half.
    type Wire: Wire;

    /// Splits the connection. Dropping both halves closes it.
    fn split(self) -> (Self::Read, Self::Wire);
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
