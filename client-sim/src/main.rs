//! Load and scenarios for Yjs servers, over real sockets. `syncline-sim --help` says what there is.

mod actor;
mod bench;
mod child;
mod cli;
mod durability;
mod floor;
mod kill_test;
mod load;
mod network;
mod oracle;
mod proc;
mod replay;
mod report;
mod scenario;
mod soak;
mod wire_cost;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use syncline_protocol::detect::Dialect;

/// Load and scenarios for Yjs servers, over real sockets.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Replay a real editing session, keystroke by keystroke, and compare every reader's text with its end.
    Replay(ReplayArgs),
    /// Put load on any Yjs server, and measure what it does: throughput, latency, CPU, memory.
    Load(load::Args),
    /// Measure the server and a bare relay in turn, and print ratios.
    Bench(bench::Args),
    /// Be a bare relay, without CRDT and disk, to compare servers with.
    Floor(floor::Args),
    /// Tell scenarios: devices, a bad network, a real server; then look for anything lost, doubled or different.
    Run(cli::RunArgs),
    /// Make up small scenarios and run them, for hours if need be.
    Soak(cli::SoakArgs),
    /// Kill a device with signal 9 while it edits, again and again; then look for anything lost or doubled.
    KillTest(cli::KillTestArgs),
    /// A device in a process of its own, to be killed.
    #[command(hide = true)]
    Device(cli::DeviceArgs),
    /// Be a device that obeys lines on its standard input.
    Actor(actor::Args),
    /// Let the server die at random moments and at its failpoints; then look for anything acknowledged that is lost.
    Crash(durability::crash::Args),
    /// Cut the power of the server's file system (needs root); then look for anything acknowledged that is lost.
    PowerCut(durability::power::Args),
    /// Let the server's disk be full, fail or be slow (needs root, or strace); then look what everybody was told.
    DiskFault(durability::disk::Args),
    /// Measure what coming back costs on the wire, here and with the npm clients.
    WireCost(wire_cost::Args),
}

#[derive(Clone, Copy, ValueEnum)]
enum DialectArg {
    YWebsocket,
    Hocuspocus,
}

#[derive(clap::Args)]
struct ReplayArgs {
    /// The trace: JSON of the editing-traces collection, plain or .gz.
    #[arg(long)]
    trace: PathBuf,
    /// Server address.
    #[arg(long, env = "SYNCLINE_URL", default_value = "ws://127.0.0.1:1234")]
    url: String,
    /// The wire format to speak.
    #[arg(long, value_enum, default_value = "y-websocket")]
    dialect: DialectArg,
    /// Document name, new on the server [default: a random one].
    #[arg(long)]
    document: Option<String>,
    /// Name of the root text.
    #[arg(long, default_value = "text")]
    root: String,
    /// Token, if the server wants one.
    #[arg(long)]
    token: Option<String>,
    /// Connections that read.
    #[arg(long, default_value_t = 1)]
    readers: usize,
    /// Connections that write, taking turns.
    #[arg(long, default_value_t = 1)]
    writers: usize,
    /// Edits in one turn.
    #[arg(long, default_value_t = 1)]
    turn: usize,
    /// Most updates that have not yet reached every reader; 0 sends as fast as possible.
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Most updates a second.
    #[arg(long)]
    rate: Option<f64>,
    /// The server's process id, to report its CPU and memory.
    #[arg(long)]
    pid: Option<u32>,
    /// Threads of this program. One leaves the other cores to the server.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Give up after this many seconds without anything arriving.
    #[arg(long, default_value_t = 10)]
    stall_s: u64,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
    /// Replay nothing: a fresh client connects and compares its text with the trace's end (needs --document).
    #[arg(long)]
    verify_only: bool,
    /// Leave out the edit with this number, to see the checks fail.
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

/// The exit code when the generator was the limit, so that scripts can tell it from a failure.
const SATURATED_CODE: u8 = 3;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Replay(args) => run(&args),
        Command::Load(args) => match load::run(&args) {
            Ok(load::Outcome::Saturated) => return ExitCode::from(SATURATED_CODE),
            other => other.map(|outcome| outcome == load::Outcome::Fine),
        },
        Command::Floor(args) => floor::run(&args).map(|()| true),
        Command::Bench(args) => bench::run(&args),
        other => story(other),
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

fn story(command: Command) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Run(args) => cli::run(&args).await,
            Command::Soak(args) => cli::soak(&args).await,
            Command::KillTest(args) => cli::kill_test(&args).await,
            Command::Device(args) => cli::device(args).await,
            Command::Actor(args) => actor::run(&args).await.map(|()| true),
            Command::Crash(args) => durability::crash::run(args).await,
            Command::DiskFault(args) => durability::disk::run(args).await,
            Command::PowerCut(args) => durability::power::run(args).await,
            Command::WireCost(args) => wire_cost::run(&args).await.map(|()| true),
            Command::Replay(args) => run(&args),
            Command::Load(_) | Command::Floor(_) | Command::Bench(_) => unreachable!("it has no runtime"),
        }
    })
}

fn run(args: &ReplayArgs) -> Result<bool> {
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
            false => writeln!(stdout, "the document has the right text")?,
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
