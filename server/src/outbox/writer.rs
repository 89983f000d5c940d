//! Queue -> socket: everything queued is one write, and no write waits.
//!
//! The session's task writes, and so does any task that pushed onto an empty outbox ([`Outbox::send`]), in its own
//! turn and without waking the session's task: one at a time, under the writer's lock. Frames keep their order
//! because its holder takes what is queued and writes it before it releases the lock. What the socket does not
//! accept stays in the outbox as *unsent*; while there is any, the socket is full, and the session's task writes
//! it and everything behind it. Only small amounts are written directly, so a turn stays short whatever is queued
//! for one reader.
//!
//! Two locks: the writer's is held during a write, the queue's is not, so a push never waits for a write. The
//! writer's is taken first.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::{MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use syncline_protocol::close::Close;
use syncline_replica::Pieces;

use super::{Outbox, OutboxOutput};
use crate::websocket::{self, Opcode};

/// Frames up to this size are copied into one buffer; larger ones are written without copying.
const MAX_COPIED_BYTES: usize = 16 * 1024;
/// Pieces of a larger frame up to this size are copied.
const MAX_COPIED_PIECE_BYTES: usize = 127;
/// Batches written before the reader is polled again.
const MAX_BATCHES: usize = 4;
/// A larger buffer is freed after use.
const MAX_KEPT_BYTES: usize = 512 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The writing half of a connection. No method waits.
pub trait Wire: Send + Sync + 'static {
    /// Writes as much of the pieces as the socket accepts now; [`io::ErrorKind::WouldBlock`] if it accepts
    /// nothing.
    fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Ready when the socket may accept bytes again. Called by the session's task only.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ends the outgoing stream.
    fn shutdown(&self) -> io::Result<()>;
}

/// The connection failed, stalled or was cut: nothing more can be sent.
#[derive(Debug)]
pub(crate) struct Broken;

/// Frames for one write.
struct Batch<'a> {
    copied: &'a mut Vec<u8>,
    /// Payloads that are not copied, each with its offset in `copied`.
    shared: Vec<(usize, Bytes)>,
}

