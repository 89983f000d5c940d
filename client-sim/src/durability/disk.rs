//! `syncline-sim disk-fault`: a disk that is full, that fails, or that is slow, under a server at work. Every author must be
//! told, nothing may be acknowledged that does not come back after a restart, reads go on, and the operator learns why.

mod read;
mod slow;

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::fleet::{Fleet, Load, authors, verdict};
use super::ledger::Page;
use super::link::Tongue;
use super::mount::{Mount, unavailable};
use super::writer::Author;
use crate::scenario::server::{ServerProcess, program};

/// The disk of the full-disk trial.
const DISK_MEBIBYTES: u64 = 64;
/// Authors of each dialect.
const EACH: usize = 4;
const DOCUMENTS: usize = 3;
/// How long everything works before the disk fails.
const WELL: Duration = Duration::from_millis(400);
/// How long authors go on after the server knows.
const AFTER: Duration = Duration::from_millis(800);
/// After a failed write or sync, until a y-websocket session that wrote is closed: 14 to 21 s (SPEC.md, Saved).
const CLOSED_AFTER: Duration = Duration::from_secs(22);
/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(20);

/// What the disk does.
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

/// `disk-fault`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the disk does [default: each in turn]
    #[arg(long, value_enum)]
    fault: Option<Fault>,
    /// What is chosen follows from it.
    #[arg(long, env = "SYNCLINE_SEED", default_value_t = 1)]
    seed: u64,
    /// The server's program [default: `syncline` beside this program]
    #[arg(long, env = "SYNCLINE_BIN", value_name = "FILE")]
    server_bin: Option<PathBuf>,
}

/// True when nothing is wrong.
pub async fn run(args: Args) -> Result<bool> {
    let faults = args.fault.map_or_else(|| Fault::value_variants().to_vec(), |fault| vec![fault]);
    let mut out = std::io::stdout();
    let mut fine = true;
    for fault in faults {
        if let Some(why) = cannot(fault).await {
            writeln!(out, "SKIPPED: disk-fault {fault:?}: {why}")?;
            continue;
        }
        let mut trial = Trial::new(&args, fault)?;
        let told = match fault {
            Fault::Slow => trial.slow().await,
            Fault::Read => trial.unreadable().await,
            Fault::Full | Fault::Write | Fault::Sync => trial.failing().await,
        };
        match told.with_context(|| format!("disk-fault {fault:?}")) {
            Ok(()) => writeln!(out, "disk-fault {fault:?}: {}", trial.story)?,
            Err(error) => {
                fine = false;
                writeln!(out, "FAILED: {error:#}\n{}\n{}", trial.story, trial.server.log())?;
                // It holds files of the disk that is taken away next.
                trial.server.kill().await?;
            }
        }
    }
    Ok(fine)
}

/// Why this machine cannot do it.
async fn cannot(fault: Fault) -> Option<String> {
    if fault == Fault::Full {
        return unavailable().await;
    }
    let tried = std::process::Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status();
    match tried {
        Ok(status) if status.success() => None,
        Ok(_) => Some("this process may not trace".into()),
        Err(error) => Some(format!("strace: {error}")),
    }
}

struct Trial {
    fault: Fault,
    seed: u64,
    /// Before the disk it is on: it holds files there.
    server: ServerProcess,
    mount: Option<Mount>,
    _home: tempfile::TempDir,
    address: String,
    /// What happened, for people.
    story: String,
}

