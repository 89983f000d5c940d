//! Decides when the next commit begins: immediately, or slightly later so that it contains records of more documents.
//!
//! A commit costs about as much CPU for one document as for five: a dozen context switches and two disk waits. So while
//! many documents change steadily, commits start at least one interval apart. Readers get updates when they are applied
//! and are not affected; only acknowledgements are later. A delay does not pay, and none is made, when few records
//! arrive, or when the writers wait for their acknowledgement before they send the next record. (Like PostgreSQL's
//! `commit_delay` and `commit_siblings`, with a forecast of the siblings.)
//!
//! Pure: the log's thread records how commits went and asks for the delay.

use std::time::Duration;

/// A delay pays if at least this many documents are expected within one commit interval.
const SIBLINGS: f64 = 2.0;
/// Above this share of documents that were also in one of the last two commits, commits are not delayed.
const MAX_RETURNING_SHARE: f64 = 0.5;
/// The weight of one commit in the moving averages.
const WEIGHT: f64 = 0.125;
/// A pause counts as at most this many commit intervals, so that the averages adapt within a few commits after it.
const MAX_PERIOD_INTERVALS: u32 = 8;

/// A commit at its start.
#[derive(Debug, Clone, Copy)]
pub(super) struct CommitStart {
    /// Documents in the commit.
    pub documents: usize,
    /// Of these, the documents that were also in one of the last two commits.
    pub returning: usize,
    /// Time since the previous commit started.
    pub period: Duration,
}

/// Moving averages over the past commits. Written by the log's thread.
#[derive(Debug)]
pub(super) struct CommitPacing {
    /// The time between commit starts when a delay pays. Zero: commits are never delayed.
    interval: Duration,
    documents: f64,
    returning: f64,
    period_seconds: f64,
}

impl CommitPacing {
    /// Starts without history: the first commits are not delayed.
    pub(crate) fn new(interval: Duration) -> Self {
        let period = interval * MAX_PERIOD_INTERVALS;
        Self { interval, documents: 0.0, returning: 0.0, period_seconds: period.as_secs_f64() }
    }

    /// Adds a commit to the averages.
    pub(crate) fn record(&mut self, start: CommitStart) {
        let period = start.period.min(self.interval * MAX_PERIOD_INTERVALS);
        let average = |old: &mut f64, new: f64| *old += (new - *old) * WEIGHT;
        average(&mut self.documents, start.documents as f64);
        average(&mut self.returning, start.returning as f64);
        average(&mut self.period_seconds, period.as_secs_f64());
    }

    /// How long to delay the next commit, `since` the last one started.
    pub(crate) fn delay(&self, since: Duration) -> Duration {
        let expected = self.documents / self.period_seconds * self.interval.as_secs_f64();
        // With a zero interval `expected` is NaN, and the comparison is false.
        if expected >= SIBLINGS && self.returning <= self.documents * MAX_RETURNING_SHARE {
            self.interval.saturating_sub(since)
        } else {
            Duration::ZERO
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(3);

    fn after(commits: &[(usize, usize, u64)]) -> CommitPacing {
        let mut pacing = CommitPacing::new(INTERVAL);
        for &(documents, returning, period_us) in commits {
            pacing.record(CommitStart { documents, returning, period: Duration::from_micros(period_us) });
        }
        pacing
    }

    #[test]
    fn lone_writer_is_not_delayed_on_any_disk_speed() {
        for period_us in [50, 500, 5_000] {
            // One record in flight, or typing: every commit contains the same document.
            let pacing = after(&[(1, 1, period_us); 100]);
            assert_eq!(pacing.delay(Duration::from_micros(period_us)), Duration::ZERO, "{period_us}");
        }
    }

    #[test]
    fn commits_are_delayed_while_many_documents_change_steadily() {
        // 5,000 documents per second, three per commit, almost none of them returning.
        let mut pacing = after(&[(3, 0, 600); 40]);
        assert_eq!(pacing.delay(Duration::from_micros(600)), Duration::from_micros(2_400));
        // The delay stays when the commits are already spaced apart.
        for _ in 0..1_000 {
            pacing.record(CommitStart { documents: 15, returning: 1, period: INTERVAL });
        }
        assert_eq!(pacing.delay(Duration::from_micros(600)), Duration::from_micros(2_400));
        // A commit that took longer than the interval causes no delay.
        assert_eq!(pacing.delay(Duration::from_millis(4)), Duration::ZERO);
    }

    #[test]
    fn writers_that_wait_for_acknowledgements_are_not_delayed() {
        // 64 documents, each with one record in flight: the same documents return, all in one commit or alternating
        // between two.
        assert_eq!(after(&[(64, 64, 1_500); 100]).delay(Duration::from_micros(1_500)), Duration::ZERO);
        assert_eq!(after(&[(5, 5, 300), (59, 59, 1_400)].repeat(50)).delay(Duration::from_micros(300)), Duration::ZERO);
    }

    #[test]
    fn few_changes_or_a_pause_end_the_delay() {
        // 500 documents per second: one per commit.
        assert_eq!(after(&[(1, 0, 2_000); 100]).delay(Duration::from_micros(600)), Duration::ZERO);
        let mut pacing = after(&[(2, 0, 2_000); 100]);
        assert_eq!(pacing.delay(Duration::from_micros(600)), Duration::from_micros(2_400));
        // A minute without changes, then an occasional one.
        for _ in 0..6 {
            pacing.record(CommitStart { documents: 1, returning: 0, period: Duration::from_secs(60) });
        }
        assert_eq!(pacing.delay(Duration::from_micros(600)), Duration::ZERO);
    }

    #[test]
    fn zero_interval_never_delays() {
        let mut pacing = CommitPacing::new(Duration::ZERO);
        assert_eq!(pacing.delay(Duration::ZERO), Duration::ZERO);
        for _ in 0..100 {
            pacing.record(CommitStart { documents: 1_000, returning: 0, period: Duration::from_micros(500) });
        }
        assert_eq!(pacing.delay(Duration::from_micros(1)), Duration::ZERO);
    }
}
