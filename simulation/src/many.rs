//! Many plans, on every core: each plan in one thread, so that it stays deterministic.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{Counts, Failure, run};

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
                    let outcome = run(seed, None);
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

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Failure { seed, reason } in &self.failures {
            writeln!(f, "SYNCLINE_SEED={seed}  {reason}")?;
        }
        writeln!(f, "{} plans in {:.1} s, {} broke a promise", self.plans, self.took.as_secs_f64(), self.failures.len())?;
        for (what, count) in &self.counts.0 {
            writeln!(f, "{count:>12} {what}")?;
        }
        Ok(())
    }
}
