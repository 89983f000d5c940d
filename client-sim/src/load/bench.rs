//! `syncline-sim bench`: measures the server and the floor (the bare relay of [`crate::load::floor`]) in turn and prints one
//! table of ratios.
//!
//! Each run starts a new process on its own core and puts the load on another core. The order changes from round to round,
//! and the table shows medians. The result never fails a build: machines differ, and only the ratios are comparable.

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
use self::programs::{RunningProgram, can_pin};
use self::table::{Rounds, Table};
use crate::server::ServerBinary;

/// Document name for scenarios that fill a document and restart the server.
const DOCUMENT: &str = "bench";
/// A run is reported as noisy when other programs use more cores than this.
const NOISY_CORES: f64 = 0.25;

/// The baseline of a benchmark.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Against {
    /// The bare relay.
    Floor,
}

/// Arguments of `bench`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct BenchArgs {
    /// Baseline to compare with.
    #[arg(long, value_enum, default_value = "floor")]
    against: Against,
    /// Measure only this scenario; may be repeated [default: all]
    #[arg(long = "scenario", value_name = "NAME")]
    scenarios: Vec<String>,
    /// Number of rounds; the table shows their medians.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Finish in about a minute: one round, short spans, and only scenarios that allow it.
    #[arg(long)]
    short: bool,
    #[command(flatten)]
    server: ServerBinary,
    /// Directory for the server's data; choose a disk like the one in production [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Arguments passed to every `syncline-sim load`, for example "--seconds 3".
    #[arg(long, value_name = "ARGUMENTS", allow_hyphen_values = true, default_value = "")]
    load: String,
    /// Write the table into this document, between its two markers.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// Runs the benchmark and prints the table. Returns true when every run succeeded, whether or not the targets are reached.
pub(crate) fn run(args: &BenchArgs) -> Result<bool> {
    let Against::Floor = args.against;
    let chosen: Vec<&Measure> = MEASURES
        .iter()
        .filter(|measure| args.scenarios.is_empty() || args.scenarios.iter().any(|name| name == measure.scenario))
        .filter(|measure| !args.short || measure.short.is_some())
        .collect();
    ensure!(
        !chosen.is_empty(),
        "no scenario matches; the scenarios are: {}",
        MEASURES.iter().map(|it| it.scenario).collect::<Vec<_>>().join(", ")
    );
    let bench = Bench { args, program: args.server.path()? };
    let rounds = if args.short { 1 } else { args.rounds.max(1) };
    let mut results: Vec<Vec<Rounds>> = chosen.iter().map(|it| vec![Rounds::default(); it.rows.len()]).collect();
    let mut notes = BenchNotes::default();
    for round in 0..rounds {
        for (measure, results) in chosen.iter().zip(&mut results) {
            bench.round(measure, round, results, &mut notes);
        }
    }
    let mut table = Table::default();
    for (measure, rounds) in chosen.iter().zip(&results) {
        table.add(measure, rounds);
    }
    let text = format!("{}\n{}", headline(args, rounds), table.markdown()) + &notes.render();
    writeln!(std::io::stdout(), "{text}")?;
    if let Some(path) = &args.write {
        let document = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        std::fs::write(path, table::replace_table(&document, &text)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(notes.failures.is_empty())
}

struct Bench<'a> {
    args: &'a BenchArgs,
    program: PathBuf,
}

#[derive(Default)]
struct BenchNotes {
    failures: Vec<String>,
    saturated: Vec<String>,
    noisy: Vec<String>,
}

impl Bench<'_> {
    /// Runs one round of one scenario. A failure is noted and does not stop the other runs.
    fn round(&self, measure: &Measure, round: usize, results: &mut [Rounds], notes: &mut BenchNotes) {
        let with_floor = matches!(measure.stage, Stage::Both | Stage::BothAnswering(_));
        // The program that runs first may find a warmer or a colder machine, so the order alternates.
        let order = if round.is_multiple_of(2) { [false, true] } else { [true, false] };
        for floor in order {
            if floor && !with_floor {
                continue;
            }
            let program = if floor { "the floor" } else { "Syncline" };
            eprintln!("round {}: {} on {program}", round + 1, measure.scenario);
            let report = if floor { self.floor(measure) } else { self.server(measure) };
            let report = match report {
                Ok(report) => report,
                Err(error) => {
                    notes.failures.push(format!("{} on {program}: {error:#}", measure.scenario));
                    continue;
                }
            };
            notes.add(&report, &format!("{} on {program}", measure.scenario));
            for (row, result) in measure.rows.iter().zip(results.iter_mut()) {
                let value = report.pointer(row.pointer).and_then(Value::as_f64).map(|value| value * row.scale);
                if floor { &mut result.floor } else { &mut result.server }.extend(value);
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
        let home = tempfile::tempdir_in(&parent)
            .with_context(|| format!("cannot create a directory in {}", parent.display()))?;
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

    fn start(&self, data: &Path) -> Result<RunningProgram> {
        programs::server(&self.program, data)
    }
}

impl BenchNotes {
    fn add(&mut self, report: &Value, run: &str) {
        if report["saturated"] == true {
            self.saturated.push(run.to_owned());
        }
        let others = report.pointer("/figures/others_cores").and_then(Value::as_f64).unwrap_or_default();
        if others > NOISY_CORES {
            self.noisy.push(format!("{run} ({others:.2} cores)"));
        }
    }

    fn render(&self) -> String {
        let mut out = String::new();
        for (what, runs) in [
            ("The load generator was the bottleneck in", &self.saturated),
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

fn headline(args: &BenchArgs, rounds: usize) -> String {
    let output_of = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let date = output_of("date", &["-u", "+%F"]).unwrap_or_default();
    let commit = output_of("git", &["rev-parse", "--short", "HEAD"])
        .map_or(String::new(), |commit| format!(", commit {commit}"));
    let short = if args.short { ", short runs" } else { "" };
    let pinned = if can_pin() { "server on core 0, load on core 1" } else { "programs not pinned to cores" };
    let built = if cfg!(debug_assertions) { ", NOT an optimised build: only large changes are visible" } else { "" };
    format!("{date}{commit}: medians of {rounds}{short}, {pinned}{built}.\n")
}
