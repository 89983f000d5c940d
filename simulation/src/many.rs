//! Many plans, on every core: each plan in one thread, so that it stays deterministic.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crate::{Counts, Failure, run};

/// A plan takes hundredths of a second.
const PLAN_LIMIT: Duration = Duration::from_secs(60);

/// What became of many plans.
#[derive(Debug, Default)]
pub struct Ran {
    /// How many were run.
    pub plans: u64,
    /// Those that broke a promise.
    pub failures: Vec<Failure>,
    /// What they reached.
    pub counts: Counts,
    /// How long it took.
    pub took: Duration,
}

/// Runs the plans of these seeds, until so many have failed.
pub fn many(seeds: Range<u64>, most_failures: usize) -> Ran {
    let began = Instant::now();
    let (next, ran) = (AtomicU64::new(seeds.start), Mutex::new(Ran::default()));
    let lock = || ran.lock().unwrap_or_else(PoisonError::into_inner);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || lock().failures.len() >= most_failures {
                        return;
                    }
                    let outcome = run_within(seed, PLAN_LIMIT);
                    let mut ran = lock();
                    ran.plans += 1;
                    match outcome {
                        Ok(counts) => ran.counts.merge(&counts),
                        Err(failure) => ran.failures.push(failure),
                    }
                }
            });
        }
    });
    let mut ran = ran.into_inner().unwrap_or_else(PoisonError::into_inner);
    ran.failures.sort_by_key(|failure| failure.seed);
    ran.took = began.elapsed();
    ran
}

/// Runs a plan in a thread of its own. One that does not end is a failure, and its thread is given up.
fn run_within(seed: u64, limit: Duration) -> Result<Counts, Failure> {
    let (send, outcome) = mpsc::channel();
    // Nobody listens after the limit.
    std::thread::spawn(move || send.send(run(seed, None)).ok());
    outcome.recv_timeout(limit).unwrap_or_else(|_| {
        let reason = format!("IT ENDS: the plan did not end within {limit:?}: something goes round for ever");
        Err(Failure { seed, reason })
    })
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Failure { seed, reason } in &self.failures {
            writeln!(f, "SYNCLINE_SEED={seed}  {reason}")?;
        }
        writeln!(
            f,
            "{} plans in {:.1} s, {} broke a promise",
            self.plans,
            self.took.as_secs_f64(),
            self.failures.len()
        )?;
        for (what, count) in &self.counts.0 {
            writeln!(f, "{count:>12} {what}")?;
        }
        Ok(())
    }
}
