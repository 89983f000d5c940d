//! `syncline-sim disk-fault`: the disk of a running server becomes full, fails or is slow. Every author must be informed,
//! every acknowledged edit must be present after a restart, documents must stay readable, and the log must name the cause.

mod read;
mod slow;

use std::fmt::{self, Write as _};
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::author::Author;
use super::fleet::{Fleet, Load, authors, check_documents};
use super::ledger::AuthorRecord;
use super::mount::{Mount, unavailable};
use crate::peer::Dialect;
use crate::server::{ServerBinary, ServerProcess};

/// Size of the disk in the full-disk trial.
const DISK_MEBIBYTES: u64 = 64;
/// Number of authors of each dialect.
const EACH: usize = 4;
const DOCUMENTS: usize = 3;
/// How long authors edit before the fault.
const BEFORE_FAULT: Duration = Duration::from_millis(400);
/// How long authors continue after the fault.
const AFTER_FAULT: Duration = Duration::from_millis(800);
/// Longest time from a failed write or sync until the server closes a y-websocket session that wrote: 14 to 21 s (SPEC.md,
/// Saved).
const CLOSED_AFTER: Duration = Duration::from_secs(22);
/// Longest wait for any single event.
const LIMIT: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(20);

/// The fault of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// No space is left (needs root and loop devices).
    Full,
    /// Writes fail with EIO (needs strace).
    Write,
    /// Reads fail with EIO for a while (needs strace).
    Read,
    /// Syncs fail with EIO (needs strace).
    Sync,
    /// A sync takes a second (needs strace).
    Slow,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("no fault is hidden").get_name())
    }
}

/// Arguments of `disk-fault`.
#[derive(Debug, clap::Args)]
pub(crate) struct DiskFaultArgs {
    /// Fault of the disk [default: each in turn]
    #[arg(long, value_enum)]
    fault: Option<Fault>,
    /// Seed of every random choice.
    #[arg(long, env = "SYNCLINE_SEED", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    server: ServerBinary,
}

/// Runs the trials and prints the results. Returns true when no check failed.
pub(crate) async fn run(args: DiskFaultArgs) -> Result<bool> {
    let faults = args.fault.map_or_else(|| Fault::value_variants().to_vec(), |fault| vec![fault]);
    let mut out = std::io::stdout();
    let mut passed = true;
    for fault in faults {
        if let Some(why) = unsupported(fault).await {
            writeln!(out, "SKIPPED: disk-fault {fault}: {why}")?;
            continue;
        }
        let mut trial = Trial::new(&args, fault)?;
        let result = match fault {
            Fault::Slow => trial.slow_sync().await,
            Fault::Read => trial.failing_read().await,
            Fault::Full | Fault::Write | Fault::Sync => trial.failing_write().await,
        };
        match result.with_context(|| format!("disk-fault {fault}")) {
            Ok(()) => writeln!(out, "disk-fault {fault}: {}", trial.summary)?,
            Err(error) => {
                passed = false;
                writeln!(out, "FAILED: {error:#}\n{}\n{}", trial.summary, trial.server.log())?;
                // The server has open files on the disk, which is unmounted next.
                trial.server.kill().await?;
            }
        }
    }
    Ok(passed)
}

/// Why this machine cannot inject a fault; `None`: it can.
async fn unsupported(fault: Fault) -> Option<String> {
    if fault == Fault::Full {
        return unavailable().await;
    }
    let status = std::process::Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status();
    match status {
        Ok(status) if status.success() => None,
        Ok(_) => Some("this process is not allowed to trace other processes".into()),
        Err(error) => Some(format!("strace: {error}")),
    }
}

struct Trial {
    fault: Fault,
    seed: u64,
    /// Declared before `mount` so that it is dropped first: it has open files on the disk.
    server: ServerProcess,
    mount: Option<Mount>,
    _home: tempfile::TempDir,
    address: String,
    /// Observations, printed at the end of the trial.
    summary: String,
}