impl Batch<'_> {
    fn put(&mut self, opcode: Opcode, payload: Pieces) {
        websocket::write_head(self.copied, opcode, payload.len());
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

/// Writes the frames of an outbox to its socket.
#[derive(Default)]
pub(super) struct SocketWriter {
    /// `None` if a task takes what is pushed, and after the session has ended.
    wire: Option<Box<dyn Wire>>,
    /// Bytes that the socket has accepted so far.
    written: u64,
    /// A message was sent since the last call of [`Outbox::take_has_sent_message`].
    has_sent_message: bool,
    /// The close frame was queued.
    is_closing: bool,
}

impl Outbox {
    /// Sends what was pushed. Must be called after a push returned [`super::Pushed::First`].
    pub fn send(&self) {
        let mut writer = self.lock_writer();
        if writer.wire.is_none() {
            return self.send_later();
        }
        if !writer.is_closing {
            writer.write_direct(self);
        }
    }

    /// Like [`Outbox::send`], but by the session's task when it runs next: frames pushed until then join the
    /// same write, and many small writes cost a busy document more than waking tasks.
    pub fn send_later(&self) {
        self.wake_writer(self.lock());
    }

    /// Writes until nothing is queued or the socket is full; ready when the outbox is closed. Called by the
    /// session's task only.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>) -> Poll<Result<Close, Broken>> {
        let mut writer = self.lock_writer();
        for _ in 0..MAX_BATCHES {
            match writer.poll_unsent(cx, self) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken)),
                Poll::Pending if self.poll_blocked(cx) => return Poll::Ready(Err(Broken)),
                Poll::Pending => return Poll::Pending,
            }
            match ready!(writer.poll_batch(cx, self)) {
                Ok(OutboxOutput::Frames) => {}
                Ok(OutboxOutput::Close(close)) => return Poll::Ready(Ok(close)),
                Ok(OutboxOutput::Cut) | Err(_) => return Poll::Ready(Err(Broken)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Queues a frame of the session's timers after the unsent bytes.
    pub(crate) fn queue_frame(&self, opcode: Opcode, payload: &[u8]) {
        let mut frame = Vec::with_capacity(websocket::MAX_HEAD_BYTES + payload.len());
        websocket::write_head(&mut frame, opcode, payload.len());
        frame.extend_from_slice(payload);
        self.lock().unsent.push(frame);
    }

    /// Sends a close frame and ends the outgoing stream.
    pub(crate) async fn close_socket(&self, frame: Vec<u8>) -> Result<(), Broken> {
        self.lock_writer().is_closing = true;
        self.lock().unsent.push(frame);
        poll_fn(|cx| {
            let mut writer = self.lock_writer();
            ready!(writer.poll_unsent(cx, self))?;
            Poll::Ready(writer.wire()?.shutdown())
        })
        .await
        .map_err(|_| Broken)
    }

    /// Closes the socket: the session has ended.
    pub(crate) fn disconnect(&self) {
        self.lock_writer().wire = None;
        self.lock().unsent.clear();
    }

    /// True if the socket has not accepted everything.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.lock().unsent.is_empty()
    }

    /// Bytes that the socket has accepted so far.
    pub(crate) fn written(&self) -> u64 {
        self.lock_writer().written
    }

    /// True if a message was sent since the last call.
    pub(crate) fn take_has_sent_message(&self) -> bool {
        std::mem::take(&mut self.lock_writer().has_sent_message)
    }

    /// Held only for non-blocking writes.
    fn lock_writer(&self) -> MutexGuard<'_, SocketWriter> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SocketWriter {
    pub(super) fn new(wire: impl Wire) -> Self {
        Self { wire: Some(Box::new(wire)), ..Self::default() }
    }

    fn wire(&self) -> io::Result<&dyn Wire> {
        self.wire.as_deref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Writes what is queued, if it is little, as far as the socket accepts it now.
    fn write_direct(&mut self, outbox: &Outbox) {
        let written = BUFFER.with_borrow_mut(|copied| {
            copied.clear();
            let mut batch = Batch { copied, shared: Vec::new() };
            let has_taken = outbox.take_direct(|opcode, payload| self.put(&mut batch, opcode, payload));
            has_taken.then(|| self.write(batch, outbox))
        });
        match written {
            None => {}
            Some(Ok(())) => outbox.note_written_directly(),
            Some(Err(_)) => outbox.cut(),
        }
    }

    fn poll_batch(&mut self, cx: &mut Context<'_>, outbox: &Outbox) -> Poll<io::Result<OutboxOutput>> {
        BUFFER.with_borrow_mut(|copied| {
            copied.clear();
            let mut batch = Batch { copied, shared: Vec::new() };
            let taken = ready!(outbox.poll_take(cx, |opcode, payload| self.put(&mut batch, opcode, payload)));
            if taken == OutboxOutput::Frames {
                self.write(batch, outbox)?;
            }
            if copied.capacity() > MAX_KEPT_BYTES {
                *copied = Vec::new();
            }
            Poll::Ready(Ok(taken))
        })
    }

    fn put(&mut self, batch: &mut Batch<'_>, opcode: Opcode, payload: Pieces) {
        self.has_sent_message |= opcode == Opcode::Binary;
        batch.put(opcode, payload);
    }

    /// Writes what the socket accepts now; the rest becomes unsent.
    fn write(&mut self, batch: Batch<'_>, outbox: &Outbox) -> io::Result<()> {
        let (written, len) = if batch.shared.is_empty() {
            (self.try_write(&[IoSlice::new(batch.copied)])?, batch.copied.len())
        } else {
            let pieces = batch.pieces();
            let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            (self.try_write(&slices)?, pieces.iter().map(|piece| piece.len()).sum())
        };
        let written = written.unwrap_or(0);
        if written < len {
            let rest = batch.rest(written);
            outbox.lock().unsent.push_rest(rest);
        }
        Ok(())
    }

    fn poll_unsent(&mut self, cx: &mut Context<'_>, outbox: &Outbox) -> Poll<io::Result<()>> {
        loop {
            let pieces = outbox.lock().unsent.first_pieces();
            if pieces.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            match self.try_write(&slices)? {
                Some(written) => outbox.lock().unsent.drop_written(written),
                None => ready!(self.wire()?.poll_writable(cx))?,
            }
        }
    }

    /// Number of bytes accepted by the socket; `None` if it is full.
    fn try_write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        match self.wire()?.try_write(pieces) {
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

impl fmt::Debug for SocketWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketWriter").field("written", &self.written).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod schedules;
#[cfg(test)]
mod tests;
