//! Outbox -> socket. All that is queued goes out as one write; nothing here ever waits for a document.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use syncline_protocol::close::Close;
use tokio::io::AsyncWrite;

use super::codec::{self, Opcode};
use crate::outbox::{Kind, Outbox, Taken};

/// Frames up to this size are copied together; larger ones are written from where they lie.
const MAX_COPIED_BYTES: usize = 16 * 1024;
/// Batches written before the reader has its turn.
const MAX_BATCHES: usize = 4;
/// A buffer that grew beyond this is not kept.
const MAX_KEPT_BYTES: usize = 512 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The connection broke, stalled or was cut: there is nobody to talk to any more.
#[derive(Debug)]
pub(super) struct Broken;

/// What is written at once.
struct Batch<'a> {
    copied: &'a mut Vec<u8>,
    /// Payloads that are not copied, each behind so many bytes of `copied`.
    shared: Vec<(usize, Bytes)>,
}

impl Batch<'_> {
    fn put(&mut self, opcode: Opcode, payload: Bytes) {
        codec::write_head(self.copied, opcode, payload.len());
        if payload.len() <= MAX_COPIED_BYTES {
            self.copied.extend_from_slice(&payload);
        } else {
            self.shared.push((self.copied.len(), payload));
        }
    }

    /// The pieces, in order.
    fn pieces(&self) -> Vec<&[u8]> {
        let mut pieces = Vec::with_capacity(2 * self.shared.len() + 1);
        let mut at = 0;
        for (end, payload) in &self.shared {
            pieces.extend([&self.copied[at..*end], payload]);
            at = *end;
        }
        pieces.push(&self.copied[at..]);
        pieces
    }

    /// What is left behind the first `written` bytes, in order.
    fn rest(self, written: usize) -> VecDeque<Bytes> {
        let (mut rest, mut at, mut skip) = (VecDeque::new(), 0, written);
        let mut keep = |mut piece: Bytes| {
            let skipped = skip.min(piece.len());
            skip -= skipped;
            piece.advance(skipped);
            if !piece.is_empty() {
                rest.push_back(piece);
            }
        };
        for (end, payload) in self.shared {
            keep(Bytes::copy_from_slice(&self.copied[at..end]));
            keep(payload);
            at = end;
        }
        keep(Bytes::copy_from_slice(&self.copied[at..]));
        rest
    }
}

/// The writing half of a connection.
pub(super) struct Writer<W> {
    socket: W,
    /// Taken from the outbox or said by the clock, and not yet taken by the socket.
    unsent: VecDeque<Bytes>,
    /// Bytes the socket has taken so far.
    written: u64,
    /// A message was sent since this was last asked.
    has_spoken: bool,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub(super) fn new(socket: W) -> Self {
        Self { socket, unsent: VecDeque::new(), written: 0, has_spoken: false }
    }

