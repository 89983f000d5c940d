//! A device in a process of its own, so that it can be killed with signal 9: `syncline-sim device`, and the half that
//! starts, reads and kills it.
//!
//! It writes `try ID KIND DICE` before an edit, and after it `ok ID REPLACED...`, `none ID` or `err ID WHY`. A line that
//! was read is true whatever happens to the process afterwards.

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

use crate::oracle::{Edit, Id, Kind, Outcome};
use crate::scenario::actor::Actor;
use crate::scenario::clock::VirtualTime;

/// Longest wait for a line of a child.
const LINE_LIMIT: Duration = Duration::from_secs(30);

/// What a child edits.
const KINDS: [Kind; 6] = [Kind::Insert, Kind::Append, Kind::Delete, Kind::Map, Kind::Push, Kind::Count];

/// What a child does.
#[derive(Debug, Clone)]
pub struct Job {
    /// The device's store.
    pub directory: PathBuf,
    /// The server, which it never calls.
    pub url: String,
    /// What it edits.
    pub document: String,
    /// The device's number.
    pub device: u32,
    /// The number of its first edit.
    pub first: u32,
    /// What it chooses follows from it.
    pub seed: u64,
}

/// When a child is killed.
#[derive(Debug, Clone, Copy)]
pub enum Moment {
    /// After so many accepted edits.
    Accepted(u64),
    /// So long after its start, whatever it is doing.
    After(Duration),
}

/// The child: edits offline until it is killed, or `edits` times.
pub async fn run(job: &Job, edits: u64) -> Result<()> {
    let clock = VirtualTime::default().clock(0);
    let documents = vec![job.document.clone()];
    let mut actor = Actor::new(job.device, job.directory.clone(), job.url.clone(), clock, None, documents);
    actor.open(true).await?;
    let hand = actor.hand(&job.document)?;
    let mut rng = StdRng::seed_from_u64(job.seed);
    let mut stdout = std::io::stdout().lock();
    for number in (job.first..).take(usize::try_from(edits)?) {
        let kind = KINDS[rng.random_range(0..KINDS.len())];
        let edit = Edit { id: Id { device: job.device, number }, kind, dice: rng.random() };
        writeln!(stdout, "try {} {} {}", edit.id, edit.kind, edit.dice)?;
        stdout.flush()?;
        match hand.edit(edit).await {
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

/// Starts a child, kills it with signal 9 at the moment, and tells every edit it tried. Returns when it is gone.
pub async fn kill_after(job: &Job, moment: Moment) -> Result<Vec<(Edit, Outcome)>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("device").arg("--dir").arg(&job.directory).args(["--url", &job.url, "--document", &job.document]);
    command.args(["--edits", "1000000", "--seed", &job.seed.to_string()]);
    command.args(["--device", &job.device.to_string(), "--first", &job.first.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("cannot start a device")?;
    let mut lines = BufReader::new(child.stdout.take().context("a child without an output")?).lines();
    let mut read = Vec::new();
    let mut accepted = 0;
    let reading = async {
        while let Some(line) = timeout(LINE_LIMIT, lines.next_line()).await.context("a child is silent")?? {
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
        () = wait(latest) => true,
    };
    if !alive {
        let output = child.wait_with_output().await?;
        bail!("a child ended by itself: {}", String::from_utf8_lossy(&output.stderr));
    }
    child.kill().await.context("a child cannot be killed")?;
    // What it wrote before it died.
    while let Some(line) = lines.next_line().await? {
        read.push(line);
    }
    edits_of(&read)
}

async fn wait(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}

fn edits_of(lines: &[String]) -> Result<Vec<(Edit, Outcome)>> {
    let mut edits: Vec<(Edit, Option<Outcome>)> = Vec::new();
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let current = edits.last_mut();
        match (words.as_slice(), current) {
            (["try", id, kind, dice], _) => {
                let parsed = (id.parse(), kind.parse(), dice.parse());
                // The last line may be half a line.
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
    // An edit with nothing to do keeps its number, and is nowhere.
    Ok(edits.into_iter().map(|(edit, outcome)| (edit, outcome.unwrap_or(Outcome::Failed))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_child_wrote_until_it_was_killed_is_understood() {
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
        let edits = edits_of(&lines.map(String::from)).unwrap();
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
