//! Limits on what a connection sends: its rate, and messages that do not end.
//!
//! [`RateLimitedSocket`] wraps the socket below the frame decoder. Bytes are counted as they are read, messages when the
//! reader reports them; both are charged before the next read, so a message costs one addition here. While a
//! connection is over its rate it is not read: its data stays in the kernel's buffers, which becomes TCP
//! backpressure.

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
use crate::ids::SessionId;
use crate::limits::{MAX_PAUSE, Meter, Seat, SessionUsers};
use crate::outbox::Outbox;

/// Minimum rate of a message: every this many bytes received extend its time limit by one second.
const SLOWEST_BYTES_PER_SECOND: u64 = 4 * 1024;
/// Bytes of unfinished messages are reserved in steps of this size.
const PARTIAL_STEP: usize = 64 * 1024;
/// Header of a client's control frame, in bytes.
const CONTROL_HEAD: usize = 6;

/// Rate and unfinished message of one connection. Shared by the socket's wrapper, the reader and the timers.
pub(super) struct RateLimiter {
    session: SessionId,
    meter: Meter,
    address_meter: Option<Arc<Meter>>,
    users: Arc<SessionUsers>,
    context: Arc<Context>,
    outbox: Arc<Outbox>,
    /// Messages and bytes not charged yet.
    messages: AtomicU64,
    bytes: AtomicU64,
    /// Bytes since the end of the last message.
    partial: AtomicUsize,
    /// Bytes reserved in the process-wide limit for the unfinished message.
    reserved: AtomicUsize,
    /// Timer ticks since the end of the last message.
    ticks: AtomicU64,
    /// `partial` when the timers last found that it had grown, and `ticks` then.
    grown_to: AtomicUsize,
    grown_at_tick: AtomicU64,
    /// The current message is being dropped; none of it is stored.
    is_skipping: AtomicBool,
    /// Bytes were received, or a message was handled, since the timers last checked.
    has_received: AtomicBool,
}

impl RateLimiter {
    pub(super) fn new(
        session: SessionId,
        context: &Arc<Context>,
        seat: Option<&Seat>,
        users: &Arc<SessionUsers>,
        outbox: &Arc<Outbox>,
    ) -> Self {
        Self {
            session,
            meter: Meter::new(context.services.gate.limits().rate),
            address_meter: seat.map(|seat| Arc::clone(seat.address_meter())),
            users: Arc::clone(users),
            context: Arc::clone(context),
            outbox: Arc::clone(outbox),
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            partial: AtomicUsize::new(0),
            reserved: AtomicUsize::new(0),
            ticks: AtomicU64::new(0),
            grown_to: AtomicUsize::new(0),
            grown_at_tick: AtomicU64::new(0),
            is_skipping: AtomicBool::new(false),
            has_received: AtomicBool::new(false),
        }
    }

    /// The current message is dropped as it arrives: from now on its bytes count towards the rate only.
    pub(super) fn skip(&self) {
        self.is_skipping.store(true, Ordering::Relaxed);
        self.begin_message();
        self.release();
    }

    /// True if the client has shown since the last call that it is alive. Any byte does: what a client sends while it
    /// uploads a long message, such as pongs, waits behind that message.
    pub(super) fn take_has_received(&self) -> bool {
        self.has_received.swap(false, Ordering::Relaxed)
    }

    /// A message was handled, possibly long after it was received.
    pub(super) fn note_handled(&self) {
        self.has_received.store(true, Ordering::Relaxed);
    }

    /// A message is complete and was dropped or handled: releases its reserved bytes.
    pub(super) fn finish_message(&self) {
        self.complete_message();
        self.release();
    }

    /// A message is complete; its reserved bytes stay reserved until [`RateLimiter::release`].
    pub(super) fn complete_message(&self) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.is_skipping.store(false, Ordering::Relaxed);
        self.begin_message();
        if self.reserved.load(Ordering::Relaxed) > 0 {
            self.context.services.gate.partial_memory().complete_message(self.session);
        }
    }

    /// The next message may begin.
    fn begin_message(&self) {
        self.partial.store(0, Ordering::Relaxed);
        self.ticks.store(0, Ordering::Relaxed);
        self.grown_to.store(0, Ordering::Relaxed);
        self.grown_at_tick.store(0, Ordering::Relaxed);
    }

    /// A control frame was received, possibly in the middle of a message.
    pub(super) fn control_frame(&self, payload_bytes: usize) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let partial = self.partial.load(Ordering::Relaxed).saturating_sub(CONTROL_HEAD + payload_bytes);
        if partial == 0 {
            self.begin_message();
        } else {
            self.partial.store(partial, Ordering::Relaxed);
        }
    }

    /// Called at every tick of the timers: closes a session whose message takes too long, or of which no byte arrives.
    pub(super) fn tick(&self) {
        let partial = self.partial.load(Ordering::Relaxed);
        if partial == 0 {
            return;
        }
        let ticks = self.ticks.fetch_add(1, Ordering::Relaxed) + 1;
        // Compared with the maximum so far: a control frame of which a part has arrived is counted until it is complete.
        if self.grown_to.fetch_max(partial, Ordering::Relaxed) < partial {
            self.grown_at_tick.store(ticks, Ordering::Relaxed);
        }
        let time = |ticks| self.context.limits.tick.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX));
        let message_time = self.context.limits.message_time;
        let allowed = message_time + Duration::from_secs(partial as u64 / SLOWEST_BYTES_PER_SECOND);
        let idle_ticks = ticks - self.grown_at_tick.load(Ordering::Relaxed);
        if time(ticks) > allowed || time(idle_ticks) > message_time {
            self.context.services.gate.metrics().partial_refused.inc();
            self.outbox.close(Close::TimedOut);
        }
    }

    /// Counts bytes that were read.
    fn read(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.has_received.store(true, Ordering::Relaxed);
        if self.is_skipping.load(Ordering::Relaxed) {
            return;
        }
        self.reserve(self.partial.fetch_add(bytes, Ordering::Relaxed) + bytes);
    }

    /// Charges everything since the last call; returns the time until which nothing should be read.
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
        self.context.services.gate.metrics().pauses.inc();
        if pause > MAX_PAUSE {
            self.context.services.gate.metrics().floods.inc();
            self.outbox.close(Close::TooMany("rate limit exceeded by far: too many messages or bytes".into()));
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
        let gate = &self.context.services.gate;
        let closed = gate.partial_memory().grow_message(self.session, more, &self.outbox);
        gate.metrics().partial_refused.inc_by(closed);
    }

    /// Releases all reserved bytes.
    pub(super) fn release(&self) {
        if self.reserved.swap(0, Ordering::Relaxed) > 0 {
            self.context.services.gate.partial_memory().release_message(self.session);
        }
    }
}

impl Drop for RateLimiter {
    fn drop(&mut self) {
        self.release();
    }
}

/// A socket that is not read while its connection is over the rate limit.
pub(super) struct RateLimitedSocket<'a, S> {
    socket: S,
    limiter: &'a RateLimiter,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<'a, S> RateLimitedSocket<'a, S> {
    pub(super) fn new(socket: S, limiter: &'a RateLimiter) -> Self {
        Self { socket, limiter, pause: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for RateLimitedSocket<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.pause.is_none()
            && let Some(until) = self.limiter.charge()
        {
            self.pause = Some(Box::pin(sleep_until(until)));
        }
        if let Some(pause) = &mut self.pause {
            task::ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let before = buf.filled().len();
        task::ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        self.limiter.read(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}
