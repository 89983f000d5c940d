//! A socket in two halves: the session's task reads from one, any task that pushed writes to the other.
//!
//! TCP and Unix-domain sockets implement it. TLS fits here: while the handshakes are made, a TLS stream is read and written
//! as one ([`Stream`]); [`Socket::split`] then shares one rustls connection between the halves behind a lock. The reading
//! half passes it the bytes of the socket; [`Wire::try_write`], which the outbox calls with its writer's lock held, encrypts
//! and writes as much as the socket accepts, and returns `WouldBlock` while records from an earlier call are unsent.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

pub use crate::outbox::Wire;

/// A connection before it is a session: read and written as one while the handshake is made.
pub trait Stream: Socket + AsyncRead + AsyncWrite + Unpin + 'static {}

impl<S: Socket + AsyncRead + AsyncWrite + Unpin + 'static> Stream for S {}

/// A connection that a session runs on.
pub trait Socket: Send {
    /// The reading half.
    type ReadHalf: AsyncRead + Unpin + Send;
    /// The writing half.
    type WriteHalf: Wire;

    /// Splits the connection. Dropping both halves closes it.
    fn split(self) -> (Self::ReadHalf, Self::WriteHalf);
}

/// A stream and the two halves that Tokio splits it into.
macro_rules! tokio_socket {
    ($stream:ty, $halves:ident) => {
        impl Socket for $stream {
            type ReadHalf = $halves::OwnedReadHalf;
            type WriteHalf = $halves::OwnedWriteHalf;

            fn split(self) -> (Self::ReadHalf, Self::WriteHalf) {
                self.into_split()
            }
        }

        impl Wire for $halves::OwnedWriteHalf {
            fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
                match pieces {
                    [one] => Self::try_write(self, one),
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
    };
}

tokio_socket!(TcpStream, tcp);
tokio_socket!(UnixStream, unix);
