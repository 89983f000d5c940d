//! `syncline-sim crash`: the server dies by signal 9 at random moments and at its failpoints, while authors of every dialect
//! work and others come and go. Afterwards nothing acknowledged may be lost, nothing doubled, and every document loads; also
//! when those who were not answered send everything again.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use syncline_log::failpoint::{Point, VARIABLE};
use tokio::time::{sleep, timeout};

use super::fleet::{Fleet, Judgement, Load, authors, verdict};
use super::ledger::Page;
use super::writer::Author;
use crate::scenario::server::{ServerProcess, program};

/// The latest kill after the authors began.
const LATEST_KILL_MS: u64 = 600;
/// A failpoint that was not reached by then is given up: the server is killed.
const POINT_LIMIT: Duration = Duration::from_secs(4);
/// Longest wait for authors who send again.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// Documents of a round.
const DOCUMENTS: usize = 6;
/// Documents of earlier rounds that visitors open.
const VISITED: usize = 60;

/// `crash`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How often the server dies.
    #[arg(long, default_value_t = 200)]
    rounds: u32,
    /// What is chosen follows from it.
    #[arg(long, env = "SYNCLINE_SEED", default_value_t = 1)]
    seed: u64,
    /// Authors of each dialect.
    #[arg(long, default_value_t = 20)]
    writers: usize,
    /// The server's program [default: `syncline` beside this program]
    #[arg(long, env = "SYNCLINE_BIN", value_name = "FILE")]
    server_bin: Option<PathBuf>,
    /// Where the store is made [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// How a server dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// Signal 9, so long after the authors began.
    Signal(Duration),
    /// By itself, at a failpoint, at the passage.
    At(Point, u64),
    /// Signal 9, and again by itself while it comes back.
    InRecovery(Duration, Point),
    /// At the failpoint while it stops by request.
    InStop(Duration, Point),
    /// At the failpoint while a backup is taken.
    InBackup(Duration, Point),
}

impl Death {
    /// By turns, so that every failpoint has its share: a third of the rounds is killed at random.
    fn draw(round: u32, rng: &mut StdRng) -> Self {
        let late = Duration::from_millis(rng.random_range(30..LATEST_KILL_MS));
        let turns = Point::ALL.len() + Point::ALL.len() / 2;
        let Some(&point) = Point::ALL.get(round as usize % turns) else { return Self::Signal(late) };
        match point {
            Point::Opened => Self::InRecovery(late, point),
            Point::CardWritten if rng.random_bool(0.5) => Self::InRecovery(late, point),
            Point::CardWritten => Self::InStop(late, point),
            Point::BeforeAppend | Point::AfterAppend | Point::BeforeSync | Point::AfterSync | Point::BeforeAck => {
                Self::At(point, rng.random_range(1..=120))
            }
            Point::CompactSnapshotWritten | Point::CompactHeadWritten | Point::CompactRemoving => {
                Self::At(point, rng.random_range(1..=4))
            }
            Point::BackupPacksWritten | Point::BackupManifestWritten => Self::InBackup(late, point),
            Point::Load | Point::UnloadBegun | Point::UnloadSettled => Self::At(point, rng.random_range(1..=25)),
        }
    }

    fn failpoint(self) -> Option<String> {
        match self {
            Self::At(point, passage) => Some(format!("{point}:{passage}")),
            Self::InBackup(_, point) => Some(format!("{point}:1")),
            // The first card is written when the store opens.
            Self::InStop(_, point) => Some(format!("{point}:2")),
            Self::Signal(_) | Self::InRecovery(..) => None,
        }
    }
}

struct Story {
    args: Args,
    directory: PathBuf,
    server: ServerProcess,
    rng: StdRng,
    /// Everything that was ever sent.
    pages: Vec<Page>,
    judgement: Judgement,
    /// How servers died.
    deaths: BTreeMap<String, u32>,
}

/// True when nothing is wrong.
pub async fn run(args: Args) -> Result<bool> {
    let begin = Instant::now();
    let directory = match &args.directory {
        Some(parent) => tempfile::Builder::new().prefix("syncline-crash-").tempdir_in(parent)?,
        None => tempfile::Builder::new().prefix("syncline-crash-").tempdir()?,
    };
    let server = ServerProcess::new(program(args.server_bin.as_deref())?, directory.path().join("server"))
        .with_arguments(&["--idle-unload-seconds", "0"]);
    let rng = StdRng::seed_from_u64(args.seed);
    let rounds = args.rounds;
    let mut story = Story {
        directory: directory.path().to_owned(),
        args,
        server,
        rng,
        pages: Vec::new(),
        judgement: Judgement::default(),
        deaths: BTreeMap::new(),
    };
    let mut out = std::io::stdout();
    for round in 0..rounds {
        let death = Death::draw(round, &mut story.rng);
        story.round(round, death).await.with_context(|| format!("round {round}, {death:?}"))?;
        if !story.judgement.complaints.is_empty() {
            writeln!(out, "round {round}, {death:?}")?;
            break;
        }
    }
    if story.judgement.complaints.is_empty() {
        story.look_at_everything().await?;
    }
    let seed = story.args.seed;
    writeln!(
        out,
        "crash, seed {seed}: {rounds} deaths in {:.0} s; {}",
        begin.elapsed().as_secs_f64(),
        story.judgement
    )?;
    for (death, times) in &story.deaths {
        writeln!(out, "  {times:4} x {death}")?;
    }
    for complaint in story.judgement.complaints.iter().take(20) {
        writeln!(out, "FAILED: {complaint}")?;
    }
    if !story.judgement.complaints.is_empty() {
        writeln!(
            out,
            "again: syncline-sim crash --rounds {rounds} --seed {seed}; the data is in {}",
            directory.keep().display()
        )?;
    }
    Ok(story.judgement.complaints.is_empty())
}

