//! `syncline-sim power-cut`: the power of the server's file system goes while authors of every dialect work; what was not
//! synced is gone. What was acknowledged before must be there, and every document must load.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use syncline_log::failpoint::{Point, VARIABLE};
use tokio::time::sleep;

use super::fleet::{Fleet, Judgement, Load, authors, verdict};
use super::ledger::Page;
use super::mount::{Mount, unavailable};
use crate::scenario::server::{ServerProcess, program};

/// The file system's size: what a trial writes, several times over. The file behind it is sparse.
const DISK_MEBIBYTES: u64 = 2048;
/// A file system is used for so many trials: what was saved must survive later cuts, too.
const TRIALS_ON_ONE_DISK: u32 = 10;
/// When the power goes after the authors began.
const CUT_MS: std::ops::Range<u64> = 50..1200;
/// The same for large edits, of which few are answered in a second, and for small ones, which must fill more than one of the
/// engine's segments: within one, whose blocks are on disk already, a missing sync goes unnoticed.
const CUT_LATE_MS: std::ops::Range<u64> = 500..4000;
/// A halt that was not reached by then: the power goes anyway.
const HALT_LIMIT: Duration = Duration::from_secs(4);
/// How often the log is looked at for the halt.
const HALT_POLL: Duration = Duration::from_millis(5);
const DOCUMENTS: usize = 6;
/// Fewer acknowledged edits for each cut, on average, prove nothing.
const LEAST_ACKED: usize = 5;

/// What the authors send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Keystrokes.
    Small,
    /// Edits of 300 KB.
    Large,
    /// Edits that make the server compact all the time; half of the cuts come at a step of a compaction.
    Compaction,
}

/// `power-cut`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the authors send [default: each in turn]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Cuts in each mode.
    #[arg(long, default_value_t = 40)]
    trials: u32,
    /// What is chosen follows from it.
    #[arg(long, env = "SYNCLINE_SEED", default_value_t = 1)]
    seed: u64,
    /// Authors of each dialect.
    #[arg(long, default_value_t = 20)]
    writers: usize,
    /// The server's program [default: `syncline` beside this program]
    #[arg(long, env = "SYNCLINE_BIN", value_name = "FILE")]
    server_bin: Option<PathBuf>,
    /// Go on after a complaint, on a new disk, to count.
    #[arg(long)]
    count: bool,
}

/// True when nothing is wrong.
pub async fn run(args: Args) -> Result<bool> {
    let mut out = std::io::stdout();
    if let Some(why) = unavailable().await {
        writeln!(out, "SKIPPED: power-cut needs root, loop devices, ext4 and perl: {why}")?;
        return Ok(true);
    }
    let modes = args.mode.map_or_else(|| Mode::value_variants().to_vec(), |mode| vec![mode]);
    let mut fine = true;
    for mode in modes {
        let begin = Instant::now();
        let mut trials = Trials::new(&args, mode)?;
        let mut bad = 0;
        for trial in 0..args.trials {
            let before = trials.judgement.complaints.len();
            trials.trial(trial).await.with_context(|| format!("{mode:?}, trial {trial}"))?;
            bad += u32::from(trials.judgement.complaints.len() > before);
            if trials.judgement.complaints.len() > before {
                if !args.count {
                    break;
                }
                trials.disk = None;
            }
        }
        if trials.judgement.acked.values().sum::<usize>() < trials.done as usize * LEAST_ACKED {
            trials.judgement.complaints.push("too little was acknowledged to mean anything".into());
        }
        let seconds = begin.elapsed().as_secs_f64();
        let (done, halted) = (trials.done, trials.halted);
        writeln!(
            out,
            "power-cut, {mode:?}, seed {}: {done} cuts in {seconds:.0} s, {halted} of them at a halt, {bad} bad; {}",
            args.seed, trials.judgement
        )?;
        for complaint in trials.judgement.complaints.iter().take(20) {
            writeln!(out, "FAILED: {complaint}")?;
        }
        fine &= trials.judgement.complaints.is_empty();
    }
    Ok(fine)
}

