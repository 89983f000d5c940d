//! `syncline-sim crash`: the server is killed with signal 9 at random moments or aborts at its failpoints, while authors of
//! every dialect edit and visitors open documents. Afterwards no acknowledged edit may be lost, none duplicated, and every
//! document must load; also after authors have sent unacknowledged edits again.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use syncline_log::failpoint::{Point, VARIABLE};
use tokio::time::{sleep, timeout};

use super::author::Author;
use super::fleet::{CheckReport, Fleet, FleetArgs, Load, authors, check_documents};
use super::ledger::AuthorRecord;
use crate::server::ServerProcess;

/// Latest kill after the start of the authors.
const LATEST_KILL_MS: u64 = 600;
/// A server that has not reached its failpoint by then is killed.
const POINT_LIMIT: Duration = Duration::from_secs(4);
/// Longest wait for the acknowledgements of edits that are sent again.
const RESEND_LIMIT: Duration = Duration::from_secs(60);
/// Number of documents in a round.
const DOCUMENTS: usize = 6;
/// Number of documents of earlier rounds that a visitor chooses from.
const VISITED: usize = 60;

/// Arguments of `crash`.
#[derive(Debug, clap::Args)]
pub(crate) struct CrashArgs {
    /// Number of crashes.
    #[arg(long, default_value_t = 200)]
    rounds: u32,
    #[command(flatten)]
    fleet: FleetArgs,
    /// Directory in which the store is created [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// How a server crashes. Durations count from the start of the authors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crash {
    /// Signal 9 after the duration.
    Signal(Duration),
    /// Abort when the failpoint is reached for the n-th time.
    At(Point, u64),
    /// Signal 9 after the duration, then an abort at the failpoint during the next start.
    InRecovery(Duration, Point),
    /// SIGTERM after the duration, then an abort at the failpoint during the stop.
    InStop(Duration, Point),
    /// A backup after the duration, and an abort at the failpoint during the backup.
    InBackup(Duration, Point),
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(after) => write!(f, "signal 9 after {} ms", after.as_millis()),
            Self::At(point, passage) => write!(f, "abort at {point}, passage {passage}"),
            Self::InRecovery(after, point) => {
                write!(f, "signal 9 after {} ms, then abort at {point} during the start", after.as_millis())
            }
            Self::InStop(after, point) => write!(f, "stop after {} ms, abort at {point}", after.as_millis()),
            Self::InBackup(after, point) => write!(f, "backup after {} ms, abort at {point}", after.as_millis()),
        }
    }
}

impl Crash {
    /// Takes the failpoints in turn, so that each gets its share; a third of the rounds is killed at a random moment.
    fn draw(round: u32, rng: &mut StdRng) -> Self {
        let late = Duration::from_millis(rng.random_range(30..LATEST_KILL_MS));
        let points: Vec<Point> = Point::ALL.iter().copied().filter(|point| point.is_passed_by_servers()).collect();
        let turns = points.len() + points.len() / 2;
        let Some(&point) = points.get(round as usize % turns) else { return Self::Signal(late) };
        match point {
            Point::Opened => Self::InRecovery(late, point),
            Point::InfoWritten if rng.random_bool(0.5) => Self::InRecovery(late, point),
            Point::InfoWritten => Self::InStop(late, point),
            Point::BeforeAppend | Point::AfterAppend | Point::BeforeSync | Point::AfterSync | Point::BeforeAck => {
                Self::At(point, rng.random_range(1..=120))
            }
            Point::CompactSnapshotWritten | Point::CompactHeadWritten | Point::CompactRemoving => {
                Self::At(point, rng.random_range(1..=4))
            }
            Point::BackupPacksWritten | Point::BackupManifestWritten => Self::InBackup(late, point),
            // The last two belong to `syncline delete`.
            Point::Load | Point::UnloadBegun | Point::UnloadSettled | Point::HeadReplaced | Point::PartsRemoved => {
                Self::At(point, rng.random_range(1..=25))
            }
        }
    }

