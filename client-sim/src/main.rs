//! Load and fault scenarios for Yjs servers, over real sockets. `syncline-sim --help` lists the commands.

mod faults;
mod load;
mod peer;
mod proc;
mod report;
mod server;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Load and fault scenarios for Yjs servers, over real sockets.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Put load on any Yjs server and measure its throughput, latency, CPU and memory.
    Load(load::LoadArgs),
    /// Measure the server and a bare relay in turn and print ratios.
    Bench(load::bench::BenchArgs),
    /// Run a bare relay, without a CRDT or a disk, as a baseline for servers.
    Floor(load::floor::FloorArgs),
    /// Run scenarios with devices, a bad network and a real server; then check for lost, duplicated or diverging edits.
    Run(faults::cli::RunArgs),
    /// Generate small random scenarios and run them, for as long as you like.
    Soak(faults::cli::SoakArgs),
    /// Kill a device with signal 9 while it edits, again and again; then check for lost or duplicated edits.
    KillTest(faults::cli::KillTestArgs),
    /// Run a device in its own process, so that it can be killed.
    #[command(hide = true)]
    Device(faults::cli::DeviceArgs),
    /// Run a device that executes commands from its standard input, one per line.
    Actor(faults::actor::ActorArgs),
    /// Crash the server at random moments and at its failpoints; then check that no acknowledged edit is lost.
    Crash(faults::durability::crash::CrashArgs),
    /// Cut the power of the server's file system (needs root); then check that no acknowledged edit is lost.
    PowerCut(faults::durability::power::PowerCutArgs),
    /// Make the server's disk full, failing or slow (needs root or strace); then check what each client was sent.
    DiskFault(faults::durability::disk::DiskFaultArgs),
    /// Measure what a reconnect costs on the wire, for Syncline's client and for the npm clients.
    WireCost(load::wire_cost::WireCostArgs),
}

/// Exit code when the load generator was the bottleneck, so that scripts can distinguish it from a failure.
const SATURATED_CODE: u8 = 3;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Load(args) => match load::run(&args) {
            Ok(load::LoadOutcome::Saturated) => return ExitCode::from(SATURATED_CODE),
            other => other.map(|outcome| outcome == load::LoadOutcome::Fine),
        },
        Command::Floor(args) => load::floor::run(&args).map(|()| true),
        Command::Bench(args) => load::bench::run(&args),
        other => run_async(other),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("syncline-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_async(command: Command) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Run(args) => faults::cli::run(&args).await,
            Command::Soak(args) => faults::cli::soak(&args).await,
            Command::KillTest(args) => faults::cli::kill_test(&args).await,
            Command::Device(args) => faults::cli::device(args).await,
            Command::Actor(args) => faults::actor::run(&args).await.map(|()| true),
            Command::Crash(args) => faults::durability::crash::run(args).await,
            Command::DiskFault(args) => faults::durability::disk::run(args).await,
            Command::PowerCut(args) => faults::durability::power::run(args).await,
            Command::WireCost(args) => load::wire_cost::run(&args).await.map(|()| true),
            Command::Load(_) | Command::Floor(_) | Command::Bench(_) => unreachable!("handled without a runtime"),
        }
    })
}
