//! Runs many plans on all cores. Each plan runs in a single thread, so that it stays deterministic.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crate::{Counts, Failure, run};

/// The time limit of a plan, which normally takes hundredths of a second.
const PLAN_LIMIT: Duration = Duration::from_secs(60);
/// The number of plans between two calls that report the progress.
const PROGRESS_PLANS: u64 = 2_000;

/// The results of many plans.
#[derive(Debug, Default)]
pub struct Summary {
    /// The number of plans run.
    pub plans: u64,
    /// The plans that violated an invariant.
    pub failures: Vec<Failure>,
    /// How often each event occurred, in all plans.
    pub counts: Counts,
    /// The total duration.
    pub took: Duration,
}

/// Runs the plans of these seeds, until `max_failures` have failed. Calls `show` after each 2,000 plans, with the numbers of
/// plans run and failed.
pub fn run_many(seeds: Range<u64>, max_failures: usize, show: impl Fn(u64, usize) + Sync) -> Summary {
    let began = Instant::now();
    let (next, summary) = (AtomicU64::new(seeds.start), Mutex::new(Summary::default()));
    let lock = || summary.lock().unwrap_or_else(PoisonError::into_inner);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || lock().failures.len() >= max_failures {
                        return;
                    }
                    let outcome = run_within(seed, PLAN_LIMIT);
                    let mut summary = lock();
                    summary.plans += 1;
                    match outcome {
                        Ok(counts) => summary.counts.merge(&counts),
                        Err(failure) => summary.failures.push(failure),
                    }
                    if summary.plans.is_multiple_of(PROGRESS_PLANS) {
                        show(summary.plans, summary.failures.len());
                    }
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.failures.sort_by_key(|failure| failure.seed);
    summary.took = began.elapsed();
    summary
}

/// Runs a plan in its own thread. A plan that exceeds the limit fails, and its thread is abandoned.
fn run_within(seed: u64, limit: Duration) -> Result<Counts, Failure> {
    let (send, outcome) = mpsc::channel();
    // After the limit the receiver is gone.
    std::thread::spawn(move || send.send(run(seed, None)).ok());
    outcome.recv_timeout(limit).unwrap_or_else(|_| {
        let reason = format!("EVERY PLAN ENDS: the plan did not end within {limit:?}; it may loop forever");
        Err(Failure { seed, reason })
    })
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Failure { seed, reason } in &self.failures {
            writeln!(f, "SYNCLINE_SEED={seed}  {reason}")?;
        }
        writeln!(
            f,
            "{} plans in {:.1} s, {} violated an invariant",
            self.plans,
            self.took.as_secs_f64(),
            self.failures.len()
        )?;
        write!(f, "{}", self.counts)
    }
}
