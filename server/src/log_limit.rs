//! Limits log lines that repeat, such as refusals: the first of a kind in a minute is written, the others are counted.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// One line of each kind is written in this time.
pub const PERIOD: Duration = Duration::from_secs(60);

/// What a line is about, and its code if it has one.
pub type Kind = (&'static str, u16);

/// Which lines were written when. Kinds are few: they are literals, and codes of the protocol.
#[derive(Debug, Default)]
pub struct LogLimit {
    periods: Mutex<BTreeMap<Kind, Period>>,
}

#[derive(Debug)]
struct Period {
    began: Instant,
    /// Lines since then that were not written.
    suppressed: u64,
}

impl LogLimit {
    /// Counts an event. Returns the number of events before it that were not written, if its line is to be written now.
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

    /// Ends the periods that are over, or all of them if `now` is `None`. Returns how many lines of each kind were not written.
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
    fn one_line_of_a_kind_is_written_in_a_minute_and_the_others_are_counted() {
        let limit = LogLimit::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (full, denied) = (("closed", 4507), ("closed", 4403));
        assert_eq!(limit.admit(full, at(0)), Some(0));
        assert_eq!((1..60).filter_map(|second| limit.admit(full, at(second))).count(), 0);
        assert_eq!(limit.admit(denied, at(59)), Some(0), "kinds are counted apart");
        assert_eq!(limit.take_counts(Some(at(59))), []);
        assert_eq!(limit.admit(full, at(60)), Some(59));
        assert_eq!(limit.admit(full, at(61)), None);
        assert_eq!(limit.take_counts(Some(at(120))), [(full, 1)]);
        assert_eq!(limit.admit(full, at(121)), Some(0), "counted once");
        assert_eq!(limit.admit(full, at(122)), None);
        assert_eq!(limit.take_counts(None), [(full, 1)]);
    }
}
