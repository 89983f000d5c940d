//! `syncline-sim wire-cost`: measures what a reconnect costs on the wire, for Syncline's client and for the npm clients, on
//! one document of one server.
//!
//! Counts the payloads of WebSocket messages in both directions, from connecting until no more messages arrive, without the
//! HTTP upgrade and frame headers, which are about the same for all clients. Each client keeps its document on disk and is
//! started again for each measurement; Syncline's device is started and edited a (simulated) day before it connects.

mod table;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use rand::RngExt;
use syncline_client::yrs::{Text, TransactionMut, WriteTxn};
use syncline_client::{Device, DeviceConfig, Document, Traffic, WallClock};
use tokio::time::{Instant, sleep, timeout};

use self::table::{ClientCost, Measured, SyncBytes};
use super::trace::file::{self, Transaction};

const ROOT: &str = "text";
/// Number of transactions of the trace per edit.
const CHUNK: usize = 5_000;
/// A sync counts as complete when nothing was sent or received for this long.
const QUIET: Duration = Duration::from_millis(700);
const QUIET_CHECK: Duration = Duration::from_millis(20);
/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(300);
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Arguments of `wire-cost`.
#[derive(clap::Args)]
pub(crate) struct WireCostArgs {
    /// Trace file for the document: a sequential trace of the editing-traces collection, plain or .gz.
    #[arg(long)]
    trace: PathBuf,
    /// Use only this many of its transactions.
    #[arg(long)]
    edits: Option<usize>,
    /// Server address.
    #[arg(long, env = "SYNCLINE_URL", default_value = "ws://127.0.0.1:1234")]
    url: String,
    /// Name of a document that does not exist yet on the server [default: a random one].
    #[arg(long)]
    document: Option<String>,
    /// Script that measures the npm clients; empty: only Syncline's device is measured.
    #[arg(long, default_value = "tests/node/support/wire-cost.mjs")]
    npm: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Fills the document, measures the clients and prints the result.
pub(crate) async fn run(args: &WireCostArgs) -> Result<()> {
    let trace = file::load(&args.trace)?;
    let directory = tempfile::Builder::new().prefix("syncline-wire-cost-").tempdir()?;
    let random = format!("wire-cost-{:08x}", rand::rng().random::<u32>());
    let target = Subject { url: args.url.clone(), document: args.document.clone().unwrap_or(random) };
    let used = args.edits.unwrap_or(trace.transactions.len()).min(trace.transactions.len());

    let (writer, document) = target.open(&directory.path().join("writer"), &Clock::default(), false).await?;
    in_time("the server's answer", document.wait_until_synced()).await??;
    ensure!(document.text(ROOT).await?.is_empty(), "{} is not empty; choose another with --document", target.document);
    load(&document, &trace.transactions[..used]).await?;
    in_time("the document to be saved", document.wait_until_saved()).await??;
    let text = document.text(ROOT).await?;
    ensure!(used < trace.transactions.len() || text == trace.end, "the document differs from the trace's end text");
    let measured = Measured {
        edits: used,
        characters: text.encode_utf16().count(),
        state_bytes: document.state().await?.len(),
        rows: Vec::new(),
    };
    let mut measured = Measured { rows: vec![target.measure_device(directory.path(), &document).await?], ..measured };
    writer.close().await;
    if !args.npm.is_empty() {
        measured.rows.extend(target.measure_npm_clients(Path::new(&args.npm), directory.path()).await?);
    }
    measured.print(args.json)
}

async fn load(document: &Document, transactions: &[Transaction]) -> Result<()> {
    for chunk in transactions.chunks(CHUNK) {
        let chunk = chunk.to_vec();
        let apply = move |txn: &mut TransactionMut<'_>| {
            let text = txn.get_or_insert_text(ROOT);
            for patch in chunk.iter().flat_map(|transaction| &transaction.patches) {
                if patch.1 > 0 {
                    text.remove_range(txn, patch.0, patch.1);
                }
                if !patch.2.is_empty() {
                    text.insert(txn, patch.0, &patch.2);
                }
            }
        };
        document.edit(apply).await?;
    }
    Ok(())
}

