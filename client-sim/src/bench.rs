//! `syncline-sim bench`: the server and the floor in turn, one table of ratios.
//!
//! Each run has a fresh program on a core of its own, and the load on another; the order changes from round to round,
//! and the table has the medians. Nothing here is a gate: machines differ, ratios tell.

mod measures;
mod programs;
mod table;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::Value;

use self::measures::{MEASURES, Measure, Stage};
use self::programs::{Running, can_pin};
use self::table::{Rounds, Table};
use crate::scenario::server;

/// The name of the document of scenarios that fill one and restart the server.
const DOCUMENT: &str = "bench";
/// Cores used by others above which figures are noise.
const NOISY_CORES: f64 = 0.25;

/// What to compare with.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Against {
    /// The bare relay.
    Floor,
}

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What to compare with.
    #[arg(long, value_enum, default_value = "floor")]
    against: Against,
    /// Only these scenarios.
    #[arg(long = "scenario", value_name = "NAME")]
    scenarios: Vec<String>,
    /// Rounds; the table has their medians.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// A minute in all: one round, short spans, and without the scenarios that need more.
    #[arg(long)]
    short: bool,
    /// The server's program [default: `syncline` beside this program]
    #[arg(long, env = "SYNCLINE_BIN", value_name = "FILE")]
    server_bin: Option<PathBuf>,
    /// Where the server's data lies, on a disk that is like yours [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Arguments for every `syncline-sim load`, for example "--seconds 3".
    #[arg(long, value_name = "ARGUMENTS", allow_hyphen_values = true, default_value = "")]
    load: String,
    /// Put the table into this document, between its two marks.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// Runs and prints. True when every run succeeded; whether targets are reached is for people to judge.
pub fn run(args: &Args) -> Result<bool> {
    let Against::Floor = args.against;
    let chosen: Vec<&Measure> = MEASURES
        .iter()
        .filter(|measure| args.scenarios.is_empty() || args.scenarios.iter().any(|name| name == measure.scenario))
        .filter(|measure| !args.short || measure.short.is_some())
        .collect();
    ensure!(
        !chosen.is_empty(),
        "there is no such scenario: {}",
        MEASURES.iter().map(|it| it.scenario).collect::<Vec<_>>().join(", ")
    );
    let bench = Bench { args, program: server::program(args.server_bin.as_deref())? };
    let rounds = if args.short { 1 } else { args.rounds.max(1) };
    let mut found: Vec<Vec<Rounds>> = chosen.iter().map(|it| vec![Rounds::default(); it.rows.len()]).collect();
    let mut notes = Notes::default();
    for round in 0..rounds {
        for (measure, found) in chosen.iter().zip(&mut found) {
            bench.round(measure, round, found, &mut notes);
        }
    }
    let mut table = Table::default();
    for (measure, rounds) in chosen.iter().zip(&found) {
        table.add(measure, rounds);
    }
    let text = format!("{}\n{}", headline(args, rounds), table.markdown()) + &notes.told();
    writeln!(std::io::stdout(), "{text}")?;
    if let Some(path) = &args.write {
        let document = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        std::fs::write(path, table::replaced(&document, &text)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(notes.failures.is_empty())
}

struct Bench<'a> {
    args: &'a Args,
    program: PathBuf,
}

#[derive(Default)]
struct Notes {
    failures: Vec<String>,
    saturated: Vec<String>,
    noisy: Vec<String>,
}

impl Bench<'_> {
    /// One round of one scenario: a failure is noted, and the others go on.
    fn round(&self, measure: &Measure, round: usize, found: &mut [Rounds], notes: &mut Notes) {
        let with_floor = matches!(measure.stage, Stage::Both | Stage::BothAnswering(_));
        // Whoever goes first may find a warmer or a colder machine.
        let order = if round.is_multiple_of(2) { [false, true] } else { [true, false] };
        for floor in order {
            if floor && !with_floor {
                continue;
            }
            let who = if floor { "the floor" } else { "Syncline" };
            eprintln!("round {}: {} on {who}", round + 1, measure.scenario);
            let report = if floor { self.floor(measure) } else { self.server(measure) };
            let report = match report {
                Ok(report) => report,
                Err(error) => {
                    notes.failures.push(format!("{} on {who}: {error:#}", measure.scenario));
                    continue;
                }
            };
            notes.look(&report, &format!("{} on {who}", measure.scenario));
            for (row, found) in measure.rows.iter().zip(found.iter_mut()) {
                let value = report.pointer(row.pointer).and_then(Value::as_f64).map(|value| value * row.scale);
                if floor { &mut found.floor } else { &mut found.server }.extend(value);
            }
        }
    }

    fn arguments<'b>(&'b self, measure: &Measure) -> Vec<&'b str> {
        let short = if self.args.short { measure.short.unwrap_or_default() } else { &[] };
        let mut all = vec![measure.scenario];
        all.extend(short);
        all.extend(self.args.load.split_ascii_whitespace());
        all
    }

    fn floor(&self, measure: &Measure) -> Result<Value> {
        let answer = match measure.stage {
            Stage::BothAnswering(bytes) => Some(bytes),
            _ => None,
        };
        programs::floor(answer)?.load(&self.arguments(measure))
    }

    fn server(&self, measure: &Measure) -> Result<Value> {
        let parent = self.args.data.clone().unwrap_or_else(std::env::temp_dir);
        let home = tempfile::tempdir_in(&parent).with_context(|| format!("no directory in {}", parent.display()))?;
        let data = home.path().join("data");
        let mut arguments = self.arguments(measure);
        if measure.stage != Stage::Restarted {
            return self.start(&data)?.load(&arguments);
        }
        let filling = self.start(&data)?;
        filling.load(&[measure.scenario, "--prepare", "--document", DOCUMENT])?;
        filling.stop()?;
        arguments.extend(["--document", DOCUMENT]);
        self.start(&data)?.load(&arguments)
    }

    fn start(&self, data: &Path) -> Result<Running> {
        programs::server(&self.program, data)
    }
}

impl Notes {
    fn look(&mut self, report: &Value, what: &str) {
        if report["saturated"] == true {
            self.saturated.push(what.to_owned());
        }
        let others = report.pointer("/figures/others_cores").and_then(Value::as_f64).unwrap_or_default();
        if others > NOISY_CORES {
            self.noisy.push(format!("{what} ({others:.2} cores)"));
        }
    }

    fn told(&self) -> String {
        let mut out = String::new();
        for (what, runs) in [
            ("The generator was the limit in", &self.saturated),
            ("Other programs used the machine during", &self.noisy),
            ("FAILED", &self.failures),
        ] {
            if !runs.is_empty() {
                out.push_str(&format!("\n{what}: {}.\n", runs.join("; ")));
            }
        }
        out
    }
}

fn headline(args: &Args, rounds: usize) -> String {
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let date = said("date", &["-u", "+%F"]).unwrap_or_default();
    let commit =
        said("git", &["rev-parse", "--short", "HEAD"]).map_or(String::new(), |commit| format!(", commit {commit}"));
    let short = if args.short { ", short runs" } else { "" };
    let pinned = if can_pin() { "server on core 0, load on core 1" } else { "programs not pinned to cores" };
    let built = if cfg!(debug_assertions) { ", NOT optimised: only gross changes show" } else { "" };
    format!("{date}{commit}: medians of {rounds}{short}, {pinned}{built}.\n")
}
