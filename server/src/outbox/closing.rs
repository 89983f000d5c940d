//! PURE: how a session ends: immediately, after queued replies, or some timer ticks later.

use syncline_protocol::close::Close;

/// Ticks from [`Ending::close_later`] to the end of the session: 14 to 21 s with ticks of 7 s.
const CLOSE_LATER_TICKS: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct Ending {
    close: Option<Close>,
    /// Close reason for later, and the timer ticks left until then.
    close_later: Option<Box<(Close, u32)>>,
    is_cut: bool,
}

impl Ending {
    /// The reason why the session is closing.
    pub(super) fn reason(&self) -> Option<&Close> {
        self.close.as_ref()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.close.is_some()
    }

    /// True if the session ends now, without a close frame.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    pub(super) fn close(&mut self, close: Close) {
        self.close.get_or_insert(close);
    }

    pub(super) fn close_later(&mut self, close: Close) {
        self.close_later.get_or_insert_with(|| Box::new((close, CLOSE_LATER_TICKS)));
    }

    /// A timer tick. Returns the reason to close for after the last one.
    pub(super) fn tick(&mut self) -> Option<Close> {
        let (_, ticks) = self.close_later.as_deref_mut()?;
        *ticks -= 1;
        if *ticks > 0 { None } else { self.close_later.take().map(|pending| pending.0) }
    }

    pub(super) fn cut(&mut self) {
        self.is_cut = true;
    }
}
