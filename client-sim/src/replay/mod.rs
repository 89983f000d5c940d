//! `syncline-sim replay`: a real editing session, keystroke by keystroke, against any server.
//!
//! ```text
//! trace    the file            plan     its updates, made before the run, and an index over them
//! link     one bare socket     tracker  which edits have arrived, by content
//! run      what tasks share    writers, readers, verify
//! ```

pub(crate) mod link;
pub(crate) mod plan;
pub(crate) mod readers;
mod run;
pub(crate) mod trace;
pub(crate) mod tracker;
pub(crate) mod verify;
mod writers;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rand::RngExt;
use syncline_protocol::detect::Dialect;
use tokio::task::JoinSet;

use crate::proc::{Usage, usage};
use crate::report::{Latency, Report, ServerUsage, new_histogram};
use link::Target;
use plan::{Plan, Sharing};
use readers::Seen;
use run::Run;
use writers::Written;

// The progress bar and the stall check look this often.
const OBSERVE_EVERY: Duration = Duration::from_millis(50);

/// Share of a core above which the generator itself is the limit.
const GENERATOR_LIMIT: f64 = 0.9;

/// What to replay, where, how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The trace file.
    pub trace: PathBuf,
    /// Server address.
    pub url: String,
    /// Wire format.
    pub dialect: Dialect,
    /// Document name; None makes a new one.
    pub document: Option<String>,
    /// Name of the root text.
    pub root: String,
    /// Token, if the server wants one.
    pub token: Option<String>,
    /// Reader connections, at least 1.
    pub readers: usize,
    /// Writer connections, at least 1.
    pub writers: usize,
    /// Edits of one writer before the next one's turn.
    pub turn: usize,
    /// Most edits on their way; 0: no limit.
    pub in_flight: usize,
    /// Most edits in a second.
    pub rate: Option<f64>,
    /// The server's process.
    pub pid: Option<u32>,
    /// Give up after this time without an arrival.
    pub stall: Duration,
    /// Leave this edit out, to see the checks fail.
    pub leave_out: Option<usize>,
}

impl Options {
    fn target(&self) -> Target {
        let random = || format!("replay-{:08x}", rand::rng().random::<u32>());
        Target {
            url: self.url.clone(),
            document: self.document.clone().unwrap_or_else(random),
            dialect: self.dialect,
            token: self.token.clone(),
        }
    }
}

/// Only checks that a server holds the trace's end.
pub async fn verify_only(options: &Options) -> Result<()> {
    ensure!(options.document.is_some(), "--verify-only needs --document: the name of the earlier run");
    let trace = trace::load(&options.trace)?;
    verify::verify_only(&options.target(), &options.root, &trace.end).await
}

/// Replays and reports. An error means that there is nothing to report; a failed check is in the report.
pub async fn replay(options: &Options) -> Result<Report> {
    ensure!(options.readers > 0 && options.writers > 0, "at least one reader and one writer are needed");
    ensure!(options.rate.is_none_or(|rate| rate > 0.0), "--rate must be above 0");
    let plan = {
        let trace = trace::load(&options.trace)?;
        // 32 bits, as Yjs 13 draws them; the top bit keeps all of one length.
        let mut rng = rand::rng();
        let mut ids: Vec<u64> = (0..options.writers).map(|_| u64::from(rng.random::<u32>() | 1 << 31)).collect();
        // Where two people insert at one place the smaller id comes first; the ends of the concurrent traces agree
        // with ids in the order of agents, and with no other.
        ids.sort_unstable();
        let sharing = Sharing { writers: options.writers, turn: options.turn };
        Arc::new(Plan::new(&trace, &options.root, sharing, &ids)?)
    };
    let target = options.target();
    let mut run = Run::new(plan, target.clone(), options.readers, options.in_flight);
    run.rate = options.rate;
    run.leave_out = options.leave_out;
    let (mut readers, mut writers) = (Vec::new(), Vec::new());
    for number in 0..options.readers {
        readers.push(target.join().await.with_context(|| format!("reader {number}"))?.0);
    }
    for number in 0..options.writers {
        writers.push(target.join().await.with_context(|| format!("writer {number}"))?);
    }
    run.restart_clock();
    let before = Before::look(options.pid)?;
    let run = Arc::new(run);
    let mut tasks = Tasks::default();
    for (number, socket) in readers.into_iter().enumerate() {
        tasks.readers.spawn(readers::read(Arc::clone(&run), number, socket));
    }
    for (number, (socket, acks)) in writers.into_iter().enumerate() {
        tasks.writers.spawn(writers::write(Arc::clone(&run), number, socket, acks));
    }
    let mut failures: Vec<String> = tasks.observe(&run, options).await.err().into_iter().collect();
    let mut report = before.report(&run, options);
    if failures.is_empty() {
        // While everybody is still there: servers without a disk forget a document that nobody has open.
        let fresh = verify::check_fresh_client(&target, &options.root, &run.plan.end).await;
        failures.extend(fresh.err().map(|error| format!("a client that joined at the end: {error:#}")));
    }
    run.stop.send_replace(true);
    tasks.collect(&run, &mut report, &mut failures).await;
    report.ok = failures.is_empty();
    report.failures = failures;
    Ok(report)
}

#[derive(Default)]
struct Tasks {
    readers: JoinSet<Result<Seen>>,
    writers: JoinSet<Result<Written>>,
}

