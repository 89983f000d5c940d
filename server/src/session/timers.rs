//! The timers of a session: one tokio timer for everything that depends on time.
//!
//! No clock is read per frame: flags record what happened since the timer last fired, so a limit may be
//! detected up to one tick late.

use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{self, Poll};

use bytes::Bytes;
use syncline_protocol::close::Close;
use tokio::time::{Instant, Sleep};

use super::Context;
use super::rate_limit::RateLimiter;
use crate::outbox::{Broken, Outbox};
use crate::websocket::Opcode;

/// Ticks without a message to the client before it is sent a heartbeat. With the default tick of 7 s an idle
/// session gets one after 14 to 21 s; stock clients disconnect after 30 s.
const QUIET_TICKS: u32 = 2;
/// Ticks between pings. Pings are sent under traffic, too: a client that only reads sends nothing but pongs.
const PING_TICKS: u32 = 3;

/// While memory is scarce, a session whose socket accepts less than this per tick is cut.
const SLOW_BYTES_PER_TICK: u64 = 256 * 1024;

/// What the reader knows about its client.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    /// Message for a client that receives nothing else. Set once the dialect is known.
    pub(super) heartbeat: OnceLock<Bytes>,
    /// Set by the reader for a dialect with tokens, cleared by the timers when the time limit for the first
    /// one has passed.
    pub(super) must_authenticate: AtomicBool,
}

/// The timers of one session.
pub(super) struct Timers<'a> {
    timer: Pin<&'a mut Sleep>,
    context: &'a Context,
    liveness: &'a Liveness,
    limiter: &'a RateLimiter,
    /// Start of the session.
    began: Instant,
    /// Start of the session, later the last tick at which something had been received.
    last_received: Instant,
    next_tick: Instant,
    quiet_ticks: u32,
    ticks_since_ping: u32,
    /// Since when the socket has accepted nothing, and the bytes written until then.
    stalled: Option<(Instant, u64)>,
    /// Bytes written until the last tick.
    written_at_tick: u64,
    is_closing: bool,
}

impl<'a> Timers<'a> {
    /// `timer` is reset here.
    pub(super) fn new(
        timer: Pin<&'a mut Sleep>,
        context: &'a Context,
        liveness: &'a Liveness,
        limiter: &'a RateLimiter,
    ) -> Self {
        let now = Instant::now();
        let next_tick = now + context.limits.tick;
        let (quiet_ticks, ticks_since_ping) = (0, 0);
        let mut timers = Self {
            timer,
            context,
            liveness,
            limiter,
            began: now,
            last_received: now,
            next_tick,
            quiet_ticks,
            ticks_since_ping,
            stalled: None,
            written_at_tick: 0,
            is_closing: false,
        };
        timers.set_timer();
        timers
    }

    /// Runs what is due. Ready when the session must be cut.
    pub(super) fn poll(&mut self, cx: &mut task::Context<'_>, outbox: &Outbox) -> Poll<Broken> {
        if outbox.is_blocked() != self.stalled.is_some() {
            self.stalled = outbox.is_blocked().then(|| (Instant::now(), outbox.written()));
            self.set_timer();
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if self.is_stalled(now, outbox.written()) {
                self.count_vanished();
                return Poll::Ready(Broken);
            }
            self.check_silence(now, outbox);
            if now >= self.next_tick {
                self.next_tick = now + self.context.limits.tick;
                if self.must_be_cut(outbox) {
                    self.context.services.metrics.cut_for_memory.inc();
                    return Poll::Ready(Broken);
                }
                self.tick(outbox);
                outbox.tick();
            }
            self.set_timer();
        }
        Poll::Pending
    }

    fn set_timer(&mut self) {
        let silent = (!self.is_closing).then(|| self.last_received + self.silence_limit());
        let unauthenticated = self.liveness.must_authenticate.load(Ordering::Relaxed).then(|| self.auth_deadline());
        let stalled = self.stalled.map(|(since, _)| since + self.context.limits.write_stall);
        let next = silent.into_iter().chain(stalled).chain(unauthenticated).fold(self.next_tick, Instant::min);
        self.timer.as_mut().reset(next);
    }

    fn auth_deadline(&self) -> Instant {
        self.began + self.context.limits.authentication
    }

    fn silence_limit(&self) -> std::time::Duration {
        if self.liveness.heartbeat.get().is_some() {
            self.context.limits.silence
        } else {
            self.context.limits.first_frame
        }
    }

    fn is_stalled(&mut self, now: Instant, written: u64) -> bool {
        match &mut self.stalled {
            Some((since, before)) if *before == written => now >= *since + self.context.limits.write_stall,
            Some(stalled) => {
                *stalled = (now, written);
                false
            }
            None => false,
        }
    }

    /// True if memory for outboxes is scarce and this one holds some of it, but has hardly drained since the
    /// last tick.
    fn must_be_cut(&mut self, outbox: &Outbox) -> bool {
        let written = outbox.written() - std::mem::replace(&mut self.written_at_tick, outbox.written());
        outbox.is_blocked() && written < SLOW_BYTES_PER_TICK && outbox.exceeds_scarce_limit()
    }

    /// Closes the session if the client has been silent for too long. Before the dialect is known, nothing
    /// counts.
    fn check_silence(&mut self, now: Instant, outbox: &Outbox) {
        if self.limiter.take_has_received() && self.liveness.heartbeat.get().is_some() {
            self.last_received = now;
        }
        if now >= self.auth_deadline() && self.liveness.must_authenticate.swap(false, Ordering::Relaxed) {
            outbox.ask_for_authentication();
        }
        if !self.is_closing && now >= self.last_received + self.silence_limit() {
            self.count_vanished();
            self.is_closing = true;
            outbox.close(Close::TimedOut);
        }
    }

    /// Counts a vanished client, once: it may also stall the close frame.
    fn count_vanished(&self) {
        if !self.is_closing {
            self.context.services.metrics.vanished.inc();
        }
    }

    fn tick(&mut self, outbox: &Outbox) {
        self.quiet_ticks = if outbox.take_has_sent_message() { 0 } else { self.quiet_ticks + 1 };
        self.ticks_since_ping += 1;
        self.limiter.tick();
        if outbox.is_blocked() {
            // The client would not receive more.
            return;
        }
        // Stock clients do not see pings: send a message if there was none.
        let heartbeat = self.liveness.heartbeat.get().filter(|_| self.quiet_ticks >= QUIET_TICKS);
        // It may be the first message of the session, which needs a ping before it: see `dialect/hocuspocus/offline_queue.rs`.
        if self.ticks_since_ping >= PING_TICKS || heartbeat.is_some() {
            self.ticks_since_ping = 0;
            outbox.queue_frame(Opcode::Ping, &[]);
        }
        if let Some(heartbeat) = heartbeat {
            self.quiet_ticks = 0;
            outbox.queue_frame(Opcode::Binary, heartbeat);
        }
    }
}
