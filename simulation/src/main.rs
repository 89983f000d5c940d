//! `syncline-simulation`: runs plans, many in parallel, or one with everything that happened in it.

#![allow(clippy::print_stdout, reason = "a program that tells people")]

use std::process::ExitCode;

use clap::Parser;
use syncline_simulation::many;

/// Runs plans of the simulation. Each promise that is broken is told with its seed.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The first plan's seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many plans.
    #[arg(long, default_value_t = 10_000)]
    plans: u64,
    /// One plan only, told step by step.
    #[arg(long, env = "SYNCLINE_SEED")]
    seed: Option<u64>,
    /// Ends after so many failures.
    #[arg(long, default_value_t = 10)]
    failures: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(seed) = args.seed {
        return match syncline_simulation::run(seed, Some(Box::new(|line| println!("{line}")))) {
            Ok(counts) => {
                println!("seed {seed}: every promise was kept. {counts:?}");
                ExitCode::SUCCESS
            }
            Err(failure) => {
                println!("seed {seed}: {}", failure.reason);
                ExitCode::FAILURE
            }
        };
    }
    let ran = many(args.from..args.from + args.plans, args.failures);
    println!("{ran}");
    if ran.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
