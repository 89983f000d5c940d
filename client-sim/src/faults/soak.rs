//! `syncline-sim soak`: runs random scenarios (plans) until a time or a number of plans is reached.
//!
//! Most plans share one server and use their own document names. At the end of a batch the server is killed with signal 9
//! and started again, and must still hold the final content of every plan. Every fifth plan has its own server, which it may
//! kill at any moment.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use crate::faults::oracle::{View, differences};
use crate::faults::scenario::{self, FreshClient, Scenario, ScenarioCounts, Setup, Verdict, generate};
use crate::server::ServerProcess;

/// Number of plans in a batch, which shares a server.
const BATCH: u64 = 40;
/// One in this many plans has its own server.
const PRIVATE_EVERY: u64 = 5;

/// How many plans are run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Amount {
    /// Seed of the first plan; each later plan takes the next seed.
    pub first_seed: u64,
    /// No plan starts after this time.
    pub time: Duration,
    /// Largest number of plans.
    pub plans: u64,
    /// Number of plans in parallel.
    pub jobs: usize,
}

/// Result of a soak.
#[derive(Debug, Default)]
pub(super) struct Soaked {
    /// Plans run.
    pub plans: u64,
    /// Sum over all plans.
    pub figures: ScenarioCounts,
    /// Plans that failed: seed, complaints, timeline.
    pub failures: Vec<(u64, Vec<String>, String)>,
}

/// The scenario of a seed, and whether it has its own server. Both depend on the seed alone.
pub(super) fn plan(seed: u64) -> (Scenario, bool) {
    let private = seed.is_multiple_of(PRIVATE_EVERY);
    (generate::generate(seed, private), private)
}

/// Runs plans in batches.
pub(super) async fn soak(setup: &Setup, amount: Amount) -> Result<Soaked> {
    let begin = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut soaked = Soaked::default();
    while next.load(Ordering::Relaxed) < amount.plans && begin.elapsed() < amount.time {
        let until = (next.load(Ordering::Relaxed) + BATCH).min(amount.plans);
        batch(setup, amount, begin, &next, until, &mut soaked).await?;
        next.store(until, Ordering::Relaxed);
    }
    Ok(soaked)
}

async fn batch(
    setup: &Setup,
    amount: Amount,
    begin: Instant,
    next: &Arc<AtomicU64>,
    until: u64,
    soaked: &mut Soaked,
) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("syncline-soak-").tempdir()?;
    let mut server = ServerProcess::new(setup.program.clone(), dir.path().join("server"));
    let address = server.start().await?;
    let mut workers = JoinSet::new();
    for _ in 0..amount.jobs.max(1) {
        let (setup, next) = (setup.clone(), Arc::clone(next));
        workers.spawn(async move {
            let mut done = Vec::new();
            while begin.elapsed() < amount.time {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= until {
                    break;
                }
                let seed = amount.first_seed + number;
                done.push((seed, one(&setup, seed, Some(address)).await));
            }
            done
        });
    }
    let mut left: Vec<(u64, String, View)> = Vec::new();
    while let Some(done) = workers.join_next().await {
        for (seed, verdict) in done? {
            let verdict = verdict.with_context(|| format!("the plan of seed {seed} could not be run"))?;
            soaked.plans += 1;
            soaked.figures += verdict.figures;
            if !verdict.complaints.is_empty() {
                soaked.failures.push((seed, verdict.complaints, verdict.timeline));
            } else if !plan(seed).1 {
                left.extend(verdict.ends.into_iter().map(|(document, view)| (seed, document, view)));
            }
        }
    }
    server.kill().await?;
    let address = server.start().await?;
    soaked.figures.restarts += 1;
    for (seed, document, end) in left {
        let view = FreshClient::view(&format!("ws://{address}"), &document).await?;
        let wrong = differences(&end, &view);
        if !wrong.is_empty() {
            soaked.failures.push((seed, wrong, "after the server of its batch was killed and started again".into()));
        }
    }
    server.kill().await
}

/// Runs the plan of a seed. `shared`: address of the server for plans that do not have their own.
pub(super) async fn one(setup: &Setup, seed: u64, shared: Option<SocketAddr>) -> Result<Verdict> {
    let (scenario, private) = plan(seed);
    let shared = shared.filter(|_| !private);
    let setup = Setup { seed, shared, prefix: format!("plan-{seed}-"), ..setup.clone() };
    scenario::run(&scenario, &setup).await
}
