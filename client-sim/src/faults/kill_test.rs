//! `syncline-sim kill-test`: a device is killed with signal 9 again and again while it edits; then it syncs, and no edit
//! that it accepted may be lost or duplicated.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::timeout;

use crate::faults::device_process::{self, Job, Moment};
use crate::faults::oracle::{Ledger, Outcome, View, check, differences};
use crate::faults::scenario::actor::Actor;
use crate::faults::scenario::clock::VirtualTime;
use crate::faults::scenario::{FreshClient, Setup, settle_limit};
use crate::server::ServerProcess;

const DOCUMENT: &str = "killed";
/// Latest moment of a kill after the start of the child. Starting takes part of this time.
const LATEST_KILL_MS: u64 = 250;
/// Largest number of accepted edits after which a child is killed.
const MOST_ACCEPTED: u64 = 20;

/// Result of a kill test.
#[derive(Debug)]
pub(super) struct KillReport {
    kills: u32,
    accepted: usize,
    /// Edits whose outcome the child did not print before it died.
    unknown: usize,
    /// Of these, the edits that the document contains.
    unknown_present: usize,
    before_first_edit: u32,
    seconds: f64,
    /// Failed checks; empty when the test passed.
    pub complaints: Vec<String>,
}

impl fmt::Display for KillReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} kills in {:.1} s, {} of them before the first edit; {} edits accepted; {} in progress when the process \
             died, {} of these are in the document",
            self.kills, self.seconds, self.before_first_edit, self.accepted, self.unknown, self.unknown_present
        )?;
        for complaint in &self.complaints {
            writeln!(f, "  FAILED: {complaint}")?;
        }
        match self.complaints.is_empty() {
            true => {
                write!(f, "  none lost, none duplicated, on the device, on the server, and after the server's restart")
            }
            false => write!(f, "  the test FAILED"),
        }
    }
}

/// Kills a device `times` times while it edits, then compares the device, the server and the ledger.
pub(super) async fn run(setup: &Setup, times: u32) -> Result<KillReport> {
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
        let edits = device_process::kill_after(&job, moment).await.with_context(|| format!("kill {kill}"))?;
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
    let replica = actor.replica(DOCUMENT)?;
    let saved = timeout(settle_limit(), replica.saved()).await;
    saved.with_context(|| format!("the device's edits were not saved in time: {}", replica.status()))??;
    let on_device = replica.view().await?;
    let mut complaints = check(&ledger, &on_device);
    let on_server = FreshClient::view(&url, DOCUMENT).await?;
    complaints.extend(differences(&on_device, &on_server).into_iter().map(|what| format!("the server: {what}")));
    server.kill().await?;
    let url = format!("ws://{}", server.start().await?);
    let on_server = FreshClient::view(&url, DOCUMENT).await?;
    let after = differences(&on_device, &on_server);
    complaints.extend(after.into_iter().map(|what| format!("the server after its restart: {what}")));
    actor.close().await;
    server.kill().await?;
    let unknown: Vec<_> = ledger.entries.iter().filter(|entry| entry.outcome == Outcome::Unknown).collect();
    Ok(KillReport {
        kills: times,
        accepted: ledger.accepted(),
        unknown: unknown.len(),
        unknown_present: unknown.iter().filter(|entry| contains(&on_device, &entry.edit.id.to_string())).count(),
        before_first_edit,
        seconds: begin.elapsed().as_secs_f64(),
        complaints,
    })
}

/// Whether the document contains the edit. Deletes and increments leave no id and count as absent.
fn contains(view: &View, id: &str) -> bool {
    let tokens = view.text.iter().chain(&view.log);
    tokens.map(ToString::to_string).any(|token| token == id)
        || view.map.contains_key(id)
        || view.list.iter().any(|element| element == id)
}
