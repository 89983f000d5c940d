//! `syncline-sim power-cut`: the power of the server's file system is cut while authors of every dialect edit; unsynced data
//! is lost. Every edit acknowledged before the cut must be present, and every document must load.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use syncline_log::failpoint::{Point, VARIABLE};
use tokio::time::sleep;

use super::fleet::{CheckReport, Fleet, FleetArgs, Load, authors, check_documents};
use super::ledger::AuthorRecord;
use super::mount::{Mount, unavailable};
use crate::server::ServerProcess;

/// Size of the file system, several times what a trial writes. The file behind it is sparse.
const DISK_MEBIBYTES: u64 = 2048;
/// Number of trials on one file system: saved edits must survive later cuts, too.
const TRIALS_ON_ONE_DISK: u32 = 10;
/// Time of the cut after the start of the authors.
const CUT_MS: std::ops::Range<u64> = 50..1200;
/// Time of the cut for large edits, of which few are acknowledged within a second, and for small ones, which must fill more
/// than one segment of the engine: within one segment, whose blocks are already on disk, a missing sync goes unnoticed.
const CUT_LATE_MS: std::ops::Range<u64> = 500..4000;
/// The power is cut after this time even if the server has not halted.
const HALT_LIMIT: Duration = Duration::from_secs(4);
/// How often the log is searched for the halt.
const HALT_POLL: Duration = Duration::from_millis(5);
const DOCUMENTS: usize = 6;
/// The run fails with fewer acknowledged edits per cut on average, because it would prove nothing.
const MIN_ACKED: usize = 5;

/// Kind of edits that the authors send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Keystrokes.
    Small,
    /// Edits of 300 KB.
    Large,
    /// Edits that make the server compact all the time; half of the cuts happen at a step of a compaction.
    Compaction,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("no mode is hidden").get_name())
    }
}

/// Arguments of `power-cut`.
#[derive(Debug, clap::Args)]
pub(crate) struct PowerCutArgs {
    /// Kind of edits [default: each in turn]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Number of cuts in each mode.
    #[arg(long, default_value_t = 40)]
    trials: u32,
    #[command(flatten)]
    fleet: FleetArgs,
    /// Continue after a complaint, on a new disk, to count the failing trials.
    #[arg(long)]
    count: bool,
}

/// Runs the trials and prints the result. Returns true when no check failed.
pub(crate) async fn run(args: PowerCutArgs) -> Result<bool> {
    let mut out = std::io::stdout();
    if let Some(why) = unavailable().await {
        writeln!(out, "SKIPPED: power-cut needs root, loop devices, ext4 and perl: {why}")?;
        return Ok(true);
    }
    let modes = args.mode.map_or_else(|| Mode::value_variants().to_vec(), |mode| vec![mode]);
    let mut passed = true;
    for mode in modes {
        let begin = Instant::now();
        let mut trials = Trials::new(&args, mode)?;
        let mut bad = 0;
        for trial in 0..args.trials {
            let before = trials.report.complaints.len();
            trials.trial(trial).await.with_context(|| format!("{mode}, trial {trial}"))?;
            bad += u32::from(trials.report.complaints.len() > before);
            if trials.report.complaints.len() > before {
                if !args.count {
                    break;
                }
                trials.disk = None;
            }
        }
        if trials.report.acked.values().sum::<usize>() < trials.done as usize * MIN_ACKED {
            trials.report.complaints.push("too few edits were acknowledged for a meaningful result".into());
        }
        let seconds = begin.elapsed().as_secs_f64();
        let (done, halted) = (trials.done, trials.halted);
        writeln!(
            out,
            "power-cut, {mode}, seed {}: {done} cuts in {seconds:.0} s, {halted} of them at a halt, {bad} bad; {}",
            args.fleet.seed, trials.report
        )?;
        for complaint in trials.report.complaints.iter().take(20) {
            writeln!(out, "FAILED: {complaint}")?;
        }
        passed &= trials.report.complaints.is_empty();
    }
    Ok(passed)
}

struct Trials<'a> {
    args: &'a PowerCutArgs,
    mode: Mode,
    program: PathBuf,
    rng: StdRng,
    disk: Option<(Mount, ServerProcess)>,
    /// The records of all authors on this disk, with the time of their cut.
    records: Vec<(AuthorRecord, Instant)>,
    report: CheckReport,
    done: u32,
    halted: u32,
}

impl<'a> Trials<'a> {
    fn new(args: &'a PowerCutArgs, mode: Mode) -> Result<Self> {
        Ok(Self {
            args,
            mode,
            program: args.fleet.server.path()?,
            rng: StdRng::seed_from_u64(args.fleet.seed),
            disk: None,
            records: Vec::new(),
            report: CheckReport::default(),
            done: 0,
            halted: 0,
        })
    }

