//! The Rust side of an npm client: a `node` process with a line protocol on standard input and output.
//!
//! It is started as `node tests/node/support/scenario-actor.mjs URL DOCUMENT... --dialect DIALECT` and reads one command
//! per line: `edit KIND ID DICE DOCUMENT`, `offline`, `online`, `state DOCUMENT`. It knows the kinds of [`EditKind`] except
//! proposals. It answers each command, in order, with one line of JSON:
//!
//! ```text
//! edit     {"ok": true, "replaced": ["d0-1"]}, {"ok": true} when nothing was replaced, {"ok": true, "nothing": true}
//!          when there was nothing to do, or {"ok": false, "error": "why"}
//! offline  {"ok": true}
//! online   {"ok": true}
//! state    {"ok": true, "state": "<v1 update of the whole document, hexadecimal>"}
//! ```

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::faults::oracle::{Edit, EditKind, Outcome, View};

/// Longest wait for the answer to a command.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// An npm client in its own process, killed on drop.
pub(super) struct NodeActor {
    /// Number of the client, counted after the devices. Even numbers use y-websocket, odd ones Hocuspocus.
    pub number: u32,
    _child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

#[derive(Deserialize)]
struct Answer {
    ok: bool,
    #[serde(default)]
    error: String,
    #[serde(default)]
    nothing: bool,
    #[serde(default)]
    replaced: Vec<String>,
    #[serde(default)]
    state: String,
}

impl NodeActor {
    /// Starts the process, which connects to `url` on its own.
    pub(super) fn start(number: u32, script: &Path, url: &str, documents: &[String]) -> Result<Self> {
        if !script.is_file() {
            bail!(
                "the scenario has npm clients, but their script {} does not exist; set --node-actor",
                script.display()
            );
        }
        let mut command = Command::new("node");
        let dialect = if number.is_multiple_of(2) { "y-websocket" } else { "hocuspocus" };
        command.arg(script).arg(url).args(documents).args(["--dialect", dialect]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("cannot run node")?;
        let commands = child.stdin.take().context("node has no standard input")?;
        let stdout = child.stdout.take().context("node has no standard output")?;
        Ok(Self { number, _child: child, commands, answers: BufReader::new(stdout).lines() })
    }

    async fn request(&mut self, command: &str) -> Result<Answer> {
        self.commands.write_all(format!("{command}\n").as_bytes()).await?;
        let line = timeout(ANSWER_LIMIT, self.answers.next_line()).await;
        let number = self.number;
        let line = line.with_context(|| format!("npm client {number} did not answer {command:?} in time"))??;
        let line = line.with_context(|| format!("npm client {number} exited before it answered {command:?}"))?;
        serde_json::from_str(&line).with_context(|| format!("npm client {number} answered {command:?} with {line:?}"))
    }

    async fn execute(&mut self, command: &str) -> Result<()> {
        let answer = self.request(command).await?;
        if answer.ok { Ok(()) } else { bail!("npm client {}: {}", self.number, answer.error) }
    }

    /// Makes an edit; see [`super::actor::Replica::edit`].
    pub(super) async fn edit(&mut self, edit: Edit, document: &str) -> Result<(Option<Outcome>, Option<String>)> {
        if edit.kind == EditKind::Proposal {
            return Ok((None, None));
        }
        let kind = edit.kind;
        let answer = self.request(&format!("edit {kind} {} {} {document}", edit.id, edit.dice)).await?;
        if !answer.ok {
            return Ok((Some(Outcome::Failed), Some(answer.error)));
        }
        let replaced: Result<Vec<_>, String> = answer.replaced.iter().map(|id| id.parse()).collect();
        let replaced = replaced.map_err(anyhow::Error::msg)?;
        Ok(((!answer.nothing).then_some(Outcome::Accepted(replaced)), None))
    }

    /// Disconnects from the server and stays offline.
    pub(super) async fn go_offline(&mut self) -> Result<()> {
        self.execute("offline").await
    }

    /// Connects to the server again.
    pub(super) async fn go_online(&mut self) -> Result<()> {
        self.execute("online").await
    }

    /// The content of the document.
    pub(super) async fn view(&mut self, document: &str) -> Result<View> {
        let answer = self.request(&format!("state {document}")).await?;
        if !answer.ok {
            bail!("npm client {}: {}", self.number, answer.error);
        }
        let state = decode_hex(&answer.state)
            .with_context(|| format!("npm client {}: the state is not valid hexadecimal", self.number))?;
        View::of_state(&state).map_err(anyhow::Error::msg)
    }
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::oracle::Id;

    #[test]
    fn decode_hex_reads_digit_pairs_and_rejects_the_rest() {
        assert_eq!(decode_hex("00ff10"), Some(vec![0, 255, 16]));
        assert_eq!((decode_hex("0"), decode_hex("zz"), decode_hex("é")), (None, None, None));
    }

    #[tokio::test]
    async fn node_actor_maps_json_answers_to_outcomes() {
        // Skipped where node is not installed.
        if std::process::Command::new("node").arg("--version").output().is_err() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("actor.mjs");
        let code = "import { createInterface } from 'node:readline'
            for await (const line of createInterface({ input: process.stdin })) {
              const answer = line.startsWith('edit delete') ? { ok: true, nothing: true }
                : line.startsWith('edit') ? { ok: true, replaced: [line.split(' ')[2]] }
                : line.startsWith('state') ? { ok: true, state: '0000' }
                : line === 'online' ? { ok: false, error: 'no' } : { ok: true }
              console.log(JSON.stringify(answer))
            }";
        std::fs::write(&script, code).unwrap();
        let mut actor = NodeActor::start(4, &script, "ws://nowhere", &["doc".into()]).unwrap();
        let id = Id { device: 4, number: 1 };
        let edit = Edit { id, kind: EditKind::Push, dice: 5 };
        assert_eq!(actor.edit(edit, "doc").await.unwrap(), (Some(Outcome::Accepted(vec![id])), None));
        assert_eq!(actor.edit(Edit { kind: EditKind::Delete, ..edit }, "doc").await.unwrap(), (None, None));
        actor.go_offline().await.unwrap();
        assert!(actor.go_online().await.unwrap_err().to_string().contains("no"));
        assert_eq!(actor.view("doc").await.unwrap(), View::default());
    }
}
