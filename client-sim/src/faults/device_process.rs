//! A device in its own process, so that it can be killed with signal 9: `syncline-sim device`, and the parent's side, which
//! starts the process, reads its output and kills it.
//!
//! The child prints `try ID KIND DICE` before an edit, and `ok ID REPLACED...`, `none ID` or `err ID REASON` after it. A
//! line that the parent has read stays true whatever happens to the process afterwards.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::faults::oracle::{Edit, EditKind, Id, Outcome};
use crate::faults::scenario::actor::Actor;
use crate::faults::scenario::clock::VirtualTime;

/// Longest wait for a line from a child.
const LINE_LIMIT: Duration = Duration::from_secs(30);

/// Kinds of edits that a child makes.
const KINDS: [EditKind; 6] =
    [EditKind::Insert, EditKind::Append, EditKind::Delete, EditKind::Map, EditKind::Push, EditKind::Count];

/// What a child process is started with.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// Directory of the device's store.
    pub directory: PathBuf,
    /// Server URL. The child stays offline and never connects to it.
    pub url: String,
    /// Name of the document that the child edits.
    pub document: String,
    /// Number of the device.
    pub device: u32,
    /// Number of the first edit.
    pub first: u32,
    /// Seed of the child's random choices.
    pub seed: u64,
}

/// When a child is killed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Moment {
    /// After this many accepted edits.
    Accepted(u64),
    /// This long after its start, whatever it is doing.
    After(Duration),
}

/// The child's side: edits offline until it is killed or has made `edits` edits.
pub(super) async fn run(job: &Job, edits: u64) -> Result<()> {
    let clock = VirtualTime::default().clock(0);
    let documents = vec![job.document.clone()];
    let mut actor = Actor::new(job.device, job.directory.clone(), job.url.clone(), clock, None, documents);
    actor.open(true).await?;
    let replica = actor.replica(&job.document)?;
    let mut rng = StdRng::seed_from_u64(job.seed);
    let mut stdout = std::io::stdout().lock();
    for number in (job.first..).take(usize::try_from(edits)?) {
        let kind = KINDS[rng.random_range(0..KINDS.len())];
        let edit = Edit { id: Id { device: job.device, number }, kind, dice: rng.random() };
        writeln!(stdout, "try {} {} {}", edit.id, edit.kind, edit.dice)?;
        stdout.flush()?;
        match replica.edit(edit).await {
            (Some(Outcome::Accepted(replaced)), _) => {
                let replaced: String = replaced.iter().map(|id| format!(" {id}")).collect();
                writeln!(stdout, "ok {}{replaced}", edit.id)?;
            }
            (None, _) => writeln!(stdout, "none {}", edit.id)?,
            (Some(_), why) => writeln!(stdout, "err {} {}", edit.id, why.unwrap_or_default().replace('\n', " "))?,
        }
        stdout.flush()?;
    }
    actor.close().await;
    Ok(())
}

/// Starts a child, kills it with signal 9 at `moment` and waits for its end. Returns every edit that it tried.
pub(super) async fn kill_after(job: &Job, moment: Moment) -> Result<Vec<(Edit, Outcome)>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("device").arg("--dir").arg(&job.directory).args(["--url", &job.url, "--document", &job.document]);
    command.args(["--edits", "1000000", "--seed", &job.seed.to_string()]);
    command.args(["--device", &job.device.to_string(), "--first", &job.first.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("cannot start the device process")?;
    let mut lines = BufReader::new(child.stdout.take().context("the device process has no standard output")?).lines();
    let mut read = Vec::new();
    let mut accepted = 0;
    let reading = async {
        while let Some(line) =
            timeout(LINE_LIMIT, lines.next_line()).await.context("the device process printed no line in time")??
        {
            accepted += u64::from(line.starts_with("ok "));
            read.push(line);
            if matches!(moment, Moment::Accepted(wanted) if accepted >= wanted) {
                return anyhow::Ok(true);
            }
        }
        Ok(false)
    };
    let latest = match moment {
        Moment::Accepted(0) => Some(Duration::ZERO),
        Moment::Accepted(_) => None,
        Moment::After(time) => Some(time),
    };
    let alive = tokio::select! {
        ended = reading => ended?,
        () = sleep_or_pend(latest) => true,
    };
    if !alive {
        let output = child.wait_with_output().await?;
        bail!("the device process ended before it was killed: {}", String::from_utf8_lossy(&output.stderr));
    }
    child.kill().await.context("cannot kill the device process")?;
    // Lines that it printed before it died.
    while let Some(line) = lines.next_line().await? {
        read.push(line);
    }
    parse_edits(&read)
}

async fn sleep_or_pend(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}

fn parse_edits(lines: &[String]) -> Result<Vec<(Edit, Outcome)>> {
    let mut edits: Vec<(Edit, Option<Outcome>)> = Vec::new();
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let current = edits.last_mut();
        match (words.as_slice(), current) {
            (["try", id, kind, dice], _) => {
                let parsed = (id.parse(), kind.parse(), dice.parse());
                // The last line may be cut off.
                let (Ok(id), Ok(kind), Ok(dice)) = parsed else { continue };
                edits.push((Edit { id, kind, dice }, Some(Outcome::Unknown)));
            }
            (["ok", id, replaced @ ..], Some((edit, outcome))) if edit.id.to_string() == *id => {
                let replaced: Result<Vec<Id>, String> = replaced.iter().map(|id| id.parse()).collect();
                *outcome = Some(replaced.map_or(Outcome::Unknown, Outcome::Accepted));
            }
            (["none", id], Some((edit, outcome))) if edit.id.to_string() == *id => *outcome = None,
            (["err", id, ..], Some((edit, outcome))) if edit.id.to_string() == *id => *outcome = Some(Outcome::Failed),
            _ => {}
        }
    }
    // An edit that had nothing to do uses up its number, but is in no document.
    Ok(edits.into_iter().map(|(edit, outcome)| (edit, outcome.unwrap_or(Outcome::Failed))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_killed_child_parses_to_outcome_of_each_edit() {
        let lines = [
            "try d2-5 push 7",
            "ok d2-5",
            "try d2-6 delete 9",
            "ok d2-6 d0-1",
            "try d2-7 delete 9",
            "none d2-7",
            "try d2-8 map 1",
            "err d2-8 no space",
            "try d2-9 push 3",
            "o",
        ];
        let edits = parse_edits(&lines.map(String::from)).unwrap();
        let outcomes: Vec<_> = edits.iter().map(|(edit, outcome)| (edit.id.number, outcome.clone())).collect();
        let victim = Id { device: 0, number: 1 };
        assert_eq!(
            outcomes,
            [
                (5, Outcome::Accepted(vec![])),
                (6, Outcome::Accepted(vec![victim])),
                (7, Outcome::Failed),
                (8, Outcome::Failed),
                (9, Outcome::Unknown),
            ]
        );
    }
}