struct Trials<'a> {
    args: &'a Args,
    mode: Mode,
    program: PathBuf,
    rng: StdRng,
    disk: Option<(Mount, ServerProcess)>,
    /// Everything that was sent to this disk.
    pages: Vec<(Page, Instant)>,
    judgement: Judgement,
    done: u32,
    halted: u32,
}

impl<'a> Trials<'a> {
    fn new(args: &'a Args, mode: Mode) -> Result<Self> {
        Ok(Self {
            args,
            mode,
            program: program(args.server_bin.as_deref())?,
            rng: StdRng::seed_from_u64(args.seed),
            disk: None,
            pages: Vec::new(),
            judgement: Judgement::default(),
            done: 0,
            halted: 0,
        })
    }

    async fn trial(&mut self, trial: u32) -> Result<()> {
        if self.disk.is_none() || trial.is_multiple_of(TRIALS_ON_ONE_DISK) {
            self.disk = None;
            self.pages.clear();
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
        let prefix = format!("p{}-{trial}", self.args.seed);
        let authors = authors(&prefix, self.args.writers, DOCUMENTS, load, &mut self.rng);
        let cut_after = Duration::from_millis(self.rng.random_range(cut_ms));
        let (mount, server) = self.disk.as_mut().context("no disk")?;
        server.set_environment(halt.as_slice());
        let halts_before = halts(server);
        let url = format!("ws://{}", server.start().await?);
        let cutter = mount.cutter().await?;
        let fleet = Fleet::start(&url, authors);
        if halt.is_some() {
            self.halted += u32::from(is_halted(server, halts_before).await);
        } else {
            sleep(cut_after).await;
        }
        let cut = cutter.cut().await?;
        server.kill().await?;
        let authors = fleet.come_home().await?;
        mount.remount()?;
        self.done += 1;
        self.pages.extend(authors.into_iter().map(|author| (author.page, cut)));
        self.judge(trial).await
    }

    /// Reads what is there after the cut, of this trial and of all before it on this disk.
    async fn judge(&mut self, trial: u32) -> Result<()> {
        let (_, server) = self.disk.as_mut().context("no disk")?;
        server.set_environment(&[]);
        let log_before = server.log().len();
        let address = match server.start().await {
            Ok(address) => address,
            Err(error) => {
                let said = server.log().split_off(log_before);
                self.judgement.complaints.push(format!("trial {trial}: the store does not open: {error:#} {said}"));
                return Ok(());
            }
        };
        let url = format!("ws://{address}");
        let newest = self.pages.last().map(|(_, cut)| *cut);
        let mut older: Vec<(&Page, Instant)> = self.pages.iter().map(|(page, cut)| (page, *cut)).collect();
        let new: Vec<&Page> = older.extract_if(.., |(_, cut)| Some(*cut) == newest).map(|(page, _)| page).collect();
        let mut judged = verdict(&url, &new, newest).await;
        for (page, cut) in older {
            // Several pages of one document belong to one cut.
            let pages: Vec<&Page> =
                self.pages.iter().filter(|(other, _)| other.document == page.document).map(|(page, _)| page).collect();
            if std::ptr::eq(pages[0], page) {
                judged.complaints.extend(verdict(&url, &pages, Some(cut)).await.complaints);
            }
        }
        for complaint in &mut judged.complaints {
            *complaint = format!("trial {trial}: {complaint}");
        }
        self.judgement.add(judged);
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
        // A store syncs when it is made, too.
        let passages = if point == Point::BeforeSync { 10..=200 } else { 1..=6 };
        Some((VARIABLE, format!("{point}:{}:halt", self.rng.random_range(passages))))
    }
}

/// Waits until the server says that it halted. False: it did not in time.
async fn is_halted(server: &ServerProcess, before: usize) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < HALT_LIMIT {
        if halts(server) > before {
            return true;
        }
        sleep(HALT_POLL).await;
    }
    false
}

fn halts(server: &ServerProcess) -> usize {
    server.log().matches("halted at").count()
}
