//! How much a connection sends: its rate, and the message that does not come to its end.
//!
//! It sits between the socket and whatever decodes frames. Bytes are counted as they are read, messages as the reader
//! reports them; both are charged before the next read, so that a message costs one addition here. While a connection owes
//! time nothing is read: what it sends stays in the kernel's buffers, and TCP pushes back.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{self, Poll};
use std::time::Duration;

use syncline_protocol::close::Close;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Context;
use super::users::Users;
use crate::limits::{MAX_PAUSE, Meter, Seat};
use crate::outbox::Outbox;

/// A message may take a second more for each of these that has come: slow is not hostile.
const SLOWEST_BYTES_PER_SECOND: u64 = 4 * 1024;
/// Unfinished messages are counted in steps of this.
const PARTIAL_STEP: usize = 64 * 1024;
/// What a client's control frame has besides its payload.
const CONTROL_HEAD: usize = 6;

/// What one connection has sent. Shared by the socket's wrapper, the reader and the clock.
pub(super) struct Pace {
    meter: Meter,
    address_meter: Option<Arc<Meter>>,
    users: Arc<Users>,
    context: Arc<Context>,
    outbox: Arc<Outbox>,
    /// Messages and bytes not yet charged.
    messages: AtomicU64,
    bytes: AtomicU64,
    /// Bytes since the last message came to its end.
    partial: AtomicUsize,
    /// Reserved for them.
    reserved: AtomicUsize,
    /// Ticks since then.
    ticks: AtomicU64,
    /// The message that comes is read and dropped: nothing of it is held.
    is_skipping: AtomicBool,
    /// Bytes of such a message came since the clock asked.
    has_skipped: AtomicBool,
}

impl Pace {
    pub(super) fn new(context: &Arc<Context>, seat: Option<&Seat>, users: &Arc<Users>, outbox: &Arc<Outbox>) -> Self {
        Self {
            meter: Meter::new(context.gate.limits().rate),
            address_meter: seat.map(|seat| Arc::clone(seat.address_meter())),
            users: Arc::clone(users),
            context: Arc::clone(context),
            outbox: Arc::clone(outbox),
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            partial: AtomicUsize::new(0),
            reserved: AtomicUsize::new(0),
            ticks: AtomicU64::new(0),
            is_skipping: AtomicBool::new(false),
            has_skipped: AtomicBool::new(false),
        }
    }

    /// The message that has begun is dropped as it comes: from now on its bytes count for the rate only.
    pub(super) fn skip(&self) {
        self.is_skipping.store(true, Ordering::Relaxed);
        self.partial.store(0, Ordering::Relaxed);
        self.ticks.store(0, Ordering::Relaxed);
        self.release();
    }

    /// True when bytes of a dropped message came since this was last asked: its sender is alive.
    pub(super) fn take_skipped(&self) -> bool {
        self.has_skipped.swap(false, Ordering::Relaxed)
    }

    /// A message of the dialect was dropped, or is complete and of no further use.
    pub(super) fn message(&self) {
        self.complete();
        self.release();
    }

    /// A message of the dialect is complete; what is reserved for it stays so until [`Pace::release`].
    pub(super) fn complete(&self) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.is_skipping.store(false, Ordering::Relaxed);
        self.partial.store(0, Ordering::Relaxed);
        self.ticks.store(0, Ordering::Relaxed);
    }

    /// A control frame came; it may lie within a message that is not complete.
    pub(super) fn control(&self, payload_bytes: usize) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let partial = self.partial.load(Ordering::Relaxed).saturating_sub(CONTROL_HEAD + payload_bytes);
        self.partial.store(partial, Ordering::Relaxed);
        if partial == 0 {
            self.ticks.store(0, Ordering::Relaxed);
        }
    }

    /// Called by the clock, every `tick`: a message that takes too long ends its session.
    pub(super) fn tick(&self) {
        let partial = self.partial.load(Ordering::Relaxed) as u64;
        if partial == 0 {
            return;
        }
        let ticks = self.ticks.fetch_add(1, Ordering::Relaxed) + 1;
        let allowed = self.context.limits.message_time + Duration::from_secs(partial / SLOWEST_BYTES_PER_SECOND);
        if self.context.limits.tick.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX)) > allowed {
            self.context.gate.metrics().partial_refused.inc();
            self.outbox.close(Close::TimedOut);
        }
    }

    /// Bytes were read.
    fn read(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.is_skipping.load(Ordering::Relaxed) {
            return self.has_skipped.store(true, Ordering::Relaxed);
        }
        self.reserve(self.partial.fetch_add(bytes, Ordering::Relaxed) + bytes);
    }

    /// Charges what came since the last time; tells until when nothing more should be read.
    fn charge(&self) -> Option<Instant> {
        let (messages, bytes) = (self.messages.swap(0, Ordering::Relaxed), self.bytes.swap(0, Ordering::Relaxed));
        if messages == 0 && bytes == 0 {
            return None;
        }
        let now = Instant::now();
        let own = self.meter.take(messages, bytes, now);
        let together = self.address_meter.as_ref().map_or(Duration::ZERO, |meter| meter.take(messages, bytes, now));
        let pause = own.max(together).max(self.users.charge(messages, bytes, now));
        if pause.is_zero() {
            return None;
        }
        self.context.gate.metrics().pauses.inc();
        if pause > MAX_PAUSE {
            self.context.gate.metrics().floods.inc();
            self.outbox.close(Close::TooMany("too many messages or bytes in too short a time".into()));
        }
        Some(now + pause.min(MAX_PAUSE))
    }

    fn reserve(&self, partial: usize) {
        let reserved = self.reserved.load(Ordering::Relaxed);
        if partial <= reserved.max(PARTIAL_STEP) {
            return;
        }
        let more = partial.next_multiple_of(PARTIAL_STEP) - reserved;
        self.reserved.store(reserved + more, Ordering::Relaxed);
        if !self.context.gate.reserve(more) {
            // Given back at once, or the next would go over, too.
            self.release();
            self.context.gate.metrics().partial_refused.inc();
            let reason = "this server holds too many unfinished messages; please try later";
            self.outbox.close(Close::TooMany(reason.into()));
        }
    }

    /// Nothing is held any more.
    pub(super) fn release(&self) {
        let reserved = self.reserved.swap(0, Ordering::Relaxed);
        if reserved > 0 {
            self.context.gate.release(reserved);
        }
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        self.release();
    }
}

/// A socket that is read at the pace its connection may have.
pub(super) struct Paced<'a, S> {
    socket: S,
    pace: &'a Pace,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<'a, S> Paced<'a, S> {
    pub(super) fn new(socket: S, pace: &'a Pace) -> Self {
        Self { socket, pace, pause: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.pause.is_none()
            && let Some(until) = self.pace.charge()
        {
            self.pause = Some(Box::pin(sleep_until(until)));
        }
        if let Some(pause) = &mut self.pause {
            task::ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let before = buf.filled().len();
        task::ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        self.pace.read(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}
