//! When the next commit begins: at once, or a little later so that it holds the records of more documents.
//!
//! A commit costs the processor about as much for one document as for five: a dozen switches between threads, two waits for the
//! disk. While many documents change steadily, commits therefore keep a distance; readers are served on apply and wait for
//! nothing, only the word that an edit is saved comes so much later. Waiting is of no use, and is not done, where few records
//! come, and where those who write wait for that very word: their next record comes only after it. (PostgreSQL's
//! `commit_delay` and `commit_siblings`, with the siblings foretold.)
//!
//! Pure: the log's thread tells how commits went, and asks.

use std::time::Duration;

/// Documents that must be expected in a commit's distance for the wait to pay.
const SIBLINGS: f64 = 2.0;
/// Waiting ends when more of a commit's documents than this are back from one of the last two.
const MOST_RETURNED: f64 = 0.5;
/// How much one commit counts in the averages.
const WEIGHT: f64 = 0.125;
/// A pause counts at most as so many distances: what was before it is forgotten within a few commits either way.
const LONGEST_PERIOD: u32 = 8;

/// A commit, as it begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    /// Documents in it.
    pub documents: usize,
    /// Those of them that were in one of the last two as well.
    pub returned: usize,
    /// Since the last one began.
    pub period: Duration,
}

/// What commits have been like, on average. Written by the log's thread.
#[derive(Debug)]
pub(super) struct Pace {
    /// How far apart commits begin when waiting pays. Zero: they never wait.
    distance: Duration,
    documents: f64,
    returned: f64,
    period_seconds: f64,
}

impl Pace {
    /// Nothing seen yet: nothing waits.
    pub fn new(distance: Duration) -> Self {
        let period = distance * LONGEST_PERIOD;
        Self { distance, documents: 0.0, returned: 0.0, period_seconds: period.as_secs_f64() }
    }

    /// A commit begins.
    pub fn note(&mut self, begun: Begun) {
        let period = begun.period.min(self.distance * LONGEST_PERIOD);
        let average = |old: &mut f64, new: f64| *old += (new - *old) * WEIGHT;
        average(&mut self.documents, begun.documents as f64);
        average(&mut self.returned, begun.returned as f64);
        average(&mut self.period_seconds, period.as_secs_f64());
    }

    /// How long the next commit waits, `since` the last one began.
    pub fn wait(&self, since: Duration) -> Duration {
        let expected = self.documents / self.period_seconds * self.distance.as_secs_f64();
        // Nothing is expected, too, where the distance is zero: that is no number.
        if expected >= SIBLINGS && self.returned <= self.documents * MOST_RETURNED {
            self.distance.saturating_sub(since)
        } else {
            Duration::ZERO
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISTANCE: Duration = Duration::from_millis(3);

    fn after(commits: &[(usize, usize, u64)]) -> Pace {
        let mut pace = Pace::new(DISTANCE);
        for &(documents, returned, period_us) in commits {
            pace.note(Begun { documents, returned, period: Duration::from_micros(period_us) });
        }
        pace
    }

    #[test]
    fn a_lone_writer_is_not_kept_waiting_however_fast_the_disk() {
        for period_us in [50, 500, 5_000] {
            // With one record in flight, or typing: each commit holds the one document.
            let pace = after(&[(1, 1, period_us); 100]);
            assert_eq!(pace.wait(Duration::from_micros(period_us)), Duration::ZERO, "{period_us}");
        }
    }

    #[test]
    fn steady_changes_of_many_documents_keep_commits_apart() {
        // 5,000 documents a second, three to a commit, hardly one of them again.
        let mut pace = after(&[(3, 0, 600); 40]);
        assert_eq!(pace.wait(Duration::from_micros(600)), Duration::from_micros(2_400));
        // And still when they do keep apart.
        for _ in 0..1_000 {
            pace.note(Begun { documents: 15, returned: 1, period: DISTANCE });
        }
        assert_eq!(pace.wait(Duration::from_micros(600)), Duration::from_micros(2_400));
        // A commit that took long has waited enough.
        assert_eq!(pace.wait(Duration::from_millis(4)), Duration::ZERO);
    }

    #[test]
    fn writers_who_wait_for_their_word_are_not_kept_waiting() {
        // 64 documents, each with one record in flight: the same come back, all in one commit or in two by turns.
        assert_eq!(after(&[(64, 64, 1_500); 100]).wait(Duration::from_micros(1_500)), Duration::ZERO);
        assert_eq!(after(&[(5, 5, 300), (59, 59, 1_400)].repeat(50)).wait(Duration::from_micros(300)), Duration::ZERO);
    }

    #[test]
    fn few_changes_and_a_pause_end_the_waiting() {
        // 500 documents a second: one to a commit.
        assert_eq!(after(&[(1, 0, 2_000); 100]).wait(Duration::from_micros(600)), Duration::ZERO);
        let mut pace = after(&[(2, 0, 2_000); 100]);
        assert_eq!(pace.wait(Duration::from_micros(600)), Duration::from_micros(2_400));
        // Nobody types for a minute. Then one does, now and then.
        for _ in 0..6 {
            pace.note(Begun { documents: 1, returned: 0, period: Duration::from_secs(60) });
        }
        assert_eq!(pace.wait(Duration::from_micros(600)), Duration::ZERO);
    }

    #[test]
    fn without_a_distance_nothing_waits() {
        let mut pace = Pace::new(Duration::ZERO);
        assert_eq!(pace.wait(Duration::ZERO), Duration::ZERO);
        for _ in 0..100 {
            pace.note(Begun { documents: 1_000, returned: 0, period: Duration::from_micros(500) });
        }
        assert_eq!(pace.wait(Duration::from_micros(1)), Duration::ZERO);
    }
}
