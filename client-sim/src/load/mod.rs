//! Is it fast? `syncline-sim load` puts load on any Yjs server and measures it; `bench` compares servers with the bare relay
//! `floor`; `wire-cost` counts the bytes of a reconnect.
//!
//! ```text
//! scenario  the named scenarios and their parameters
//! traffic   writers and readers             keystroke  two traffic runs    idle  idle connections
//! trace     a recorded editing session      stored     stored documents    storm  simultaneous joins
//! session   many clients of `peer`          hub        their sockets: mio, one thread
//! marker    updates with searchable text    ledger     which updates arrived where
//! measure   figures                         report, plot   their output
//! ```
//!
//! Readers search for markers and decode nothing, so that the server is the bottleneck. When the generator is the
//! bottleneck, its figures say little about the server and are not reported.

pub(crate) mod bench;
pub(crate) mod floor;
mod hub;
mod idle;
mod keystroke;
mod ledger;
mod marker;
mod measure;
mod plot;
mod report;
mod scenario;
mod session;
mod stored;
mod storm;
mod trace;
mod traffic;
pub(crate) mod wire_cost;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use self::hub::Address;
use self::report::Report;
use self::scenario::{Name, Workload};
use self::session::Target;
use crate::peer::Dialect;

/// The generator counts as the bottleneck when it was busy for more than this share of the time.
const SATURATED: f64 = 0.95;

/// Arguments of `load`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LoadArgs {
    /// Name of a scenario; `traffic` is defined by the parameters alone.
    #[arg(value_enum, default_value = "traffic")]
    scenario: Name,
    /// Server address.
    #[arg(long, env = "SYNCLINE_URL", default_value = "ws://127.0.0.1:1234")]
    url: String,
    /// Process id of the server, to report its CPU and memory.
    #[arg(long)]
    pid: Option<u32>,
    /// Wire protocol to use.
    #[arg(long, value_enum, default_value = "y-websocket")]
    dialect: Dialect,
    /// Token, if the server requires one.
    #[arg(long)]
    token: Option<String>,
    #[command(flatten)]
    parameters: scenario::Parameters,
    /// Fail when nothing arrives for this many seconds.
    #[arg(long, default_value_t = 10)]
    stall_s: u64,
    /// Maximum number of connections being opened at the same time.
    #[arg(long, default_value_t = 256)]
    max_connecting: usize,
    /// Report figures even if this program was the bottleneck.
    #[arg(long)]
    allow_saturated: bool,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
    /// Write a chart of latency and throughput over time to this file (SVG).
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// Result of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoadOutcome {
    /// Every check passed.
    Fine,
    /// A check failed.
    Failed,
    /// The generator was the bottleneck; no figures were reported.
    Saturated,
}

/// Runs the scenario and prints its report.
pub(crate) fn run(args: &LoadArgs) -> Result<LoadOutcome> {
    let report = measure(args)?;
    let mut stdout = std::io::stdout();
    if report.saturated && !args.allow_saturated {
        eprintln!(
            "syncline-sim: the load generator was the bottleneck: busy {:.0} % of the time ({:.0} % of a core), so the \
             figures would not be the server's. Pin it to its own core, reduce the load, or pass --allow-saturated to \
             print them anyway",
            100.0 * report.generator_busy.unwrap_or(1.0),
            100.0 * report.generator_share.unwrap_or_default()
        );
        for failure in &report.failures {
            eprintln!("FAILED: {failure}");
        }
        return Ok(if report.ok { LoadOutcome::Saturated } else { LoadOutcome::Failed });
    }
    if let Some(path) = &args.plot {
        std::fs::write(path, plot::svg(&report)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.json {
        writeln!(stdout, "{}", serde_json::to_string(&report)?)?;
    } else {
        writeln!(stdout, "{report}")?;
    }
    Ok(if report.ok { LoadOutcome::Fine } else { LoadOutcome::Failed })
}

fn measure(args: &LoadArgs) -> Result<Report> {
    ensure!(args.max_connecting > 0, "--max-connecting must be at least 1");
    let target = Target {
        address: Address::of(&args.url)?,
        dialect: args.dialect,
        token: args.token.clone(),
        pid: args.pid,
        stall: Duration::from_secs(args.stall_s),
        max_connecting: args.max_connecting,
    };
    let name = args.scenario.to_string();
    let mut report = match args.scenario.workload(&args.parameters)? {
        Workload::Traffic(traffic) => traffic::run(&target, &traffic, &name)?,
        Workload::Idle(idle) => idle::run(&target, &idle, &name)?,
        Workload::Trace(trace) => trace::run(&target, &trace, &name)?,
        Workload::Stored(stored) => stored::run(&target, &stored, &name)?,
        Workload::Reconnect(storm) => storm::reconnect(&target, &storm, &name)?,
        Workload::Join(storm) => storm::join(&target, &storm, &name)?,
        Workload::Keystroke(keystroke) => keystroke::run(&target, &keystroke, &name)?,
    };
    report.url = args.url.clone();
    report.dialect = args.dialect.to_string();
    report.saturated = report.generator_busy.is_some_and(|busy| busy > SATURATED);
    if report.saturated {
        report.notes.push("the load generator was the bottleneck: these may not be the server's figures".into());
    }
    Ok(report)
}
