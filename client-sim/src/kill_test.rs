//! `syncline-sim kill-test`: a device is killed with signal 9 again and again while it edits; then it syncs, and
//! nothing that it accepted may be lost or doubled.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::timeout;

use crate::child::{self, Job, Moment};
use crate::oracle::{Ledger, Outcome, View, check, differences};
use crate::scenario::actor::Actor;
use crate::scenario::clock::VirtualTime;
use crate::scenario::server::ServerProcess;
use crate::scenario::{Fresh, Setup, settle_limit};

const DOCUMENT: &str = "killed";
/// A child is killed at most so long after its start: starting takes a part of it.
const LATEST_KILL_MS: u64 = 250;
/// Or after at most so many accepted edits.
const MOST_ACCEPTED: u64 = 20;

/// What the test found.
#[derive(Debug)]
pub struct Report {
    kills: u32,
    accepted: usize,
    unknown: usize,
    unknown_there: usize,
    before_first_edit: u32,
    seconds: f64,
    /// What is wrong. Empty: nothing.
    pub complaints: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} kills in {:.1} s, {} of them before the first edit; {} edits accepted; {} were on their way when the \
             process died, {} of these are there",
            self.kills, self.seconds, self.before_first_edit, self.accepted, self.unknown, self.unknown_there
        )?;
        for complaint in &self.complaints {
            writeln!(f, "  FAILED: {complaint}")?;
        }
        match self.complaints.is_empty() {
            true => write!(f, "  none lost, none doubled, on the device, on the server, and after its restart"),
            false => write!(f, "  the test FAILED"),
        }
    }
}

/// Kills a device `times` times.
pub async fn run(setup: &Setup, times: u32) -> Result<Report> {
    let begin = Instant::now();
    let dir = tempfile::Builder::new().prefix("syncline-kill-").tempdir()?;
    let mut server = ServerProcess::new(setup.program.clone(), dir.path().join("server"));
    let url = format!("ws://{}", server.start().await?);
    let mut rng = StdRng::seed_from_u64(setup.seed);
    let mut job = Job {
        directory: dir.path().join("device"),
        url: url.clone(),
        document: DOCUMENT.into(),
        device: 0,
        first: 1,
        seed: 0,
    };
    let mut ledger = Ledger::default();
    let mut before_first_edit = 0;
    for kill in 0..times {
        job.seed = rng.random();
        let moment = match rng.random_bool(0.5) {
            true => Moment::After(Duration::from_millis(rng.random_range(0..LATEST_KILL_MS))),
            false => Moment::Accepted(rng.random_range(1..=MOST_ACCEPTED)),
        };
        let edits = child::kill_after(&job, moment).await.with_context(|| format!("kill {kill}"))?;
        job.first += edits.len() as u32;
        before_first_edit += u32::from(edits.is_empty());
        for (edit, outcome) in edits {
            ledger.add(edit, outcome);
        }
    }
    let documents = vec![DOCUMENT.to_owned()];
    let clock = VirtualTime::default().clock(0);
    let mut actor = Actor::new(0, job.directory.clone(), url.clone(), clock, None, documents);
    actor.open(false).await?;
    let hand = actor.hand(DOCUMENT)?;
    timeout(settle_limit(), hand.saved()).await.with_context(|| format!("not saved in time: {}", hand.status()))??;
    let mine = hand.view().await?;
    let mut complaints = check(&ledger, &mine);
    let at_server = Fresh::look(&url, DOCUMENT).await?;
    complaints.extend(differences(&mine, &at_server).into_iter().map(|what| format!("the server: {what}")));
    server.kill().await?;
    let url = format!("ws://{}", server.start().await?);
    let at_server = Fresh::look(&url, DOCUMENT).await?;
    let after = differences(&mine, &at_server);
    complaints.extend(after.into_iter().map(|what| format!("the server after its restart: {what}")));
    actor.close().await;
    server.kill().await?;
    let unknown: Vec<_> = ledger.entries.iter().filter(|entry| entry.outcome == Outcome::Unknown).collect();
    Ok(Report {
        kills: times,
        accepted: ledger.accepted(),
        unknown: unknown.len(),
        unknown_there: unknown.iter().filter(|entry| is_there(&mine, &entry.edit.id.to_string())).count(),
        before_first_edit,
        seconds: begin.elapsed().as_secs_f64(),
        complaints,
    })
}

/// Deletes and increments leave no id.
fn is_there(view: &View, id: &str) -> bool {
    let tokens = view.text.iter().chain(&view.log);
    tokens.map(ToString::to_string).any(|token| token == id)
        || view.map.contains_key(id)
        || view.list.iter().any(|element| element == id)
}
