//! Limits repeated log lines, such as refusals: the first line of a kind in each minute is written, the others
//! are counted.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// At most one line of each kind is written in this period.
pub(crate) const PERIOD: Duration = Duration::from_secs(60);

/// A line's subject, and its close code or HTTP status (0: none).
pub(crate) type Kind = (&'static str, u16);

/// The current period of each kind. There are few kinds: subjects are literals, codes come from the protocol.
#[derive(Debug, Default)]
pub struct LogLimit {
    periods: Mutex<BTreeMap<Kind, Period>>,
}

#[derive(Debug)]
struct Period {
    began: Instant,
    /// Lines since `began` that were not written.
    suppressed: u64,
}

impl LogLimit {
    /// Counts a line. Returns `None` if it must not be written, otherwise the number of lines suppressed before it.
    pub fn admit(&self, kind: Kind, now: Instant) -> Option<u64> {
        let mut periods = self.lock();
        match periods.get_mut(&kind) {
            Some(period) if now.duration_since(period.began) < PERIOD => {
                period.suppressed += 1;
                None
            }
            Some(period) => {
                period.began = now;
                Some(std::mem::take(&mut period.suppressed))
            }
            None => {
                periods.insert(kind, Period { began: now, suppressed: 0 });
                Some(0)
            }
        }
    }

    /// Ends the periods that are over at `now`, or all of them if `now` is `None`. Returns how many lines of
    /// each kind were suppressed.
    pub fn take_counts(&self, now: Option<Instant>) -> Vec<(Kind, u64)> {
        let is_over = |period: &Period| now.is_none_or(|now| now.duration_since(period.began) >= PERIOD);
        let mut counts = Vec::new();
        self.lock().retain(|&kind, period| {
            let is_kept = !is_over(period);
            if !is_kept && period.suppressed > 0 {
                counts.push((kind, period.suppressed));
            }
            is_kept
        });
        counts
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Kind, Period>> {
        self.periods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_line_is_written_once_a_minute_and_otherwise_counted() {
        let limit = LogLimit::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (full, denied) = (("closed", 4507), ("closed", 4403));
        assert_eq!(limit.admit(full, at(0)), Some(0));
        assert_eq!((1..60).filter_map(|second| limit.admit(full, at(second))).count(), 0);
        assert_eq!(limit.admit(denied, at(59)), Some(0), "each kind is counted separately");
        assert_eq!(limit.take_counts(Some(at(59))), []);
        assert_eq!(limit.admit(full, at(60)), Some(59));
        assert_eq!(limit.admit(full, at(61)), None);
        assert_eq!(limit.take_counts(Some(at(120))), [(full, 1)]);
        assert_eq!(limit.admit(full, at(121)), Some(0), "suppressed lines are reported only once");
        assert_eq!(limit.admit(full, at(122)), None);
        assert_eq!(limit.take_counts(None), [(full, 1)]);
    }
}
