//! `syncline-sim actor`: a device in its own process that executes commands from standard input, so that any program can
//! drive it and kill it. `tests/node/support/scenario-actor.mjs` is an npm client with the same commands.
//!
//! Each command is answered, in order, with one line of JSON:
//!
//! ```text
//! edit KIND ID [DICE]   {"ok":true,"id":ID,"replaced":[ID...]}, with "nothing":true when there was nothing to do.
//!                       The answer is sent once the edit is on the device's disk
//! offline, online       {"ok":true}
//! state                 {"ok":true,"state":"<v1 update, hexadecimal>","sync":"Synced","synced":true,"queued":0}
//! rebase, discard       {"ok":true}: adopts the server's new history, and keeps or drops the queued edits
//! saved                 {"ok":true,"saved":true}: the server has acknowledged every edit
//! traffic               {"ok":true,"sent":{"bytes":0,"messages":0},"received":{...}}
//! exit                  {"ok":true}; the device closes
//! ```
//!
//! A command that fails is answered with `{"ok":false,"error":"why"}`.

mod edits;

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::RngExt;
use serde_json::{Value as Json, json};
use syncline_client::backoff::BackoffConfig;
use syncline_client::{Device, DeviceConfig, Document, SyncState};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use self::edits::ActorEdit;

/// Short delays: the server is on this machine or near it.
const BACKOFF: BackoffConfig = BackoffConfig { first: Duration::from_millis(20), max: Duration::from_millis(300) };
/// Longest wait for the store lock of an actor that was killed.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
/// Longest time for a command: an actor that waits forever would outlive its test.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);
const LOCK_RETRY: Duration = Duration::from_millis(5);
/// The commands, for people; see the top of this file.
const COMMANDS: &str = "edit KIND ID [DICE], offline, online, state, rebase, discard, saved, traffic, exit";

/// Arguments of `actor`.
#[derive(clap::Args)]
#[command(after_help = format!("Commands: {COMMANDS}"))]
pub(crate) struct ActorArgs {
    /// Directory of the device's store.
    #[arg(long)]
    dir: PathBuf,
    /// Server address.
    #[arg(long)]
    url: String,
    /// Document name.
    #[arg(long)]
    document: String,
    /// Start offline; connect on the command `online`.
    #[arg(long)]
    offline: bool,
}

/// Executes commands until `exit` or the end of standard input.
pub(crate) async fn run(args: &ActorArgs) -> Result<()> {
    let device = open(args).await?;
    let document = device.document(&args.document).await?;
    let mut lines = stdin_lines();
    let mut stdout = std::io::stdout();
    while let Some(line) = lines.recv().await {
        let answer = match timeout(COMMAND_LIMIT, execute(&device, &document, line.trim())).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => json!({ "ok": false, "error": format!("{error:#}") }),
            Err(_) => json!({ "ok": false, "error": format!("timed out after {} s", COMMAND_LIMIT.as_secs()) }),
        };
        writeln!(stdout, "{answer}")?;
        stdout.flush()?;
        if line.trim() == "exit" {
            break;
        }
    }
    device.close().await;
    Ok(())
}

async fn open(args: &ActorArgs) -> Result<Device> {
    let begin = Instant::now();
    loop {
        let mut config = DeviceConfig::new(&args.dir, &args.url);
        config.backoff = BACKOFF;
        config.offline = args.offline;
        match Device::open(config).await {
            Ok(device) => return Ok(device),
            Err(error) if begin.elapsed() < LOCK_LIMIT && error.to_string().contains("in use") => {
                sleep(LOCK_RETRY).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The lines of standard input, read by a thread because reads of standard input block.
fn stdin_lines() -> mpsc::UnboundedReceiver<String> {
    let (send, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

async fn execute(device: &Device, document: &Document, line: &str) -> Result<Json> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let answer = match words[..] {
        ["edit", kind, id] => edit(document, ActorEdit::new(kind, id, rand::rng().random())?).await?,
        ["edit", kind, id, dice] => {
            let dice = dice.parse().with_context(|| format!("{dice:?} is not a number"))?;
            edit(document, ActorEdit::new(kind, id, dice)?).await?
        }
        ["offline"] => {
            device.go_offline().await;
            json!({ "ok": true })
        }
        ["online"] => {
            device.go_online().await;
            json!({ "ok": true })
        }
        ["rebase"] => {
            document.rebase().await?;
            json!({ "ok": true })
        }
        ["discard"] => {
            document.discard().await?;
            json!({ "ok": true })
        }
        ["state"] => {
            let state = document.state().await?;
            let status = document.status();
            json!({
                "ok": true,
                "state": hexadecimal(&state),
                "sync": format!("{:?}", status.sync),
                "synced": status.sync == SyncState::Synced,
                "queued": document.queue().await?.len(),
            })
        }
        ["saved"] => json!({ "ok": true, "saved": document.queue().await?.is_empty() }),
        ["traffic"] => {
            let traffic = device.traffic();
            json!({
                "ok": true,
                "sent": { "bytes": traffic.sent_bytes, "messages": traffic.sent_messages },
                "received": { "bytes": traffic.received_bytes, "messages": traffic.received_messages },
            })
        }
        ["exit"] => json!({ "ok": true }),
        _ => bail!("{line:?} is not a command; the commands are {COMMANDS}"),
    };
    Ok(answer)
}

async fn edit(document: &Document, edit: ActorEdit) -> Result<Json> {
    let id = edit.id.clone();
    let done = document.edit(move |txn| edit.apply(txn)).await?;
    Ok(match done? {
        Some(replaced) => json!({ "ok": true, "id": id, "replaced": replaced }),
        None => json!({ "ok": true, "id": id, "nothing": true }),
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
