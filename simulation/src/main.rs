//! `syncline-simulation`: runs many plans in parallel, or one plan with a trace of its events.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

use std::process::ExitCode;

use clap::Parser;
use syncline_simulation::run_many;

/// Runs plans of the simulation and prints the seed of each plan that violates an invariant
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Seed of the first plan
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Number of plans
    #[arg(long, default_value_t = 10_000)]
    plans: u64,
    /// Run a single plan and print each step
    #[arg(long, env = "SYNCLINE_SEED")]
    seed: Option<u64>,
    /// Stop after this many failures
    #[arg(long, default_value_t = 10)]
    failures: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(seed) = args.seed {
        return match syncline_simulation::run(seed, Some(Box::new(|line| println!("{line}")))) {
            Ok(counts) => {
                println!("seed {seed}: all invariants held\n{counts}");
                ExitCode::SUCCESS
            }
            Err(failure) => {
                println!("seed {seed}: {}", failure.reason);
                ExitCode::FAILURE
            }
        };
    }
    let show = |plans, failures| eprintln!("{plans} of {} plans, {failures} violated an invariant", args.plans);
    let summary = run_many(args.from..args.from + args.plans, args.failures, show);
    println!("{summary}");
    if summary.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