    async fn trial(&mut self, trial: u32) -> Result<()> {
        if self.disk.is_none() || trial.is_multiple_of(TRIALS_ON_ONE_DISK) {
            self.disk = None;
            self.records.clear();
            let mount = Mount::make(DISK_MEBIBYTES)?;
            let server = ServerProcess::new(self.program.clone(), mount.directory().join("data"))
                .with_log(mount.beside("server.log"))
                .with_arguments(&["--idle-unload-seconds", "0"]);
            self.disk = Some((mount, server));
        }
        let (load, cut_ms) = match self.mode {
            Mode::Small => (Load::Fast, CUT_LATE_MS),
            Mode::Large => (Load::Large, CUT_LATE_MS),
            Mode::Compaction => (Load::Churn, CUT_MS),
        };
        let halt = self.draw_halt();
        let prefix = format!("p{}-{trial}", self.args.fleet.seed);
        let authors = authors(&prefix, self.args.fleet.writers, DOCUMENTS, load, &mut self.rng);
        let cut_after = Duration::from_millis(self.rng.random_range(cut_ms));
        let (mount, server) = self.disk.as_mut().context("no disk")?;
        server.set_environment(halt.as_slice());
        let halts_before = halts(server);
        let url = format!("ws://{}", server.start().await?);
        let power_switch = mount.power_switch().await?;
        let fleet = Fleet::start(&url, authors);
        if halt.is_some() {
            self.halted += u32::from(wait_for_halt(server, halts_before).await);
        } else {
            sleep(cut_after).await;
        }
        let cut = power_switch.cut().await?;
        server.kill().await?;
        let authors = fleet.join().await?;
        mount.remount()?;
        self.done += 1;
        self.records.extend(authors.into_iter().map(|author| (author.record, cut)));
        self.check(trial).await
    }

    /// Checks the documents of this trial and of all earlier trials on this disk.
    async fn check(&mut self, trial: u32) -> Result<()> {
        let (_, server) = self.disk.as_mut().context("no disk")?;
        server.set_environment(&[]);
        let log_before = server.log().len();
        let address = match server.start().await {
            Ok(address) => address,
            Err(error) => {
                let log = server.log().split_off(log_before);
                self.report.complaints.push(format!("trial {trial}: the store cannot be opened: {error:#} {log}"));
                return Ok(());
            }
        };
        let url = format!("ws://{address}");
        let newest = self.records.last().map(|(_, cut)| *cut);
        let mut older: Vec<(&AuthorRecord, Instant)> =
            self.records.iter().map(|(record, cut)| (record, *cut)).collect();
        let new: Vec<&AuthorRecord> =
            older.extract_if(.., |(_, cut)| Some(*cut) == newest).map(|(record, _)| record).collect();
        let mut report = check_documents(&url, &new, newest).await;
        for (record, cut) in older {
            // All records of one document belong to one cut; check them once.
            let records: Vec<&AuthorRecord> = self
                .records
                .iter()
                .filter(|(other, _)| other.document == record.document)
                .map(|(record, _)| record)
                .collect();
            if std::ptr::eq(records[0], record) {
                report.complaints.extend(check_documents(&url, &records, Some(cut)).await.complaints);
            }
        }
        for complaint in &mut report.complaints {
            *complaint = format!("trial {trial}: {complaint}");
        }
        self.report.add(report);
        let (_, server) = self.disk.as_mut().context("no disk")?;
        server.kill().await
    }

    fn draw_halt(&mut self) -> Option<(&'static str, String)> {
        const STEPS: [Point; 4] =
            [Point::CompactSnapshotWritten, Point::CompactHeadWritten, Point::CompactRemoving, Point::BeforeSync];
        if self.mode != Mode::Compaction || self.rng.random_bool(0.5) {
            return None;
        }
        let point = STEPS[self.rng.random_range(0..STEPS.len())];
        // Creating a store syncs, too.
        let passages = if point == Point::BeforeSync { 10..=200 } else { 1..=6 };
        Some((VARIABLE, format!("{point}:{}:halt", self.rng.random_range(passages))))
    }
}

/// Waits until the server logs a halt. Returns false when it does not in time.
async fn wait_for_halt(server: &ServerProcess, before: usize) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < HALT_LIMIT {
        if halts(server) > before {
            return true;
        }
        sleep(HALT_POLL).await;
    }
    false
}

/// Number of halts in the server's log.
fn halts(server: &ServerProcess) -> usize {
    server.log().matches("halted at").count()
}