impl Trial {
    fn new(args: &DiskFaultArgs, fault: Fault) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("syncline-disk-fault-").tempdir()?;
        let mount = if fault == Fault::Full { Some(Mount::make(DISK_MEBIBYTES)?) } else { None };
        let data = mount.as_ref().map_or_else(|| home.path().join("data"), |mount| mount.directory().join("data"));
        let server = ServerProcess::new(args.server.path()?, data)
            .with_log(home.path().join("server.log"))
            .with_arguments(&["--idle-unload-seconds", "0"]);
        Ok(Self { fault, seed: args.seed, server, mount, _home: home, address: String::new(), summary: String::new() })
    }

    async fn start(&mut self) -> Result<String> {
        self.address = self.server.start().await?.to_string();
        Ok(format!("ws://{}", self.address))
    }

    /// A full disk, failing writes or failing syncs.
    async fn failing_write(&mut self) -> Result<()> {
        let url = self.start().await?;
        let mut rng = StdRng::seed_from_u64(self.seed);
        let quiet = authors("quiet", 1, 1, Load::Churn, &mut rng);
        let quiet = self.edit_for_a_while(&url, quiet).await?;
        let url = self.restart().await?;
        let fleet = Fleet::start(&url, authors("fault", EACH, DOCUMENTS, Load::Small, &mut rng));
        sleep(BEFORE_FAULT).await;
        let fault = self.inject_fault().await?;
        let broken = Instant::now();
        let why = self.wait_until_not_ready().await?;
        write!(self.summary, "/readyz: {why}; ")?;
        let known = Instant::now();
        sleep(CLOSED_AFTER).await;
        let authors = fleet.stop().await?;
        self.check_rejections(&authors)?;
        let late = authors.iter().flat_map(|author| &author.record.edits).filter_map(|edit| edit.acked).max();
        ensure!(
            late.is_none_or(|late| late < known + AFTER_FAULT / 2),
            "an edit was acknowledged long after the failure"
        );
        // A full disk may have a last free block; with the other two faults every call fails.
        if self.fault != Fault::Full {
            let edits = authors.iter().flat_map(|author| &author.record.edits);
            let false_acks = edits.filter(|edit| edit.made > broken && edit.acked.is_some()).count();
            ensure!(false_acks == 0, "{false_acks} edits made after the fault were acknowledged");
        }
        self.check_no_edit_is_acknowledged(&url).await?;
        let records: Vec<&AuthorRecord> = authors.iter().chain(&quiet).map(|author| &author.record).collect();
        let live = check_documents(&url, &records, None).await;
        ensure!(live.complaints.is_empty(), "while the disk fails: {:?}", live.complaints);
        ensure!(http(&self.address, "/healthz").await?.0 == 200, "/healthz is not 200");
        fault.remove(self.fault != Fault::Full).await?;
        self.check_shutdown_log().await?;
        self.check_restart(&records).await?;
        let url = format!("ws://{}", self.address);
        let mut authors = authors;
        for author in &mut authors {
            timeout(LIMIT, author.resend_unacknowledged(&url)).await.context("resent edits are not acknowledged")??;
        }
        let records: Vec<&AuthorRecord> = authors.iter().chain(&quiet).map(|author| &author.record).collect();
        let after = check_documents(&url, &records, None).await;
        ensure!(after.complaints.is_empty(), "after resending: {:?}", after.complaints);
        self.server.kill().await
    }

    /// Restarts the server, so that documents that are not opened afterwards are in no memory, not even the engine's.
    async fn restart(&mut self) -> Result<String> {
        self.stop_cleanly().await?;
        self.start().await
    }

    async fn stop_cleanly(&mut self) -> Result<()> {
        self.server.terminate().await?;
        let status = timeout(LIMIT, self.server.ended()).await.context("the server does not stop")??;
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }

    /// Runs authors for a while and stops them.
    async fn edit_for_a_while(&self, url: &str, authors: Vec<Author>) -> Result<Vec<Author>> {
        let fleet = Fleet::start(url, authors);
        sleep(BEFORE_FAULT).await;
        fleet.stop().await
    }

    async fn inject_fault(&self) -> Result<InjectedFault> {
        let pid = self.server.pid().context("the server is not running")?;
        match self.fault {
            Fault::Full => {
                let mount = self.mount.as_ref().context("the trial has no disk")?;
                let filler = mount.directory().join("filler");
                fill(&filler)?;
                Ok(InjectedFault::Filled)
            }
            Fault::Write => Ok(InjectedFault::Traced(trace(pid, "pwrite64", "error=EIO").await?)),
            Fault::Read => Ok(InjectedFault::Traced(trace(pid, "pread64", "error=EIO").await?)),
            Fault::Sync => Ok(InjectedFault::Traced(trace(pid, "fdatasync", "error=EIO").await?)),
            Fault::Slow => Ok(InjectedFault::Traced(trace(pid, "fdatasync", "delay_enter=1000000").await?)),
        }
    }

    async fn wait_until_not_ready(&self) -> Result<String> {
        let begin = Instant::now();
        loop {
            let (status, body) = http(&self.address, "/readyz").await?;
            if status == 503 {
                let problem: serde_json::Value =
                    serde_json::from_str(&body).context("/readyz is not a problem document")?;
                return Ok(problem["detail"].as_str().unwrap_or_default().to_owned());
            }
            ensure!(begin.elapsed() < LIMIT, "/readyz stays {status}");
            sleep(POLL).await;
        }
    }

    /// Checks that every author was refused or closed as its dialect prescribes.
    fn check_rejections(&mut self, authors: &[Author]) -> Result<()> {
        for dialect in Dialect::ALL {
            let of_dialect = authors.iter().filter(|author| author.record.dialect == dialect.name());
            let mut rejections = Vec::new();
            for author in of_dialect {
                let first = author.rejections.first();
                let first = first.with_context(|| format!("{} was not informed", author.record.document))?;
                rejections.push(first.clone());
            }
            rejections.sort();
            rejections.dedup();
            let expected = match dialect {
                Dialect::Native => "4507",
                Dialect::Hocuspocus => "SyncStatus(0)",
                Dialect::YWebsocket => "closed 4507",
            };
            let all = rejections.iter().all(|rejection| rejection.contains(expected));
            ensure!(all, "{} authors received {rejections:?}, not {expected}", dialect.name());
            write!(self.summary, "{}: {}; ", dialect.name(), rejections.join(" / "))?;
        }
        Ok(())
    }

    /// Checks that edits of new authors in a new document are not acknowledged.
    async fn check_no_edit_is_acknowledged(&self, url: &str) -> Result<()> {
        let mut rng = StdRng::seed_from_u64(self.seed + 1);
        let late = self.edit_for_a_while(url, authors("late", 1, 1, Load::Small, &mut rng)).await?;
        let acked = late.iter().flat_map(|author| &author.record.edits).filter(|edit| edit.acked.is_some()).count();
        ensure!(acked == 0, "{acked} edits were acknowledged after the failure");
        Ok(())
    }

    /// Checks the exit code of the server and that its log names the failure.
    async fn check_shutdown_log(&mut self) -> Result<()> {
        self.server.terminate().await?;
        let status = timeout(LIMIT, self.server.ended()).await.context("the server does not stop")??;
        let log = self.server.log();
        let line = log
            .lines()
            .find(|line| line.contains("the store failed: from now on"))
            .context("the log has no line about the failure")?;
        ensure!(status.code() == Some(1), "the server ended with {status}");
        ensure!(log.contains("not everything could be written to disk"), "the end of its log: {log}");
        let error = line.rsplit_once("error=").map_or(line, |(_, error)| error);
        write!(self.summary, "exit code 1, log: {}; ", error.trim())?;
        Ok(())
    }

    /// Checks the start on the full disk, and the documents after a start with free space.
    async fn check_restart(&mut self, records: &[&AuthorRecord]) -> Result<()> {
        if let Some(mount) = &self.mount {
            let before = self.server.log().len();
            let full = self.server.start().await;
            let log = self.server.log().split_off(before);
            match full {
                Ok(_) => {
                    self.server.kill().await?;
                    write!(self.summary, "starts on the full disk; ")?;
                }
                Err(_) => {
                    let line = log.lines().find(|line| line.starts_with("syncline:"));
                    let line = line.with_context(|| format!("the server names no cause on the full disk: {log}"))?;
                    ensure!(line.contains("free space"), "the error does not say to free space: {line}");
                    write!(self.summary, "on the full disk: {line}; ")?;
                }
            }
            std::fs::remove_file(mount.directory().join("filler"))?;
        }
        let url = self.start().await?;
        ensure!(http(&self.address, "/readyz").await?.0 == 200, "/readyz is not 200 after the restart");
        let report = check_documents(&url, records, None).await;
        ensure!(report.complaints.is_empty(), "after the restart: {:?}", report.complaints);
        write!(self.summary, "after the restart: {report}")?;
        Ok(())
    }
}