/// Types one character in the middle of the text.
async fn keystroke(document: &Document) -> Result<()> {
    let change = |txn: &mut TransactionMut<'_>| {
        let text = txn.get_or_insert_text(ROOT);
        let middle = text.len(txn) / 2;
        text.insert(txn, middle, "x");
    };
    Ok(document.edit(change).await?)
}

/// The document and its server.
struct Subject {
    url: String,
    document: String,
}

impl Subject {
    async fn open(&self, directory: &Path, clock: &Clock, offline: bool) -> Result<(Device, Document)> {
        let mut config = DeviceConfig::new(directory, &self.url);
        config.clock = Arc::new(clock.clone());
        config.offline = offline;
        let device = Device::open(config).await?;
        let document = device.document(&self.document).await?;
        Ok((device, document))
    }

    async fn measure_device(&self, directory: &Path, other: &Document) -> Result<ClientCost> {
        let phone = directory.join("phone");
        let first = self.measure_sync(&phone, false).await?;
        let nothing_missed = self.measure_sync(&phone, false).await?;
        let keystroke_made = self.measure_sync(&phone, true).await?;
        keystroke(other).await?;
        in_time("the writer's keystroke to be saved", other.wait_until_saved()).await??;
        let before = other.text(ROOT).await?;
        let keystroke_missed = self.measure_sync(&phone, false).await?;
        let (device, document) = self.open(&phone, &Clock::default(), true).await?;
        ensure!(document.text(ROOT).await? == before, "the device and the writer differ");
        device.close().await;
        Ok(ClientCost { client: "Syncline device".into(), first, nothing_missed, keystroke_made, keystroke_missed })
    }

    /// Starts the device offline, types a character if `types`, connects, and counts bytes until the sync is complete.
    async fn measure_sync(&self, directory: &Path, types: bool) -> Result<SyncBytes> {
        let clock = Clock::default();
        clock.0.store(DAY_MS, Ordering::Relaxed);
        let (device, document) = self.open(directory, &clock, true).await?;
        if types {
            keystroke(&document).await?;
        }
        clock.0.store(0, Ordering::Relaxed);
        device.go_online().await;
        in_time("the device to be in sync", document.wait_until_synced()).await??;
        in_time("the device's edits to be saved", document.wait_until_saved()).await??;
        let traffic = in_time("the end of the traffic", wait_until_quiet(&device)).await?;
        device.close().await;
        Ok(SyncBytes { sent: traffic.sent_bytes, received: traffic.received_bytes })
    }

    async fn measure_npm_clients(&self, script: &Path, directory: &Path) -> Result<Vec<ClientCost>> {
        let mut command = std::process::Command::new("node");
        command.arg(script).args([&self.url, &self.document]).arg(directory.join("npm"));
        command.stdin(Stdio::null()).stderr(Stdio::inherit());
        let output = tokio::task::spawn_blocking(move || command.output()).await?.context("cannot run node")?;
        ensure!(output.status.success(), "{} failed", script.display());
        serde_json::from_slice(&output.stdout).with_context(|| format!("{} printed no valid table", script.display()))
    }
}

/// Waits until nothing has been sent or received for [`QUIET`].
async fn wait_until_quiet(device: &Device) -> Traffic {
    let (mut seen, mut since) = (device.traffic(), Instant::now());
    while since.elapsed() < QUIET {
        sleep(QUIET_CHECK).await;
        let now = device.traffic();
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
    seen
}

async fn in_time<T>(what: &str, wait: impl Future<Output = T>) -> Result<T> {
    timeout(LIMIT, wait).await.with_context(|| format!("timed out after {} s waiting for {what}", LIMIT.as_secs()))
}

/// A clock that is slow by this many milliseconds.
#[derive(Clone, Default)]
struct Clock(Arc<AtomicU64>);

impl WallClock for Clock {
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_sub(self.0.load(Ordering::Relaxed))
    }
}