    fn failpoint(self) -> Option<String> {
        match self {
            Self::At(point, passage) => Some(format!("{point}:{passage}")),
            Self::InBackup(_, point) => Some(format!("{point}:1")),
            // The info file is written for the first time when the store opens.
            Self::InStop(_, point) => Some(format!("{point}:2")),
            Self::Signal(_) | Self::InRecovery(..) => None,
        }
    }
}

struct CrashRun {
    args: CrashArgs,
    directory: PathBuf,
    server: ServerProcess,
    rng: StdRng,
    /// The records of all authors of all rounds.
    records: Vec<AuthorRecord>,
    report: CheckReport,
    /// Number of crashes by description.
    crashes: BTreeMap<String, u32>,
}

/// Runs the crashes and prints the result. Returns true when no check failed.
pub(crate) async fn run(args: CrashArgs) -> Result<bool> {
    let begin = Instant::now();
    let directory = match &args.directory {
        Some(parent) => tempfile::Builder::new().prefix("syncline-crash-").tempdir_in(parent)?,
        None => tempfile::Builder::new().prefix("syncline-crash-").tempdir()?,
    };
    let server = ServerProcess::new(args.fleet.server.path()?, directory.path().join("server"))
        .with_arguments(&["--idle-unload-seconds", "0"]);
    let rng = StdRng::seed_from_u64(args.fleet.seed);
    let rounds = args.rounds;
    let mut run = CrashRun {
        directory: directory.path().to_owned(),
        args,
        server,
        rng,
        records: Vec::new(),
        report: CheckReport::default(),
        crashes: BTreeMap::new(),
    };
    let mut out = std::io::stdout();
    for round in 0..rounds {
        let crash = Crash::draw(round, &mut run.rng);
        run.round(round, crash).await.with_context(|| format!("round {round}, {crash}"))?;
        if !run.report.complaints.is_empty() {
            writeln!(out, "round {round}, {crash}")?;
            break;
        }
    }
    if run.report.complaints.is_empty() {
        run.check_all_documents().await?;
    }
    let seed = run.args.fleet.seed;
    writeln!(out, "crash, seed {seed}: {rounds} crashes in {:.0} s; {}", begin.elapsed().as_secs_f64(), run.report)?;
    for (crash, times) in &run.crashes {
        writeln!(out, "  {times:4} x {crash}")?;
    }
    for complaint in run.report.complaints.iter().take(20) {
        writeln!(out, "FAILED: {complaint}")?;
    }
    if !run.report.complaints.is_empty() {
        writeln!(
            out,
            "to reproduce: syncline-sim crash --rounds {rounds} --seed {seed}; the data is in {}",
            directory.keep().display()
        )?;
    }
    Ok(run.report.complaints.is_empty())
}

impl CrashRun {
    async fn round(&mut self, round: u32, crash: Crash) -> Result<()> {
        let mut authors = self.run_until_crash(round, crash).await?;
        let url = self.restart(crash).await?;
        let report =
            check_documents(&url, &authors.iter().map(|author| &author.record).collect::<Vec<_>>(), None).await;
        let passed = report.complaints.is_empty();
        self.report.add(report);
        if passed {
            self.resend(&url, &mut authors).await?;
        }
        self.records.extend(authors.into_iter().map(|author| author.record));
        if round.is_multiple_of(2) {
            return self.server.kill().await;
        }
        self.server.terminate().await?;
        self.server.ended().await.map(drop)
    }