/// An injected fault.
enum InjectedFault {
    /// The disk is filled with a file.
    Filled,
    /// strace makes system calls of the server fail or delays them.
    Traced(Child),
}

impl InjectedFault {
    /// Removes the fault of a traced server, if `stop_tracing`. A filled disk stays full.
    async fn remove(self, stop_tracing: bool) -> Result<()> {
        match self {
            InjectedFault::Traced(mut strace) if stop_tracing => {
                let pid = strace.id().context("strace has ended")?.to_string();
                Command::new("kill").args(["-INT", &pid]).status().await?;
                strace.wait().await?;
                Ok(())
            }
            InjectedFault::Traced(_) | InjectedFault::Filled => Ok(()),
        }
    }
}

/// Injects a fault into every `call` of the process. Returns when all its threads are traced.
async fn trace(pid: u32, call: &str, fault: &str) -> Result<Child> {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-p", &pid.to_string()]);
    command.args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:{fault}")]);
    let child = command.kill_on_drop(true).spawn().context("cannot run strace")?;
    let begin = Instant::now();
    while !is_traced(pid)? {
        ensure!(begin.elapsed() < LIMIT, "strace did not attach to the server in time");
        sleep(POLL).await;
    }
    Ok(child)
}

fn is_traced(pid: u32) -> Result<bool> {
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while its status is read.
        let Ok(status) = std::fs::read_to_string(thread?.path().join("status")) else { continue };
        if status.lines().any(|line| line.trim_end() == "TracerPid:\t0") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes to the file until the disk is full.
fn fill(path: &std::path::Path) -> Result<()> {
    let mut file = std::fs::File::create(path)?;
    let mut block = vec![1_u8; 64 << 10];
    while !block.is_empty() {
        if file.write_all(&block).is_err() {
            block.truncate(block.len() / 2);
        }
    }
    // With delayed allocation the blocks are allocated only now.
    file.sync_all().ok();
    Ok(())
}

async fn http(address: &str, path: &str) -> Result<(u16, String)> {
    let mut socket = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    timeout(LIMIT, socket.read_to_string(&mut answer))
        .await
        .with_context(|| format!("{path} was not answered in time"))??;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).context("not an HTTP response")?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}