impl Trial {
    fn new(args: &Args, fault: Fault) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("syncline-disk-fault-").tempdir()?;
        let mount = if fault == Fault::Full { Some(Mount::make(DISK_MEBIBYTES)?) } else { None };
        let data = mount.as_ref().map_or_else(|| home.path().join("data"), |mount| mount.directory().join("data"));
        let server = ServerProcess::new(program(args.server_bin.as_deref())?, data)
            .with_log(home.path().join("server.log"))
            .with_arguments(&["--idle-unload-seconds", "0"]);
        Ok(Self { fault, seed: args.seed, server, mount, _home: home, address: String::new(), story: String::new() })
    }

    async fn start(&mut self) -> Result<String> {
        self.address = self.server.start().await?.to_string();
        Ok(format!("ws://{}", self.address))
    }

    /// Full, failing writes, failing syncs.
    async fn failing(&mut self) -> Result<()> {
        let url = self.start().await?;
        let mut rng = StdRng::seed_from_u64(self.seed);
        let quiet = authors("quiet", 1, 1, Load::Churn, &mut rng);
        let quiet = self.for_a_while(&url, quiet).await?;
        let url = self.start_afresh().await?;
        let fleet = Fleet::start(&url, authors("fault", EACH, DOCUMENTS, Load::Small, &mut rng));
        sleep(WELL).await;
        let fault = self.break_it().await?;
        let broken = Instant::now();
        let why = self.until_not_ready().await?;
        write!(self.story, "/readyz: {why}; ")?;
        let known = Instant::now();
        sleep(CLOSED_AFTER).await;
        let authors = fleet.stop().await?;
        self.everyone_was_told(&authors)?;
        let late = authors.iter().flat_map(|author| &author.page.edits).filter_map(|edit| edit.acked).max();
        ensure!(late.is_none_or(|late| late < known + AFTER / 2), "acknowledged long after the failure");
        // Of a full disk a last block may still be free; of these two every call fails.
        if self.fault != Fault::Full {
            let edits = authors.iter().flat_map(|author| &author.page.edits);
            let untrue = edits.filter(|edit| edit.made > broken && edit.acked.is_some()).count();
            ensure!(untrue == 0, "{untrue} edits were acknowledged that were made after the disk broke");
        }
        self.nothing_is_taken(&url).await?;
        let pages: Vec<&Page> = authors.iter().chain(&quiet).map(|author| &author.page).collect();
        let live = verdict(&url, &pages, None).await;
        ensure!(live.complaints.is_empty(), "while the disk fails: {:?}", live.complaints);
        ensure!(http(&self.address, "/healthz").await?.0 == 200, "/healthz");
        fault.end(self.fault != Fault::Full).await?;
        self.stop_tells_the_operator().await?;
        self.comes_back(&pages).await?;
        let url = format!("ws://{}", self.address);
        let mut authors = authors;
        for author in &mut authors {
            timeout(LIMIT, author.settle(&url)).await.context("sending again is not answered")??;
        }
        let pages: Vec<&Page> = authors.iter().chain(&quiet).map(|author| &author.page).collect();
        let after = verdict(&url, &pages, None).await;
        ensure!(after.complaints.is_empty(), "sent again: {:?}", after.complaints);
        self.server.kill().await
    }

    /// The server anew: what nobody opens after this is in no memory, the engine's included.
    async fn start_afresh(&mut self) -> Result<String> {
        self.stop_well().await?;
        self.start().await
    }

    async fn stop_well(&mut self) -> Result<()> {
        self.server.terminate().await?;
        let status = timeout(LIMIT, self.server.ended()).await.context("it does not stop")??;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }

    /// Authors who are done before anything breaks.
    async fn for_a_while(&self, url: &str, authors: Vec<Author>) -> Result<Vec<Author>> {
        let fleet = Fleet::start(url, authors);
        sleep(WELL).await;
        fleet.stop().await
    }

    async fn break_it(&self) -> Result<Broken> {
        let pid = self.server.pid().context("no server")?;
        match self.fault {
            Fault::Full => {
                let mount = self.mount.as_ref().context("no disk")?;
                let filler = mount.directory().join("filler");
                fill(&filler)?;
                Ok(Broken::Filled)
            }
            Fault::Write => Ok(Broken::Traced(trace(pid, "pwrite64", "error=EIO").await?)),
            Fault::Read => Ok(Broken::Traced(trace(pid, "pread64", "error=EIO").await?)),
            Fault::Sync => Ok(Broken::Traced(trace(pid, "fdatasync", "error=EIO").await?)),
            Fault::Slow => Ok(Broken::Traced(trace(pid, "fdatasync", "delay_enter=1000000").await?)),
        }
    }

    async fn until_not_ready(&self) -> Result<String> {
        let begin = Instant::now();
        loop {
            let (status, body) = http(&self.address, "/readyz").await?;
            if status == 503 {
                let problem: serde_json::Value =
                    serde_json::from_str(&body).context("/readyz is no problem document")?;
                return Ok(problem["detail"].as_str().unwrap_or_default().to_owned());
            }
            ensure!(begin.elapsed() < LIMIT, "/readyz stays {status}");
            sleep(POLL).await;
        }
    }

    fn everyone_was_told(&mut self, authors: &[Author]) -> Result<()> {
        for tongue in Tongue::ALL {
            let mine = authors.iter().filter(|author| author.page.dialect == tongue.name());
            let mut words = Vec::new();
            for author in mine {
                let word = author.told.first();
                words.push(word.with_context(|| format!("{} was told nothing", author.page.document))?.clone());
            }
            words.sort();
            words.dedup();
            let expected = match tongue {
                Tongue::Native => "4507",
                Tongue::Hocuspocus => "SyncStatus(0)",
                Tongue::YWebsocket => "closed 4507",
            };
            let all = words.iter().all(|word| word.contains(expected));
            ensure!(all, "{} authors were told {words:?}", tongue.name());
            write!(self.story, "{}: {}; ", tongue.name(), words.join(" / "))?;
        }
        Ok(())
    }

    /// Somebody new with a new document.
    async fn nothing_is_taken(&self, url: &str) -> Result<()> {
        let mut rng = StdRng::seed_from_u64(self.seed + 1);
        let late = self.for_a_while(url, authors("late", 1, 1, Load::Small, &mut rng)).await?;
        let acked = late.iter().flat_map(|author| &author.page.edits).filter(|edit| edit.acked.is_some()).count();
        ensure!(acked == 0, "{acked} edits were acknowledged after the failure");
        Ok(())
    }

    async fn stop_tells_the_operator(&mut self) -> Result<()> {
        self.server.terminate().await?;
        let status = timeout(LIMIT, self.server.ended()).await.context("it does not stop")??;
        let log = self.server.log();
        let line =
            log.lines().find(|line| line.contains("the store failed: from now on")).context("no line in the log")?;
        ensure!(status.code() == Some(1), "it ended with {status}");
        ensure!(log.contains("not everything could be written to disk"), "the end of its log: {log}");
        let error = line.rsplit_once("error=").map_or(line, |(_, error)| error);
        write!(self.story, "exit code 1, log: {}; ", error.trim())?;
        Ok(())
    }

    async fn comes_back(&mut self, pages: &[&Page]) -> Result<()> {
        if let Some(mount) = &self.mount {
            let before = self.server.log().len();
            let full = self.server.start().await;
            let said = self.server.log().split_off(before);
            match full {
                Ok(_) => {
                    self.server.kill().await?;
                    write!(self.story, "starts on the full disk; ")?;
                }
                Err(_) => {
                    let line = said.lines().find(|line| line.starts_with("syncline:"));
                    let line = line.with_context(|| format!("it says nothing on the full disk: {said}"))?;
                    ensure!(line.contains("free space"), "it does not say what helps: {line}");
                    write!(self.story, "on the full disk: {line}; ")?;
                }
            }
            std::fs::remove_file(mount.directory().join("filler"))?;
        }
        let url = self.start().await?;
        ensure!(http(&self.address, "/readyz").await?.0 == 200, "/readyz after the restart");
        let judged = verdict(&url, pages, None).await;
        ensure!(judged.complaints.is_empty(), "after the restart: {:?}", judged.complaints);
        write!(self.story, "after the restart: {judged}")?;
        Ok(())
    }
}

