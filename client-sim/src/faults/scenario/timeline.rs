//! A log of the scenario in virtual time: printed line by line, or collected and printed when the run fails.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use super::clock::VirtualTime;

/// The timeline of one run.
pub(super) struct Timeline {
    time: VirtualTime,
    lines: Mutex<String>,
    verbose: bool,
}

impl Timeline {
    /// Creates a timeline that prints its lines (`verbose`) or collects them.
    pub(super) fn new(time: VirtualTime, verbose: bool) -> Self {
        Self { time, lines: Mutex::default(), verbose }
    }

    /// Adds a line. `subject` is the device or the server, or empty for what concerns the whole scenario.
    pub(super) fn add(&self, subject: &str, what: &str) {
        let at = format_time(self.time.passed_ms());
        if self.verbose {
            // A closed standard output is no reason to stop the run.
            drop(writeln!(std::io::stdout().lock(), "{at}  {subject:<8}  {what}"));
        } else {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push_str(&format!("{at}  {subject:<8}  {what}\n"));
        }
    }

    /// The collected lines.
    pub(super) fn collected(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn format_time(ms: i64) -> String {
    let s = ms / 1000;
    format!("day {:>3} {:02}:{:02}:{:02}", s / 86_400, s / 3600 % 24, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_time_shows_day_and_time_of_day() {
        assert_eq!(format_time(0), "day   0 00:00:00");
        assert_eq!(format_time((30 * 86_400 + 3 * 3600 + 4 * 60 + 5) * 1000), "day  30 03:04:05");
    }
}
