//! Outbox -> socket. Everything queued is one write; the writer never waits for a document.
//!
//! The session's task writes, and so does any task that pushed onto an empty outbox ([`DirectSink`]): one at a
//! time, under a lock.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use syncline_protocol::close::Close;
use syncline_replica::Pieces;

use super::codec::{self, Opcode};
use super::wire::Wire;
use crate::outbox::{DirectSink, FrameKind, Outbox, Taken};

/// Frames up to this size are copied into one buffer; larger ones are written without copying.
const MAX_COPIED_BYTES: usize = 16 * 1024;
/// Pieces of a larger frame up to this size are copied.
const MAX_COPIED_PIECE_BYTES: usize = 127;
/// Pieces per write when the socket accepts bytes again.
const MAX_PIECES: usize = 64;
/// Batches written before the reader is polled again.
const MAX_BATCHES: usize = 4;
/// A larger buffer is freed after use.
const MAX_KEPT_BYTES: usize = 512 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The connection failed, stalled or was cut: nothing more can be sent.
#[derive(Debug)]
pub(super) struct Broken;

/// Frames for one write.
struct Batch<'a> {
    copied: &'a mut Vec<u8>,
    /// Payloads that are not copied, each with its offset in `copied`.
    shared: Vec<(usize, Bytes)>,
}

impl Batch<'_> {
    fn put(&mut self, opcode: Opcode, payload: Pieces) {
        codec::write_head(self.copied, opcode, payload.len());
        let is_large = payload.len() > MAX_COPIED_BYTES;
        for piece in payload {
            if is_large && piece.len() > MAX_COPIED_PIECE_BYTES {
                self.shared.push((self.copied.len(), piece));
            } else {
                self.copied.extend_from_slice(&piece);
            }
        }
    }

    /// All pieces, in order.
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

    /// The pieces after the first `written` bytes, in order.
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

/// The writer of a connection, shared by its task and by tasks that write directly.
pub(super) struct SharedWriter<W>(Mutex<Writer<W>>);

impl<W: Wire> SharedWriter<W> {
    pub(super) fn new(socket: W) -> Self {
        Self(Mutex::new(Writer::new(socket)))
    }

    /// Held only for non-blocking writes.
    pub(super) fn lock(&self) -> MutexGuard<'_, Writer<W>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a close frame and ends the outgoing stream.
    pub(super) async fn close(&self, frame: Vec<u8>) -> Result<(), Broken> {
        self.lock().queue_close(frame);
        poll_fn(|cx| {
            let mut writer = self.lock();
            ready!(writer.poll_unsent(cx))?;
            Poll::Ready(writer.socket.shutdown())
        })
        .await
        .map_err(|_| Broken)
    }
}

impl<W: Wire> DirectSink for SharedWriter<W> {
    fn send(&self, outbox: &Outbox) {
        self.lock().write_direct(outbox);
    }
}

/// The writing half of a connection.
pub(super) struct Writer<W> {
    socket: W,
    /// Taken from the outbox or sent by the timers, and not yet accepted by the socket.
    unsent: VecDeque<Bytes>,
    /// Bytes that the socket has accepted so far.
    written: u64,
    /// A message was sent since the last call of [`Writer::take_has_sent_message`].
    has_sent_message: bool,
    /// The close frame was queued.
    is_closing: bool,
}

impl<W: Wire> Writer<W> {
    fn new(socket: W) -> Self {
        Self { socket, unsent: VecDeque::new(), written: 0, has_sent_message: false, is_closing: false }
    }

    /// Writes until nothing is queued or the socket is full; ready when the outbox is closed.
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

    /// Queues this frame after the unsent bytes.
    pub(super) fn queue_frame(&mut self, opcode: Opcode, payload: &[u8]) {
        let mut frame = Vec::with_capacity(codec::MAX_HEAD_BYTES + payload.len());
        codec::write_head(&mut frame, opcode, payload.len());
        frame.extend_from_slice(payload);
        self.unsent.push_back(frame.into());
    }

