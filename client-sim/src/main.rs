//! Load and scenarios for Yjs servers, over real sockets. `syncline-sim --help` says what there is.

mod actor;
mod proc;
mod replay;
mod report;
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
    /// Be a device that obeys lines on its standard input.
    Actor(actor::Args),
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
    #[arg(long, default_value = "ws://127.0.0.1:1234")]
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

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Replay(args) => run(&args),
        Command::Actor(args) => one_thread().and_then(|runtime| runtime.block_on(actor::run(&args))).map(|()| true),
        Command::WireCost(args) => {
            one_thread().and_then(|runtime| runtime.block_on(wire_cost::run(&args))).map(|()| true)
        }
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

fn one_thread() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
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