/// How the disk was broken.
enum Broken {
    Filled,
    Traced(Child),
}

impl Broken {
    /// Mends a traced disk.
    async fn end(self, wanted: bool) -> Result<()> {
        match self {
            Broken::Traced(mut strace) if wanted => {
                let pid = strace.id().context("strace ended")?.to_string();
                Command::new("kill").args(["-INT", &pid]).status().await?;
                strace.wait().await?;
                Ok(())
            }
            Broken::Traced(_) | Broken::Filled => Ok(()),
        }
    }
}

/// Makes every such call of the process do that. Returns when all its threads are traced.
async fn trace(pid: u32, call: &str, what: &str) -> Result<Child> {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-p", &pid.to_string()]);
    command.args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:{what}")]);
    let child = command.kill_on_drop(true).spawn().context("strace")?;
    let begin = Instant::now();
    while !is_traced(pid)? {
        ensure!(begin.elapsed() < LIMIT, "strace does not get hold of the server");
        sleep(POLL).await;
    }
    Ok(child)
}

fn is_traced(pid: u32) -> Result<bool> {
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while we look.
        let Ok(status) = std::fs::read_to_string(thread?.path().join("status")) else { continue };
        if status.lines().any(|line| line.trim_end() == "TracerPid:\t0") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes until nothing goes in any more.
fn fill(path: &std::path::Path) -> Result<()> {
    let mut file = std::fs::File::create(path)?;
    let mut block = vec![1_u8; 64 << 10];
    while !block.is_empty() {
        if file.write_all(&block).is_err() {
            block.truncate(block.len() / 2);
        }
    }
    // Delayed allocation: only now it is known what is full.
    file.sync_all().ok();
    Ok(())
}

async fn http(address: &str, path: &str) -> Result<(u16, String)> {
    let mut socket = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    timeout(LIMIT, socket.read_to_string(&mut answer)).await.with_context(|| format!("{path} is not answered"))??;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP answer")?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}