impl Tasks {
    /// Waits until everything has arrived everywhere, or says why it never will.
    async fn observe(&mut self, run: &Run, options: &Options) -> Result<(), String> {
        let all = (run.plan.edits.len() * options.readers) as u64;
        let bar = progress_bar(all);
        let (mut last, mut moved) = (0, Instant::now());
        loop {
            tokio::select! {
                // A task that ends before it is told to has failed.
                Some(ended) = self.readers.join_next() => return Err(failure(ended)),
                Some(ended) = self.writers.join_next() => return Err(failure(ended)),
                () = tokio::time::sleep(OBSERVE_EVERY) => {}
            }
            let arrivals = run.arrivals.load(Ordering::Relaxed);
            bar.set_position(arrivals);
            if arrivals == all {
                bar.finish_and_clear();
                return Ok(());
            }
            if arrivals > last {
                (last, moved) = (arrivals, Instant::now());
            }
            let allowed =
                options.stall + options.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(1.0 / rate));
            if moved.elapsed() > allowed {
                bar.abandon();
                let sent = run.sent.load(Ordering::Relaxed);
                return Err(format!(
                    "nothing arrived for {} s: {arrivals} of {all} deliveries, {sent} of {} updates sent",
                    options.stall.as_secs(),
                    run.plan.edits.len()
                ));
            }
        }
    }

    /// Adds up what the tasks saw and checks the texts.
    async fn collect(mut self, run: &Run, report: &mut Report, failures: &mut Vec<String>) {
        let (mut latency, mut acks) = (new_histogram(), new_histogram());
        let mut seen = Vec::new();
        while let Some(ended) = self.readers.join_next().await {
            match ended.map_err(anyhow::Error::from).flatten() {
                Ok(reader) => {
                    report.frames_received += reader.frames;
                    report.bytes_received += reader.bytes;
                    latency += &reader.latency_us;
                    seen.push(reader);
                }
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        while let Some(ended) = self.writers.join_next().await {
            match ended.map_err(anyhow::Error::from).flatten() {
                Ok(writer) => {
                    report.frames_sent += writer.frames;
                    report.bytes_sent += writer.bytes;
                    acks += &writer.ack_us;
                }
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        // They ended in any order.
        seen.sort_by_key(|reader| reader.number);
        failures.extend(verify::check_readers(&run.plan, &seen));
        report.latency = Latency::of(&latency);
        report.ack_latency = Latency::of(&acks);
    }
}

fn failure<T>(ended: Result<Result<T>, tokio::task::JoinError>) -> String {
    match ended.map_err(anyhow::Error::from).flatten() {
        Ok(_) => "a connection ended too early".into(),
        Err(error) => format!("{error:#}"),
    }
}

fn progress_bar(all: u64) -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(all), target);
    match ProgressStyle::with_template("{bar:40} {pos}/{len} deliveries, {per_sec}, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// What was used before the first edit.
struct Before {
    generator: Option<Usage>,
    server: Option<(u32, Usage)>,
}

impl Before {
    fn look(pid: Option<u32>) -> Result<Self> {
        let server = match pid {
            Some(pid) => Some((pid, usage(pid).with_context(|| format!("there is no process {pid} to look at"))?)),
            None => None,
        };
        Ok(Self { generator: usage(std::process::id()), server })
    }

    fn report(&self, run: &Run, options: &Options) -> Report {
        let (sent, deliveries) = (run.sent.load(Ordering::Relaxed), run.arrivals.load(Ordering::Relaxed));
        let seconds = Duration::from_nanos(run.last_arrival_ns.load(Ordering::Relaxed)).as_secs_f64().max(1e-9);
        let server = self.server.and_then(|(pid, before)| {
            let now = usage(pid)?;
            let cpu_s = now.cpu_s - before.cpu_s;
            Some(ServerUsage {
                cpu_s,
                cpu_us_per_update: 1e6 * cpu_s / sent.max(1) as f64,
                cpu_us_per_delivery: 1e6 * cpu_s / deliveries.max(1) as f64,
                rss_before_bytes: before.rss_bytes,
                rss_after_bytes: now.rss_bytes,
            })
        });
        let generator_cpu_s = self.generator.and_then(|before| Some(usage(std::process::id())?.cpu_s - before.cpu_s));
        let mut notes = Vec::new();
        if generator_cpu_s.is_some_and(|cpu_s| cpu_s / seconds > GENERATOR_LIMIT) {
            notes.push("the generator itself used more than 90 % of a core: its limit, maybe not the server's".into());
        }
        Report {
            ok: false,
            failures: Vec::new(),
            notes,
            trace: options.trace.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            url: options.url.clone(),
            dialect: match options.dialect {
                Dialect::YWebsocket => "y-websocket",
                Dialect::Hocuspocus => "hocuspocus",
            },
            document: run.target.document.clone(),
            readers: options.readers,
            writers: options.writers,
            in_flight: options.in_flight,
            updates: run.plan.edits.len() as u64,
            updates_sent: sent,
            deliveries,
            seconds,
            updates_per_s: sent as f64 / seconds,
            deliveries_per_s: deliveries as f64 / seconds,
            latency: None,
            ack_latency: None,
            frames_sent: 0,
            bytes_sent: 0,
            frames_received: 0,
            bytes_received: 0,
            generator_cpu_s,
            server,
        }
    }
}
