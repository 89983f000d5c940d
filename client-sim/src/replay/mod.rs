//! `syncline-sim replay`: a recorded editing session, keystroke by keystroke, against any server.
//!
//! ```text
//! trace    the trace file      plan     its updates, encoded before the run, and an index of their content
//! link     one connection      tracker  which edits have arrived, by content
//! run      shared state        writers, readers, verify
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
use readers::ReaderResult;
use run::Run;
use writers::WriterResult;

// Interval of the progress bar and the stall check.
const OBSERVE_INTERVAL: Duration = Duration::from_millis(50);

/// The generator counts as the bottleneck when it uses more than this share of a core.
const GENERATOR_LIMIT: f64 = 0.9;

/// Options of a replay.
#[derive(Debug, Clone)]
pub struct Options {
    /// The trace file.
    pub trace: PathBuf,
    /// Server address.
    pub url: String,
    /// Wire protocol.
    pub dialect: Dialect,
    /// Document name; `None`: a random one.
    pub document: Option<String>,
    /// Name of the root text.
    pub root: String,
    /// Token, if the server requires one.
    pub token: Option<String>,
    /// Number of reader connections, at least 1.
    pub readers: usize,
    /// Number of writer connections, at least 1.
    pub writers: usize,
    /// Number of edits that one writer makes before the next writer's turn.
    pub turn: usize,
    /// Maximum number of edits in flight; 0: no limit.
    pub in_flight: usize,
    /// Maximum number of edits per second.
    pub rate: Option<f64>,
    /// Process id of the server.
    pub pid: Option<u32>,
    /// The run fails when nothing arrives for this long.
    pub stall: Duration,
    /// Number of an edit that is not sent, to prove that the checks fail.
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

/// Only checks that the server's document has the text at the end of the trace.
pub async fn verify_only(options: &Options) -> Result<()> {
    ensure!(options.document.is_some(), "--verify-only needs --document with the document name of the earlier run");
    let trace = trace::load(&options.trace)?;
    verify::verify_only(&options.target(), &options.root, &trace.end).await
}

/// Replays the trace. Failed checks are in the report; an error means that there is no report.
pub async fn replay(options: &Options) -> Result<Report> {
    ensure!(options.readers > 0 && options.writers > 0, "--readers and --writers must be at least 1");
    ensure!(options.rate.is_none_or(|rate| rate > 0.0), "--rate must be above 0");
    let plan = {
        let trace = trace::load(&options.trace)?;
        // 32 bits as in Yjs 13; the top bit gives all ids the same encoded length.
        let mut rng = rand::rng();
        let mut ids: Vec<u64> = (0..options.writers).map(|_| u64::from(rng.random::<u32>() | 1 << 31)).collect();
        // When two clients insert at the same position, the one with the smaller id comes first. The end texts of the
        // concurrent traces require ids in the order of agents.
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
    let before = Baseline::take(options.pid)?;
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
        // While all are connected: servers without a disk drop a document that no client has open.
        let checked = verify::check_fresh_client(&target, &options.root, &run.plan.end).await;
        failures.extend(checked.err().map(|error| format!("a client that joined at the end: {error:#}")));
    }
    run.stop.send_replace(true);
    tasks.collect(&run, &mut report, &mut failures).await;
    report.ok = failures.is_empty();
    report.failures = failures;
    Ok(report)
}

#[derive(Default)]
struct Tasks {
    readers: JoinSet<Result<ReaderResult>>,
    writers: JoinSet<Result<WriterResult>>,
}

impl Tasks {
    /// Waits until every reader has received every edit. The error is the reason why that cannot happen.
    async fn observe(&mut self, run: &Run, options: &Options) -> Result<(), String> {
        let all = (run.plan.edits.len() * options.readers) as u64;
        let bar = progress_bar(all);
        let (mut last, mut moved) = (0, Instant::now());
        loop {
            tokio::select! {
                // A task that ends before the run is stopped has failed.
                Some(ended) = self.readers.join_next() => return Err(failure(ended)),
                Some(ended) = self.writers.join_next() => return Err(failure(ended)),
                () = tokio::time::sleep(OBSERVE_INTERVAL) => {}
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

    /// Adds up the results of the tasks and checks the texts.
    async fn collect(mut self, run: &Run, report: &mut Report, failures: &mut Vec<String>) {
        let (mut latency, mut acks) = (new_histogram(), new_histogram());
        let mut results = Vec::new();
        while let Some(ended) = self.readers.join_next().await {
            match ended.map_err(anyhow::Error::from).flatten() {
                Ok(reader) => {
                    report.frames_received += reader.frames;
                    report.bytes_received += reader.bytes;
                    latency += &reader.latency_us;
                    results.push(reader);
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
        // The tasks end in any order.
        results.sort_by_key(|reader| reader.number);
        failures.extend(verify::check_readers(&run.plan, &results));
        report.latency = Latency::of(&latency);
        report.ack_latency = Latency::of(&acks);
    }
}

fn failure<T>(ended: Result<Result<T>, tokio::task::JoinError>) -> String {
    match ended.map_err(anyhow::Error::from).flatten() {
        Ok(_) => "a connection ended before the run was complete".into(),
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

/// CPU and memory usage before the first edit.
struct Baseline {
    generator: Option<Usage>,
    server: Option<(u32, Usage)>,
}

impl Baseline {
    fn take(pid: Option<u32>) -> Result<Self> {
        let server = match pid {
            Some(pid) => Some((
                pid,
                usage(pid).with_context(|| {
                    format!("cannot read the usage of process {pid} (--pid): no such process, or no /proc")
                })?,
            )),
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
            notes
                .push("the load generator used more than 90 % of a core: these may not be the server's figures".into());
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
