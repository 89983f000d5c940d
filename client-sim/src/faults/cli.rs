//! Arguments and printed output of `run`, `soak` and `kill-test`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::scenario::{self, Scenario, ScenarioCounts, Setup, Verdict};
use super::{device_process, kill_test, soak};
use crate::server::ServerBinary;

/// Number of failures printed in full.
const SHOWN: usize = 3;

/// Arguments that all three commands share.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    #[command(flatten)]
    server: ServerBinary,
    /// Script that runs the npm clients of a scenario.
    #[arg(long, value_name = "FILE", default_value = "tests/node/support/scenario-actor.mjs")]
    node_actor: PathBuf,
    /// Number of runs in parallel.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Record edits with this number as accepted without making them, to prove that the oracle complains.
    #[arg(long, hide = true)]
    forget: Option<u64>,
}

impl Common {
    fn setup(&self, seed: u64) -> Result<Setup> {
        Ok(Setup {
            program: self.server.path()?,
            seed,
            verbose: false,
            shared: None,
            prefix: String::new(),
            node_script: self.node_actor.clone(),
            forget: self.forget,
        })
    }
}

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Scenario files, or their names in client-sim/scenarios.
    #[arg(required = true)]
    scenarios: Vec<String>,
    /// Seed of every random choice.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A range of seeds, both ends included: 1..50
    #[arg(long, value_name = "FROM..TO", value_parser = seeds, conflicts_with = "seed")]
    seeds: Option<(u64, u64)>,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `soak`.
