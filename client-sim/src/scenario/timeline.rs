//! What happened, when in virtual time, to whom: printed at once, or kept for when it fails.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use super::clock::VirtualTime;

/// The timeline of one run.
pub struct Timeline {
    time: VirtualTime,
    lines: Mutex<String>,
    aloud: bool,
}

impl Timeline {
    /// A timeline that prints itself, or keeps what it is told.
    pub fn new(time: VirtualTime, aloud: bool) -> Self {
        Self { time, lines: Mutex::default(), aloud }
    }

    /// A line; `who` is empty for what concerns everybody.
    pub fn tell(&self, who: &str, what: &str) {
        let at = when(self.time.passed_ms());
        if self.aloud {
            // Nobody reads it any more: no reason to stop the run.
            drop(writeln!(std::io::stdout().lock(), "{at}  {who:<8}  {what}"));
        } else {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push_str(&format!("{at}  {who:<8}  {what}\n"));
        }
    }

    /// What was kept.
    pub fn kept(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn when(ms: i64) -> String {
    let s = ms / 1000;
    format!("day {:>3} {:02}:{:02}:{:02}", s / 86_400, s / 3600 % 24, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_days_and_seconds_are_told() {
        assert_eq!(when(0), "day   0 00:00:00");
        assert_eq!(when((30 * 86_400 + 3 * 3600 + 4 * 60 + 5) * 1000), "day  30 03:04:05");
    }
}
