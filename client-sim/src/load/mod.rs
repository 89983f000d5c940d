//! `syncline-sim load`: load for any Yjs server, and what it does to it.
//!
//! ```text
//! scenario  the named scenarios and the free parameters
//! traffic   writers and readers        keystroke two of these           idle  connections that do nothing
//! trace     a real editing session     stored    documents on a server   storm many at once
//! session   joining a document         hub   the sockets: mio, one thread
//! speak     the dialects               frame WebSocket frames            marker  updates told by their text
//! ledger    who has what               measure, report, plot             what is told at the end
//! ```
//!
//! Readers look for markers and decode nothing, so that the server is the limit; where the generator is, its figures
//! say little, and it refuses to give them.

pub(crate) mod frame;
pub(crate) mod hub;
mod idle;
mod keystroke;
mod ledger;
pub(crate) mod marker;
mod measure;
mod plot;
pub(crate) mod report;
mod scenario;
mod session;
mod speak;
mod stored;
mod storm;
mod trace;
mod traffic;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use self::hub::Address;
use self::report::Report;
use self::scenario::{Job, Name};
use self::session::Target;
use self::speak::Dialect;

/// Share of the time above which the generator itself is the limit: it was hardly ever idle.
const SATURATED: f64 = 0.95;

/// What to do, and to whom.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// A scenario by name; without one, the parameters alone say what is done.
    #[arg(value_enum, default_value = "traffic")]
    scenario: Name,
    /// Server address.
    #[arg(long, env = "SYNCLINE_URL", default_value = "ws://127.0.0.1:1234")]
    url: String,
    /// The server's process id, to report its CPU and memory.
    #[arg(long)]
    pid: Option<u32>,
    /// The wire format to speak.
    #[arg(long, value_enum, default_value = "y-websocket")]
    dialect: Dialect,
    /// Token, if the server wants one.
    #[arg(long)]
    token: Option<String>,
    #[command(flatten)]
    parameters: scenario::Parameters,
    /// Give up after this many seconds without anything arriving.
    #[arg(long, default_value_t = 10)]
    stall_s: u64,
    /// Connections that are being made at once.
    #[arg(long, default_value_t = 256)]
    connects_at_once: usize,
    /// Report although this program itself was the limit.
    #[arg(long)]
    allow_saturated: bool,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
    /// Draw latency and throughput over time into this file (SVG).
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is missing.
    Fine,
    /// Something is.
    Failed,
    /// The generator was the limit; nothing was reported.
    Saturated,
}

/// Runs and prints.
pub fn run(args: &Args) -> Result<Outcome> {
    let report = measure(args)?;
    let mut stdout = std::io::stdout();
    if report.saturated && !args.allow_saturated {
        eprintln!(
            "syncline-sim: the generator was busy {:.0} % of the time ({:.0} % of a core): the figures would be its own, not \
             the server's. Give it a core of its own, ask for less, or see them all the same with --allow-saturated",
            100.0 * report.generator_busy.unwrap_or(1.0),
            100.0 * report.generator_share.unwrap_or_default()
        );
        for failure in &report.failures {
            eprintln!("FAILED: {failure}");
        }
        return Ok(if report.ok { Outcome::Saturated } else { Outcome::Failed });
    }
    if let Some(path) = &args.plot {
        std::fs::write(path, plot::svg(&report)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.json {
        writeln!(stdout, "{}", serde_json::to_string(&report)?)?;
    } else {
        writeln!(stdout, "{report}")?;
    }
    Ok(if report.ok { Outcome::Fine } else { Outcome::Failed })
}

fn measure(args: &Args) -> Result<Report> {
    ensure!(args.connects_at_once > 0, "at least one connection must be made at a time");
    let target = Target {
        address: Address::of(&args.url)?,
        dialect: args.dialect,
        token: args.token.clone(),
        pid: args.pid,
        stall: Duration::from_secs(args.stall_s),
        at_once: args.connects_at_once,
    };
    let name = args.scenario.to_string();
    let mut report = match args.scenario.job(&args.parameters)? {
        Job::Traffic(traffic) => traffic::run(&target, &traffic, &name)?,
        Job::Idle(idle) => idle::run(&target, &idle, &name)?,
        Job::Trace(trace) => trace::run(&target, &trace, &name)?,
        Job::Stored(stored) => stored::run(&target, &stored, &name)?,
        Job::Reconnect(storm) => storm::reconnect(&target, &storm, &name)?,
        Job::Join(storm) => storm::join(&target, &storm, &name)?,
        Job::Keystroke(keystroke) => keystroke::run(&target, &keystroke, &name)?,
    };
    report.url = args.url.clone();
    report.dialect = args.dialect.to_string();
    report.saturated = report.generator_busy.is_some_and(|busy| busy > SATURATED);
    if report.saturated {
        report.notes.push("the generator itself was the limit: its figures, maybe not the server's".into());
    }
    Ok(report)
}
