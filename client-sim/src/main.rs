//! Load and fault scenarios for Yjs servers, over real sockets. `syncline-sim --help` lists the commands.

mod faults;
mod load;
mod proc;
mod replay;
mod report;
mod server;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use syncline_protocol::detect::Dialect;

/// Load and fault scenarios for Yjs servers, over real sockets.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Replay a recorded editing session, keystroke by keystroke, and compare every reader's text with the result.
    Replay(ReplayArgs),
    /// Put load on any Yjs server and measure its throughput, latency, CPU and memory.
    Load(load::Args),
    /// Measure the server and a bare relay in turn and print ratios.
    Bench(load::bench::Args),
    /// Run a bare relay, without a CRDT or a disk, as a baseline for servers.
    Floor(load::floor::Args),
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
    Actor(faults::actor::Args),
    /// Crash the server at random moments and at its failpoints; then check that no acknowledged edit is lost.
    Crash(faults::durability::crash::Args),
    /// Cut the power of the server's file system (needs root); then check that no acknowledged edit is lost.
    PowerCut(faults::durability::power::Args),
    /// Make the server's disk full, failing or slow (needs root or strace); then check what each client was sent.
    DiskFault(faults::durability::disk::Args),
    /// Measure what a reconnect costs on the wire, for Syncline's client and for the npm clients.
    WireCost(load::wire_cost::Args),
}

#[derive(Clone, Copy, ValueEnum)]
enum DialectArg {
    YWebsocket,
    Hocuspocus,
}

#[derive(clap::Args)]
struct ReplayArgs {
    /// Trace file: JSON of the editing-traces collection, plain or .gz.
    #[arg(long)]
    trace: PathBuf,
    /// Server address.
    #[arg(long, env = "SYNCLINE_URL", default_value = "ws://127.0.0.1:1234")]
    url: String,
    /// Wire protocol to use.
    #[arg(long, value_enum, default_value = "y-websocket")]
    dialect: DialectArg,
    /// Name of a document that does not exist yet on the server [default: a random one].
    #[arg(long)]
    document: Option<String>,
    /// Name of the root text.
    #[arg(long, default_value = "text")]
    root: String,
    /// Token, if the server requires one.
    #[arg(long)]
    token: Option<String>,
    /// Number of reading connections.
    #[arg(long, default_value_t = 1)]
    readers: usize,
    /// Number of writing connections, which take turns.
    #[arg(long, default_value_t = 1)]
    writers: usize,
    /// Edits per turn.
    #[arg(long, default_value_t = 1)]
    turn: usize,
    /// Maximum number of updates that have not yet reached every reader; 0 sends as fast as possible.
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Maximum number of updates per second.
    #[arg(long)]
    rate: Option<f64>,
    /// Process id of the server, to report its CPU and memory.
    #[arg(long)]
    pid: Option<u32>,
    /// Threads of this program. One thread leaves the other cores to the server.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Fail when nothing arrives for this many seconds.
    #[arg(long, default_value_t = 10)]
    stall_s: u64,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
    /// Replay nothing; connect a new client and compare its text with the end of the trace (needs --document).
    #[arg(long)]
    verify_only: bool,
    /// Skip the edit with this number, to prove that the checks fail.
    #[arg(long, hide = true)]
    leave_out: Option<usize>,
}

impl ReplayArgs {
    fn options(&self) -> replay::Options {
        replay::Options {
            trace: self.trace.clone(),
            url: self.url.clone(),
            dialect: match self.dialect {
                DialectArg::YWebsocket => Dialect::YWebsocket,
                DialectArg::Hocuspocus => Dialect::Hocuspocus,
            },
            document: self.document.clone(),
            root: self.root.clone(),
            token: self.token.clone(),
            readers: self.readers,
            writers: self.writers,
            turn: self.turn,
            in_flight: self.in_flight,
            rate: self.rate,
            pid: self.pid,
            stall: Duration::from_secs(self.stall_s),
            leave_out: self.leave_out,
        }
    }
}

/// Exit code when the load generator was the bottleneck, so that scripts can distinguish it from a failure.
const SATURATED_CODE: u8 = 3;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Replay(args) => run_replay(&args),
        Command::Load(args) => match load::run(&args) {
            Ok(load::Outcome::Saturated) => return ExitCode::from(SATURATED_CODE),
            other => other.map(|outcome| outcome == load::Outcome::Fine),
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
            Command::Replay(args) => run_replay(&args),
            Command::Load(_) | Command::Floor(_) | Command::Bench(_) => unreachable!("handled without a runtime"),
        }
    })
}

fn run_replay(args: &ReplayArgs) -> Result<bool> {
    let runtime = match args.threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        threads => tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?,
    };
    let options = args.options();
    let mut stdout = std::io::stdout();
    if args.verify_only {
        runtime.block_on(replay::verify_only(&options))?;
        match args.json {
            true => writeln!(stdout, "{{\"ok\":true}}")?,
            false => writeln!(stdout, "the document has the expected text")?,
        }
        return Ok(true);
    }
    let report = runtime.block_on(replay::replay(&options))?;
    match args.json {
        true => writeln!(stdout, "{}", serde_json::to_string(&report)?)?,
        false => writeln!(stdout, "{report}")?,
    }
    Ok(report.ok)
}
