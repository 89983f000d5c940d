//! The Rust half of an actor with an npm client: a `node` process that speaks lines.
//!
//! It is started as `node tests/node/support/scenario-actor.mjs URL DOCUMENT... --dialect DIALECT` and gets one command a
//! line: `edit KIND ID DICE DOCUMENT`, `offline`, `online`, `state DOCUMENT`. Its kinds are ours, but it makes no
//! proposals. It answers every command, in order, with one line of JSON:
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

use crate::oracle::{Edit, Kind, Outcome, View};

/// Longest wait for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// An npm client in a process of its own, killed when this is dropped.
pub struct NodeActor {
    /// Its number.
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
    /// Starts it. It connects by itself.
    pub fn start(number: u32, script: &Path, url: &str, documents: &[String]) -> Result<Self> {
        if !script.is_file() {
            bail!("the scenario has npm clients, and there is no {}", script.display());
        }
        let mut command = Command::new("node");
        let dialect = if number.is_multiple_of(2) { "y-websocket" } else { "hocuspocus" };
        command.arg(script).arg(url).args(documents).args(["--dialect", dialect]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("cannot run node")?;
        let commands = child.stdin.take().context("node without an input")?;
        let stdout = child.stdout.take().context("node without an output")?;
        Ok(Self { number, _child: child, commands, answers: BufReader::new(stdout).lines() })
    }

    async fn ask(&mut self, command: &str) -> Result<Answer> {
        self.commands.write_all(format!("{command}\n").as_bytes()).await?;
        let line = timeout(ANSWER_LIMIT, self.answers.next_line()).await;
        let who = self.number;
        let line = line.with_context(|| format!("npm client {who} does not answer {command:?}"))??;
        let line = line.with_context(|| format!("npm client {who} ended at {command:?}"))?;
        serde_json::from_str(&line).with_context(|| format!("npm client {who} answers {command:?} with {line:?}"))
    }

    async fn obey(&mut self, command: &str) -> Result<()> {
        let answer = self.ask(command).await?;
        if answer.ok { Ok(()) } else { bail!("npm client {}: {}", self.number, answer.error) }
    }

    /// Edits; see [`super::actor::Hand::edit`].
    pub async fn edit(&mut self, edit: Edit, document: &str) -> Result<(Option<Outcome>, Option<String>)> {
        if edit.kind == Kind::Proposal {
            return Ok((None, None));
        }
        let kind = edit.kind;
        let answer = self.ask(&format!("edit {kind} {} {} {document}", edit.id, edit.dice)).await?;
        if !answer.ok {
            return Ok((Some(Outcome::Failed), Some(answer.error)));
        }
        let replaced: Result<Vec<_>, String> = answer.replaced.iter().map(|id| id.parse()).collect();
        let replaced = replaced.map_err(anyhow::Error::msg)?;
        Ok(((!answer.nothing).then_some(Outcome::Accepted(replaced)), None))
    }

    /// Leaves the server.
    pub async fn go_offline(&mut self) -> Result<()> {
        self.obey("offline").await
    }

    /// Comes back.
    pub async fn go_online(&mut self) -> Result<()> {
        self.obey("online").await
    }

    /// What it holds.
    pub async fn view(&mut self, document: &str) -> Result<View> {
        let answer = self.ask(&format!("state {document}")).await?;
        if !answer.ok {
            bail!("npm client {}: {}", self.number, answer.error);
        }
        let state = decode_hex(&answer.state).with_context(|| format!("npm client {}: no state", self.number))?;
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
    use crate::oracle::Id;

    #[test]
    fn hexadecimal_is_read() {
        assert_eq!(decode_hex("00ff10"), Some(vec![0, 255, 16]));
        assert_eq!((decode_hex("0"), decode_hex("zz"), decode_hex("é")), (None, None, None));
    }

    #[tokio::test]
    async fn an_actor_that_speaks_lines_is_understood() {
        // node stands for any program that speaks these lines; without it there is nothing to test here.
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
        let edit = Edit { id, kind: Kind::Push, dice: 5 };
        assert_eq!(actor.edit(edit, "doc").await.unwrap(), (Some(Outcome::Accepted(vec![id])), None));
        assert_eq!(actor.edit(Edit { kind: Kind::Delete, ..edit }, "doc").await.unwrap(), (None, None));
        actor.go_offline().await.unwrap();
        assert!(actor.go_online().await.unwrap_err().to_string().contains("no"));
        assert_eq!(actor.view("doc").await.unwrap(), View::default());
    }
}
