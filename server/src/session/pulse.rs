//! The clock of a session: one timer for everything that follows from time passing.
//!
//! Nothing reads a clock per frame: what happened since the timer last went off is noted by flags, so a limit may be
//! noticed late by as much as a tick.

use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{self, Poll};

use bytes::Bytes;
use syncline_protocol::close::Close;
use tokio::time::{Instant, Sleep};

use super::Context;
use super::codec::Opcode;
use super::pace::Pace;
use super::wire::Wire;
use super::writer::{Broken, Writer};
use crate::outbox::Outbox;

/// Ticks without a message to the client before it is given a harmless one. With the default tick of 7 s a silent
/// session has one after 14 to 21 s; stock clients hang up after 30 s.
const QUIET_TICKS: u32 = 2;
/// Ticks from one ping to the next. Pings go out under traffic too: a client that only reads says nothing else.
const PING_TICKS: u32 = 3;

/// A session that takes fewer bytes from one tick to the next while memory is scarce is in the way of others.
const SLOW_BYTES_PER_TICK: u64 = 256 * 1024;

/// What the reader has seen of its client.
#[derive(Debug, Default)]
pub(super) struct Signs {
    /// Set at every frame, cleared by the clock.
    pub(super) heard: AtomicBool,
    /// What a silent client is sent. Set once the dialect is known.
    pub(super) heartbeat: OnceLock<Bytes>,
    /// Set by the reader for a dialect with tokens, cleared by the clock when the time for a first one is over.
    pub(super) must_authenticate: AtomicBool,
}

/// The clock.
pub(super) struct Pulse<'a> {
    timer: Pin<&'a mut Sleep>,
    context: &'a Context,
    signs: &'a Signs,
    pace: &'a Pace,
    /// The beginning of the session.
    began: Instant,
    /// The beginning of the session, then when the client was last heard.
    heard_at: Instant,
    next_tick: Instant,
    quiet_ticks: u32,
    ticks_since_ping: u32,
    /// Since when the socket has taken nothing, and how much it had taken until then.
    stalled: Option<(Instant, u64)>,
    /// How much it had taken at the last tick.
    written_at_tick: u64,
    is_closing: bool,
}

impl<'a> Pulse<'a> {
    /// `timer` is set here.
    pub(super) fn new(timer: Pin<&'a mut Sleep>, context: &'a Context, signs: &'a Signs, pace: &'a Pace) -> Self {
        let now = Instant::now();
        let next_tick = now + context.limits.tick;
        let (quiet_ticks, ticks_since_ping) = (0, 0);
        let mut pulse = Self {
            timer,
            context,
            signs,
            pace,
            began: now,
            heard_at: now,
            next_tick,
            quiet_ticks,
            ticks_since_ping,
            stalled: None,
            written_at_tick: 0,
            is_closing: false,
        };
        pulse.set_timer();
        pulse
    }

    /// Does what is due. Ready when the socket has taken nothing for too long.
    pub(super) fn poll<W: Wire>(
        &mut self,
        cx: &mut task::Context<'_>,
        writer: &mut Writer<W>,
        outbox: &Outbox,
    ) -> Poll<Broken> {
        if writer.is_blocked() != self.stalled.is_some() {
            self.stalled = writer.is_blocked().then(|| (Instant::now(), writer.written()));
            self.set_timer();
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if self.is_stalled(now, writer.written()) {
                self.count_vanished();
                return Poll::Ready(Broken);
            }
            self.listen(now, outbox);
            if now >= self.next_tick {
                self.next_tick = now + self.context.limits.tick;
                if self.is_in_the_way(writer, outbox) {
                    self.context.metrics.cut_for_memory.inc();
                    return Poll::Ready(Broken);
                }
                self.tick(writer);
                outbox.tick();
            }
            self.set_timer();
        }
        Poll::Pending
    }

    fn set_timer(&mut self) {
        let silent = (!self.is_closing).then(|| self.heard_at + self.silence());
        let unauthenticated = self.signs.must_authenticate.load(Ordering::Relaxed).then(|| self.auth_deadline());
        let stalled = self.stalled.map(|(since, _)| since + self.context.limits.write_stall);
        let next = silent.into_iter().chain(stalled).chain(unauthenticated).fold(self.next_tick, Instant::min);
        self.timer.as_mut().reset(next);
    }

    fn auth_deadline(&self) -> Instant {
        self.began + self.context.limits.authentication
    }

    fn silence(&self) -> std::time::Duration {
        if self.signs.heartbeat.get().is_some() { self.context.limits.silence } else { self.context.limits.first_frame }
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

    /// While memory for outboxes is scarce, one that holds some and has hardly taken any of it since the last tick is cut.
    fn is_in_the_way<W: Wire>(&mut self, writer: &Writer<W>, outbox: &Outbox) -> bool {
        let written = writer.written() - std::mem::replace(&mut self.written_at_tick, writer.written());
        writer.is_blocked() && written < SLOW_BYTES_PER_TICK && outbox.hoards()
    }

    /// Ends the session when the client has been silent for too long. One that only pings has not said who it is.
    fn listen(&mut self, now: Instant, outbox: &Outbox) {
        let has_skipped = self.pace.take_skipped();
        if (self.signs.heard.swap(false, Ordering::Relaxed) || has_skipped) && self.signs.heartbeat.get().is_some() {
            self.heard_at = now;
        }
        if now >= self.auth_deadline() && self.signs.must_authenticate.swap(false, Ordering::Relaxed) {
            outbox.ask_for_authentication();
        }
        if !self.is_closing && now >= self.heard_at + self.silence() {
            self.count_vanished();
            self.is_closing = true;
            outbox.close(Close::TimedOut);
        }
    }

    /// Once: who is silent may stall the last words, too.
    fn count_vanished(&self) {
        if !self.is_closing {
            self.context.metrics.vanished.inc();
        }
    }

    fn tick<W: Wire>(&mut self, writer: &mut Writer<W>) {
        self.quiet_ticks = if writer.has_spoken() { 0 } else { self.quiet_ticks + 1 };
        self.ticks_since_ping += 1;
        self.pace.tick();
        if writer.is_blocked() {
            // It would not hear more.
            return;
        }
        // Stock clients do not see pings: they are sent a message when they have received none.
        let heartbeat = self.signs.heartbeat.get().filter(|_| self.quiet_ticks >= QUIET_TICKS);
        // It may be the first message, before which there is a ping: see `offline_queue.rs`.
        if self.ticks_since_ping >= PING_TICKS || heartbeat.is_some() {
            self.ticks_since_ping = 0;
            writer.say(Opcode::Ping, &[]);
        }
        if let Some(heartbeat) = heartbeat {
            self.quiet_ticks = 0;
            writer.say(Opcode::Binary, heartbeat);
        }
    }
}