impl Story {
    async fn round(&mut self, round: u32, death: Death) -> Result<()> {
        let mut authors = self.until_death(round, death).await?;
        let url = self.come_back(death).await?;
        let judged = verdict(&url, &authors.iter().map(|author| &author.page).collect::<Vec<_>>(), None).await;
        let is_fine = judged.complaints.is_empty();
        self.judgement.add(judged);
        if is_fine {
            self.send_again(&url, &mut authors).await?;
        }
        self.pages.extend(authors.into_iter().map(|author| author.page));
        if round.is_multiple_of(2) {
            return self.server.kill().await;
        }
        self.server.terminate().await?;
        self.server.ended().await.map(drop)
    }

    /// Authors work until the server is gone.
    async fn until_death(&mut self, round: u32, death: Death) -> Result<Vec<Author>> {
        let failpoint = death.failpoint().map(|failpoint| (VARIABLE, failpoint));
        self.server.set_environment(failpoint.as_slice());
        let url = format!("ws://{}", self.server.start().await?);
        let prefix = format!("r{}-{round}", self.args.seed);
        let authors = authors(&prefix, self.args.writers, DOCUMENTS, Load::Mixed, &mut self.rng);
        let mut fleet = Fleet::start(&url, authors);
        for _ in 0..3 {
            let seed = self.rng.random();
            fleet.send_visitor(&url, self.earlier(), StdRng::seed_from_u64(seed));
        }
        let how = match death {
            Death::Signal(after) | Death::InRecovery(after, _) => {
                sleep(after).await;
                self.server.kill().await?;
                "signal 9 at a random moment".to_owned()
            }
            Death::At(point, _) => match timeout(POINT_LIMIT, self.server.ended()).await {
                Ok(ended) => {
                    ended?;
                    format!("abort at {point}")
                }
                Err(_) => {
                    self.server.kill().await?;
                    format!("signal 9, {point} was not reached")
                }
            },
            Death::InBackup(after, point) => {
                sleep(after).await;
                let mut backup = self.backup()?;
                let reached = timeout(POINT_LIMIT, self.server.ended()).await;
                if reached.is_err() {
                    self.server.kill().await?;
                }
                backup.wait().await?;
                let what = if reached.is_ok() { "abort at" } else { "signal 9, not reached:" };
                format!("{what} {point} while a backup is taken")
            }
            Death::InStop(after, point) => {
                sleep(after).await;
                self.server.terminate().await?;
                self.server.ended().await?;
                format!("abort at {point} while stopping")
            }
        };
        *self.deaths.entry(how).or_default() += 1;
        fleet.come_home().await
    }

    /// Asks the running server for a backup.
    fn backup(&self) -> Result<tokio::process::Child> {
        let mut command = tokio::process::Command::new(program(self.args.server_bin.as_deref())?);
        command.arg("backup").arg(self.directory.join("backup")).arg("--data").arg(self.directory.join("server"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        command.spawn().context("cannot run a backup")
    }

    /// Some of the documents of earlier rounds.
    fn earlier(&mut self) -> Vec<String> {
        let Some(last) = self.pages.len().checked_sub(1) else { return Vec::new() };
        (0..VISITED).map(|_| self.pages[self.rng.random_range(0..=last)].document.clone()).collect()
    }

    async fn come_back(&mut self, death: Death) -> Result<String> {
        if let Death::InRecovery(_, point) = death {
            self.server.set_environment(&[(VARIABLE, format!("{point}:1"))]);
            anyhow::ensure!(self.server.start().await.is_err(), "it came back although it should have died at {point}");
            *self.deaths.entry(format!("abort at {point} while coming back")).or_default() += 1;
        }
        self.server.set_environment(&[]);
        Ok(format!("ws://{}", self.server.start().await?))
    }

    /// Those who were not answered send again, and everything is there once.
    async fn send_again(&mut self, url: &str, authors: &mut [Author]) -> Result<()> {
        for author in authors.iter_mut() {
            let settled = timeout(SETTLE_LIMIT, author.settle(url)).await;
            settled.with_context(|| format!("{} was not answered in time", author.page.document))??;
        }
        let pages: Vec<_> = authors.iter().map(|author| &author.page).collect();
        let complaints = verdict(url, &pages, None).await.complaints;
        self.judgement.complaints.extend(complaints.into_iter().map(|what| format!("sent again: {what}")));
        Ok(())
    }

    /// Every document of every round once more, and what `syncline verify` says.
    async fn look_at_everything(&mut self) -> Result<()> {
        self.server.set_environment(&[]);
        let url = format!("ws://{}", self.server.start().await?);
        let all = verdict(&url, &self.pages.iter().collect::<Vec<_>>(), None).await;
        self.judgement.complaints.extend(all.complaints.into_iter().map(|what| format!("at the end: {what}")));
        self.server.kill().await?;
        let mut verify = tokio::process::Command::new(program(self.args.server_bin.as_deref())?);
        verify.arg("verify").arg("--data").arg(self.directory.join("server"));
        let output = verify.output().await?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stdout);
            self.judgement
                .complaints
                .push(format!("syncline verify: {said}{}", String::from_utf8_lossy(&output.stderr)));
        }
        Ok(())
    }
}