    /// Writes until there is nothing to write or the socket takes no more; ready when the outbox says that it is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, outbox: &Outbox) -> Poll<Result<Close, Broken>> {
        for _ in 0..MAX_BATCHES {
            match self.poll_unsent(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken)),
                Poll::Pending if outbox.poll_blocked(cx) => return Poll::Ready(Err(Broken)),
                Poll::Pending => return Poll::Pending,
            }
            match ready!(self.poll_batch(cx, outbox)) {
                Ok(Taken::Frames) => {}
                Ok(Taken::Close(close)) => return Poll::Ready(Ok(close)),
                Ok(Taken::Cut) | Err(_) => return Poll::Ready(Err(Broken)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Sends this frame behind what is under way.
    pub(super) fn say(&mut self, opcode: Opcode, payload: &[u8]) {
        let mut frame = Vec::with_capacity(codec::MAX_HEAD_BYTES + payload.len());
        codec::write_head(&mut frame, opcode, payload.len());
        frame.extend_from_slice(payload);
        self.unsent.push_back(frame.into());
    }

    /// Says the last word: a close frame, and that nothing follows.
    pub(super) async fn close(&mut self, frame: Vec<u8>) -> Result<(), Broken> {
        self.unsent.push_back(frame.into());
        std::future::poll_fn(|cx| {
            ready!(self.poll_unsent(cx))?;
            Pin::new(&mut self.socket).poll_shutdown(cx)
        })
        .await
        .map_err(|_| Broken)
    }

    /// The socket has not taken everything.
    pub(super) fn is_blocked(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Bytes the socket has taken so far.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Whether a message was sent since this was last asked.
    pub(super) fn has_spoken(&mut self) -> bool {
        std::mem::take(&mut self.has_spoken)
    }

    fn poll_batch(&mut self, cx: &mut Context<'_>, outbox: &Outbox) -> Poll<io::Result<Taken>> {
        BUFFER.with_borrow_mut(|copied| {
            copied.clear();
            let mut batch = Batch { copied, shared: Vec::new() };
            let taken = ready!(outbox.poll_take(cx, |kind, payload| match kind {
                Kind::Message => {
                    self.has_spoken = true;
                    batch.put(Opcode::Binary, payload);
                }
                Kind::Pong => batch.put(Opcode::Pong, payload),
            }));
            if taken == Taken::Frames {
                self.write(cx, batch)?;
            }
            if copied.capacity() > MAX_KEPT_BYTES {
                *copied = Vec::new();
            }
            Poll::Ready(Ok(taken))
        })
    }

    /// Writes what the socket takes now; the rest is unsent.
    fn write(&mut self, cx: &mut Context<'_>, batch: Batch<'_>) -> io::Result<()> {
        let (written, len) = if batch.shared.is_empty() {
            (Pin::new(&mut self.socket).poll_write(cx, batch.copied), batch.copied.len())
        } else {
            let pieces = batch.pieces();
            let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let len = pieces.iter().map(|piece| piece.len()).sum();
            (Pin::new(&mut self.socket).poll_write_vectored(cx, &slices), len)
        };
        let written = match written {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(written) => written?,
            Poll::Pending => 0,
        };
        self.written += written as u64;
        if written < len {
            self.unsent = batch.rest(written);
        }
        Ok(())
    }

    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(next) = self.unsent.front_mut() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, next))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written as u64;
            next.advance(written);
            if next.is_empty() {
                self.unsent.pop_front();
            }
        }
        if self.unsent.capacity() > 0 {
            self.unsent = VecDeque::new();
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LeaseId;

    /// A socket that takes `room` bytes, and each time at most `at_once`.
    struct Narrow {
        taken: Vec<u8>,
        room: usize,
        at_once: usize,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let len = buf.len().min(self.at_once).min(self.room);
            if len == 0 {
                return Poll::Pending;
            }
            self.room -= len;
            self.taken.extend_from_slice(&buf[..len]);
            Poll::Ready(Ok(len))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all = bufs.iter().flat_map(|buf| buf.iter().copied()).collect::<Vec<_>>();
            self.as_mut().poll_write(cx, &all)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_a_socket_takes_in_pieces_is_what_was_queued() {
        let payloads: Vec<Bytes> = [5, 40_000, 0, 300, 17_000, 1]
            .into_iter()
            .enumerate()
            .map(|(number, len)| Bytes::from(vec![number as u8; len]))
            .collect();
        let mut expected = Vec::new();
        for payload in &payloads {
            codec::write_head(&mut expected, Opcode::Binary, payload.len());
            expected.extend_from_slice(payload);
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for (room, at_once) in [(1, 1), (3, 2), (6, 6), (40_011, usize::MAX), (57_000, 9_999), (usize::MAX, usize::MAX)]
        {
            let outbox = Outbox::new(usize::MAX);
            payloads.iter().for_each(|payload| _ = outbox.push_document(LeaseId(1), payload.clone()));
            let mut writer = Writer::new(Narrow { taken: Vec::new(), room, at_once });
            // The socket has room again and again; meanwhile the clock speaks, behind what is under way.
            while writer.socket.taken.len() < expected.len() {
                assert!(writer.poll(&mut cx, &outbox).is_pending());
                assert_eq!(writer.is_blocked(), writer.socket.taken.len() < expected.len());
                writer.socket.room = room;
            }
            assert!(writer.socket.taken == expected, "room for {room}, {at_once} at once");
            assert_eq!(writer.written(), expected.len() as u64);
            assert!(writer.has_spoken() && !writer.has_spoken());
            writer.say(Opcode::Ping, b"?");
            assert!(!writer.poll(&mut cx, &outbox).is_ready());
        }
    }
}