    fn queue_close(&mut self, last_frame: Vec<u8>) {
        self.unsent.push_back(last_frame.into());
        self.is_closing = true;
    }

    /// Writes what is queued in the outbox, if it is little, as far as the socket accepts it now.
    fn write_direct(&mut self, outbox: &Outbox) {
        if self.is_blocked() || self.is_closing {
            return;
        }
        let written = BUFFER.with_borrow_mut(|copied| {
            copied.clear();
            let mut batch = Batch { copied, shared: Vec::new() };
            let has_taken = outbox.take_direct(|kind, payload| self.put(&mut batch, kind, payload));
            has_taken.then(|| self.write(batch))
        });
        match written {
            None => {}
            Some(Ok(())) if self.is_blocked() => outbox.note_direct_blocked(),
            Some(Ok(())) => outbox.note_direct_sent(),
            Some(Err(_)) => outbox.cut(),
        }
    }

    /// True if the socket has not accepted everything.
    pub(super) fn is_blocked(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Bytes that the socket has accepted so far.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// True if a message was sent since the last call.
    pub(super) fn take_has_sent_message(&mut self) -> bool {
        std::mem::take(&mut self.has_sent_message)
    }

    fn poll_batch(&mut self, cx: &mut Context<'_>, outbox: &Outbox) -> Poll<io::Result<Taken>> {
        BUFFER.with_borrow_mut(|copied| {
            copied.clear();
            let mut batch = Batch { copied, shared: Vec::new() };
            let taken = ready!(outbox.poll_take(cx, |kind, payload| self.put(&mut batch, kind, payload)));
            if taken == Taken::Frames {
                self.write(batch)?;
            }
            if copied.capacity() > MAX_KEPT_BYTES {
                *copied = Vec::new();
            }
            Poll::Ready(Ok(taken))
        })
    }

    fn put(&mut self, batch: &mut Batch<'_>, kind: FrameKind, payload: Pieces) {
        match kind {
            FrameKind::Message => {
                self.has_sent_message = true;
                batch.put(Opcode::Binary, payload);
            }
            FrameKind::Text => batch.put(Opcode::Text, payload),
            FrameKind::Pong => batch.put(Opcode::Pong, payload),
            FrameKind::Ping => batch.put(Opcode::Ping, payload),
        }
    }

    /// Writes what the socket accepts now; the rest becomes unsent.
    fn write(&mut self, batch: Batch<'_>) -> io::Result<()> {
        let (written, len) = if batch.shared.is_empty() {
            (self.try_write(&[IoSlice::new(batch.copied)])?, batch.copied.len())
        } else {
            let pieces = batch.pieces();
            let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            (self.try_write(&slices)?, pieces.iter().map(|piece| piece.len()).sum())
        };
        let written = written.unwrap_or(0);
        if written < len {
            self.unsent = batch.rest(written);
        }
        Ok(())
    }

    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let pieces: Vec<Bytes> = self.unsent.iter().take(MAX_PIECES).cloned().collect();
            let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            match self.try_write(&slices)? {
                Some(written) => self.drop_written(written),
                None => ready!(self.socket.poll_writable(cx))?,
            }
        }
        if self.unsent.capacity() > 0 {
            self.unsent = VecDeque::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Removes bytes that the socket has accepted from the unsent ones.
    fn drop_written(&mut self, mut written: usize) {
        while let Some(next) = self.unsent.front_mut() {
            let taken = written.min(next.len());
            next.advance(taken);
            written -= taken;
            if !next.is_empty() {
                return;
            }
            self.unsent.pop_front();
        }
    }

    /// Number of bytes accepted by the socket; `None` if it is full.
    fn try_write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        match self.socket.try_write(pieces) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                self.written += written as u64;
                Ok(Some(written))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod schedules;
#[cfg(test)]
mod tests;
