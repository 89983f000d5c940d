//! Ending a session: immediately, after queued replies, or some timer ticks later.

use syncline_protocol::close::Close;

use super::{Outbox, QueuedFrame};

/// Ticks from [`Outbox::close_later`] to the end of the session: 14 to 21 s with ticks of 7 s.
const CLOSE_LATER_TICKS: u32 = 3;

impl Outbox {
    /// Closes the session: queued replies are still sent, everything else is dropped, then the writer sends
    /// `close` and stops. If called again, the first reason is kept.
    pub fn close(&self, close: Close) {
        let mut inner = self.lock();
        if inner.close.is_none() {
            let too_slow = close == Close::TooSlow;
            inner.queue.retain(|(_, queued)| {
                !too_slow && matches!(queued, QueuedFrame::Control { .. } | QueuedFrame::Text { .. })
            });
            if too_slow {
                inner.positions.clear()
            } else {
                inner.positions.keep_acks()
            }
            inner.recount_bytes();
            inner.behind.clear();
            inner.close = Some(close);
        }
        self.notify_reader(inner);
    }

    /// Closes the session three timer ticks later, because its client would reconnect within a second and
    /// meet the same failure. It is read until then.
    pub fn close_later(&self, close: Close) {
        let mut inner = self.lock();
        if inner.close_later.is_none() {
            inner.close_later = Some(Box::new((close, CLOSE_LATER_TICKS)));
        }
    }

    /// Called by the session's timers at each tick.
    pub fn tick(&self) {
        let mut inner = self.lock();
        let Some(pending) = &mut inner.close_later else { return };
        pending.1 -= 1;
        if pending.1 == 0
            && let Some(pending) = inner.close_later.take()
        {
            drop(inner);
            self.close(pending.0);
        }
    }

    /// Makes the session's reader check that its client has authenticated.
    pub fn ask_for_authentication(&self) {
        let mut inner = self.lock();
        inner.must_authenticate = true;
        self.notify_reader(inner);
    }

    /// Ends the session immediately: nothing more is sent.
    pub fn cut(&self) {
        let mut inner = self.lock();
        inner.is_cut = true;
        self.notify_reader(inner);
    }
}