    /// Runs authors and visitors until the server has crashed; returns the authors.
    async fn run_until_crash(&mut self, round: u32, crash: Crash) -> Result<Vec<Author>> {
        let failpoint = crash.failpoint().map(|failpoint| (VARIABLE, failpoint));
        self.server.set_environment(failpoint.as_slice());
        let url = format!("ws://{}", self.server.start().await?);
        let prefix = format!("r{}-{round}", self.args.fleet.seed);
        let authors = authors(&prefix, self.args.fleet.writers, DOCUMENTS, Load::Mixed, &mut self.rng);
        let mut fleet = Fleet::start(&url, authors);
        for _ in 0..3 {
            let seed = self.rng.random();
            fleet.spawn_visitor(&url, self.draw_earlier_documents(), StdRng::seed_from_u64(seed));
        }
        let how = match crash {
            Crash::Signal(after) | Crash::InRecovery(after, _) => {
                sleep(after).await;
                self.server.kill().await?;
                "signal 9 at a random moment".to_owned()
            }
            Crash::At(point, _) => match timeout(POINT_LIMIT, self.server.ended()).await {
                Ok(ended) => {
                    ended?;
                    format!("abort at {point}")
                }
                Err(_) => {
                    self.server.kill().await?;
                    format!("signal 9, {point} not reached")
                }
            },
            Crash::InBackup(after, point) => {
                sleep(after).await;
                let mut backup = self.backup()?;
                let reached = timeout(POINT_LIMIT, self.server.ended()).await;
                if reached.is_err() {
                    self.server.kill().await?;
                }
                backup.wait().await?;
                let what = if reached.is_ok() { "abort at" } else { "signal 9, not reached:" };
                format!("{what} {point} during a backup")
            }
            Crash::InStop(after, point) => {
                sleep(after).await;
                self.server.terminate().await?;
                self.server.ended().await?;
                format!("abort at {point} during a stop")
            }
        };
        *self.crashes.entry(how).or_default() += 1;
        fleet.join().await
    }

    /// Starts a backup of the running server.
    fn backup(&self) -> Result<tokio::process::Child> {
        let mut command = tokio::process::Command::new(self.args.fleet.server.path()?);
        command.arg("backup").arg(self.directory.join("backup")).arg("--data").arg(self.directory.join("server"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        command.spawn().context("cannot start a backup")
    }

    /// Draws documents of earlier rounds.
    fn draw_earlier_documents(&mut self) -> Vec<String> {
        let Some(last) = self.records.len().checked_sub(1) else { return Vec::new() };
        (0..VISITED).map(|_| self.records[self.rng.random_range(0..=last)].document.clone()).collect()
    }

    /// Starts the server again; returns its URL.
    async fn restart(&mut self, crash: Crash) -> Result<String> {
        if let Crash::InRecovery(_, point) = crash {
            self.server.set_environment(&[(VARIABLE, format!("{point}:1"))]);
            anyhow::ensure!(
                self.server.start().await.is_err(),
                "the server started although it should have aborted at {point}"
            );
            *self.crashes.entry(format!("abort at {point} during a start")).or_default() += 1;
        }
        self.server.set_environment(&[]);
        Ok(format!("ws://{}", self.server.start().await?))
    }

    /// Sends unacknowledged edits again and checks that every edit is present once.
    async fn resend(&mut self, url: &str, authors: &mut [Author]) -> Result<()> {
        for author in authors.iter_mut() {
            let acknowledged = timeout(RESEND_LIMIT, author.resend_unacknowledged(url)).await;
            let document = &author.record.document;
            acknowledged.with_context(|| format!("resent edits of {document} were not acknowledged in time"))??;
        }
        let records: Vec<_> = authors.iter().map(|author| &author.record).collect();
        let complaints = check_documents(url, &records, None).await.complaints;
        self.report.complaints.extend(complaints.into_iter().map(|what| format!("after resending: {what}")));
        Ok(())
    }

    /// Checks every document of every round once more, and runs `syncline verify`.
    async fn check_all_documents(&mut self) -> Result<()> {
        self.server.set_environment(&[]);
        let url = format!("ws://{}", self.server.start().await?);
        let all = check_documents(&url, &self.records.iter().collect::<Vec<_>>(), None).await;
        self.report.complaints.extend(all.complaints.into_iter().map(|what| format!("at the end: {what}")));
        self.server.kill().await?;
        let mut verify = tokio::process::Command::new(self.args.fleet.server.path()?);
        verify.arg("verify").arg("--data").arg(self.directory.join("server"));
        let output = verify.output().await?;
        if !output.status.success() {
            let printed = String::from_utf8_lossy(&output.stdout);
            self.report
                .complaints
                .push(format!("syncline verify: {printed}{}", String::from_utf8_lossy(&output.stderr)));
        }
        Ok(())
    }
}