#[derive(Debug, clap::Args)]
pub(crate) struct SoakArgs {
    /// Stop after this many minutes.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Stop after this many plans.
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    plans: u64,
    /// Seed of the first plan [default: a random one]
    #[arg(long, default_value_t = rand::random::<u32>().into(), hide_default_value = true)]
    first_seed: u64,
    /// Run only the plan of this seed, and print the plan and its timeline.
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `kill-test`.
#[derive(Debug, clap::Args)]
pub(crate) struct KillTestArgs {
    /// Number of times the device is killed.
    #[arg(long, default_value_t = 100)]
    times: u32,
    /// Seed of every random choice.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `device`, the child process of scenarios and kill tests.
#[derive(Debug, clap::Args)]
pub(crate) struct DeviceArgs {
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    url: String,
    #[arg(long)]
    document: String,
    #[arg(long)]
    edits: u64,
    #[arg(long)]
    seed: u64,
    #[arg(long, default_value_t = 0)]
    device: u32,
    #[arg(long, default_value_t = 1)]
    first: u32,
}

fn seeds(text: &str) -> Result<(u64, u64), String> {
    let ends = text.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    match ends {
        Some((from, to)) if from <= to => Ok((from, to)),
        _ => Err("expected a range such as 1..50".into()),
    }
}

fn load(name: &str) -> Result<Scenario> {
    let as_path = Path::new(name);
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(format!("{name}.toml"));
    let path = if as_path.exists() { as_path } else { &bundled };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read scenario {name:?}"))?;
    Scenario::parse(&text).with_context(|| format!("invalid scenario {name:?}"))
}

/// Runs `run`. Returns true when no check failed.
pub(crate) async fn run(args: &RunArgs) -> Result<bool> {
    let scenarios: Result<Vec<_>> = args.scenarios.iter().map(|name| Ok((name.clone(), load(name)?))).collect();
    let (from, to) = args.seeds.unwrap_or((args.seed, args.seed));
    let base = args.common.setup(from)?;
    let mut passed = true;
    let mut out = std::io::stdout();
    for (name, scenario) in scenarios? {
        if from == to {
            writeln!(out, "{name}, seed {from}: {}", scenario.about)?;
            let verdict = scenario::run(&scenario, &Setup { verbose: true, ..base.clone() }).await?;
            writeln!(out, "{}", verdict.figures)?;
            passed &= print_complaints(&name, from, &verdict)?;
            continue;
        }
        passed &= run_seeds(&name, scenario, &base, from..=to, args.common.jobs).await?;
    }
    Ok(passed)
}

/// Runs one scenario with many seeds, up to `jobs` of them in parallel.
async fn run_seeds(
    name: &str,
    scenario: Scenario,
    base: &Setup,
    seeds: std::ops::RangeInclusive<u64>,
    jobs: usize,
) -> Result<bool> {
    let begin = Instant::now();
    let (slots, scenario) = (Arc::new(Semaphore::new(jobs.max(1))), Arc::new(scenario));
    let mut runs = JoinSet::new();
    for seed in seeds {
        let (slots, scenario) = (Arc::clone(&slots), Arc::clone(&scenario));
        let setup = Setup { seed, ..base.clone() };
        runs.spawn(async move {
            let _slot = slots.acquire().await?;
            anyhow::Ok((seed, scenario::run(&scenario, &setup).await?))
        });
    }
    let (mut figures, mut failed, mut all) = (ScenarioCounts::default(), 0, 0);
    while let Some(done) = runs.join_next().await {
        let (seed, verdict) = done??;
        all += 1;
        figures += verdict.figures;
        if !verdict.complaints.is_empty() {
            failed += 1;
            if failed <= SHOWN {
                writeln!(std::io::stdout(), "{}", verdict.timeline)?;
            }
            print_complaints(name, seed, &verdict)?;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    writeln!(std::io::stdout(), "{name}: {all} seeds in {seconds:.1} s, {failed} failed; {figures}")?;
    Ok(failed == 0)
}

/// Prints the complaints and the command that reproduces them. Returns true when there are none.
fn print_complaints(name: &str, seed: u64, verdict: &Verdict) -> Result<bool> {
    let mut out = std::io::stdout();
    for complaint in &verdict.complaints {
        writeln!(out, "FAILED: {complaint}")?;
    }
    if !verdict.complaints.is_empty() {
        writeln!(out, "seed {seed}; to reproduce: syncline-sim run {name} --seed {seed}")?;
    }
    Ok(verdict.complaints.is_empty())
}

/// Runs `soak`. Returns true when no check failed.
pub(crate) async fn soak(args: &SoakArgs) -> Result<bool> {
    let base = args.common.setup(args.first_seed)?;
    let mut out = std::io::stdout();
    if let Some(seed) = args.seed {
        writeln!(out, "{}", soak::plan(seed).0.to_toml()?)?;
        let verdict = soak::one(&Setup { verbose: true, ..base }, seed, None).await?;
        writeln!(out, "{}", verdict.figures)?;
        for complaint in &verdict.complaints {
            writeln!(out, "FAILED: {complaint}")?;
        }
        return Ok(verdict.complaints.is_empty());
    }
    let begin = Instant::now();
    let amount = soak::Amount {
        first_seed: args.first_seed,
        time: Duration::from_secs_f64(args.minutes.max(0.0) * 60.0),
        plans: args.plans,
        jobs: args.common.jobs,
    };
    writeln!(out, "first seed {}", args.first_seed)?;
    let soaked = soak::soak(&base, amount).await?;
    for (seed, complaints, timeline) in soaked.failures.iter().take(SHOWN) {
        writeln!(out, "{timeline}")?;
        for complaint in complaints {
            writeln!(out, "FAILED: seed {seed}: {complaint}")?;
        }
    }
    for (seed, _, _) in &soaked.failures {
        writeln!(out, "seed {seed} failed; to reproduce: syncline-sim soak --seed {seed}")?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    writeln!(
        out,
        "{} plans in {seconds:.1} s ({:.2} s each), {} failed; {}",
        soaked.plans,
        seconds / soaked.plans.max(1) as f64,
        soaked.failures.len(),
        soaked.figures
    )?;
    Ok(soaked.failures.is_empty())
}

/// Runs `kill-test`. Returns true when no check failed.
pub(crate) async fn kill_test(args: &KillTestArgs) -> Result<bool> {
    let report = kill_test::run(&args.common.setup(args.seed)?, args.times).await?;
    writeln!(std::io::stdout(), "{report}")?;
    Ok(report.complaints.is_empty())
}

/// Runs `device`.
pub(crate) async fn device(args: DeviceArgs) -> Result<bool> {
    let job = device_process::Job {
        directory: args.dir,
        url: args.url,
        document: args.document,
        device: args.device,
        first: args.first,
        seed: args.seed,
    };
    device_process::run(&job, args.edits).await?;
    Ok(true)
}
