//! `trace`, `trace-flow`: a recorded editing session, one update per keystroke, sent to readers whose texts are checked.
//!
//! The plan, the tracking of arrived edits and the checks are shared with `syncline-sim replay`; the sockets are those of
//! `load`. `trace-flow` sends a number of updates and waits until every reader has them, as in the tables of the
//! documentation; `trace` sends as fast as the socket accepts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rand::RngExt;
use syncline_protocol::detect;

use super::frame::{self, OVERLAP_BYTES};
use super::measure::{LatencySeries, UsageSample};
use super::report::{Figures, Report, mib};
use super::session::{SessionEvent, Sessions, Target};
use super::speak::Dialect;
use crate::replay::plan::{Plan, Sharing};
use crate::replay::readers::ReaderResult;
use crate::replay::tracker::Tracker;
use crate::replay::{link, trace, verify};
use crate::report::{Latency, new_histogram};

/// Longest wait in one turn of the event loop.
const TURN: Duration = Duration::from_millis(20);

/// Parameters of a trace run.
#[derive(Debug, Clone)]
pub struct Trace {
    /// The trace file.
    pub file: PathBuf,
    /// Number of reading connections.
    pub readers: usize,
    /// Number of updates sent before waiting for all readers; `None`: no wait.
    pub flow: Option<usize>,
    /// Number of an edit that is not sent, to prove that the checks fail.
    pub leave_out: Option<u64>,
}

/// A reading connection.
struct Reader {
    tracker: Tracker,
    /// Received pieces of a large update.
    pieces: Vec<u8>,
    /// Time of the last new edit.
    last: Instant,
    /// Longest time without a new edit.
    starved: Duration,
    bytes: u64,
}

struct Run {
    plan: Arc<Plan>,
    readers: Vec<Reader>,
    /// Time at which each edit was sent.
    sent: Vec<Instant>,
    /// Number of readers that lack each edit.
    lacking: Vec<usize>,
    /// Number of edits that all readers have.
    everywhere: usize,
    series: LatencySeries,
    /// Time of the last new edit at any reader.
    last_progress: Instant,
}

/// Runs the scenario and returns its report.
pub fn run(target: &Target, job: &Trace, name: &str) -> Result<Report> {
    anyhow::ensure!(job.readers > 0, "--readers must be at least 1");
    let plan = plan(job)?;
    let document = format!("load-{:08x}", rand::rng().random::<u32>());
    let mut sessions = Sessions::new(target.clone())?;
    sessions.join_all(&vec![document.clone(); job.readers + 1])?;
    let before = UsageSample::now(target.pid)?;
    let mut run = Run::new(Arc::clone(&plan), job.readers, before.at);
    let mut failures: Vec<String> = Vec::new();
    if let Err(error) = run.send_all(&mut sessions, job) {
        failures.push(format!("{error:#}"));
    }
    let after = UsageSample::now(target.pid)?;
    run.series.finish();
    let relay = sessions.relay;
    let starved = run.readers.iter().map(|reader| reader.starved).max().unwrap_or_default();
    let seconds = after.seconds_since(&before);
    let results: Vec<ReaderResult> =
        std::mem::take(&mut run.readers).into_iter().enumerate().map(reader_result).collect();
    failures.extend(verify::check_readers(&plan, &results));
    if failures.is_empty() && !relay {
        failures.extend(check_fresh_client(target, &document, &plan).err().map(|error| format!("{error:#}")));
    }
    let updates = plan.edits.len() as f64;
    let deliveries = results.iter().map(|result| result.arrived).sum::<usize>() as f64;
    let mut figures = Figures::default();
    figures.add("until_all_have_it_s", "until all readers are complete, s", seconds);
    figures.add("updates_per_s", "updates/s", updates / seconds);
    figures.add("deliveries_per_s", "deliveries/s", deliveries / seconds);
    figures.add("starved_ms", "longest wait for an update, ms", starved.as_secs_f64() * 1e3);
    figures.add("frames_to_a_reader", "frames per reader", sessions.frames as f64 / (job.readers + 1) as f64);
    let cpu = after.server_cpu_since(&before);
    figures.add_known("cpu_s", "server CPU, s", cpu);
    figures.add_known("cpu_us_per_update", "server CPU, us per update", cpu.map(|cpu| 1e6 * cpu / updates));
    figures.add_known(
        "cpu_us_per_delivery",
        "server CPU, us per delivery",
        cpu.map(|cpu| 1e6 * cpu / deliveries.max(1.0)),
    );
    figures.add_known("rss_peak_mib", "server memory, peak, MiB", after.server.map(|server| mib(server.peak_bytes)));
    figures.add_known("others_cores", "CPU of other programs, cores", after.others_since(&before));
    let file = job.file.file_name().unwrap_or_default().to_string_lossy();
    let sending = job.flow.map_or("as fast as possible".into(), |flow| format!("{flow} updates at a time"));
    Ok(Report {
        ok: failures.is_empty(),
        failures,
        scenario: name.to_owned(),
        about: format!("{file}, {} updates, {} readers, {sending}", plan.edits.len(), job.readers),
        relay,
        seconds,
        generator_share: after.generator_share_since(&before),
        generator_busy: after.generator_busy_since(&before),
        figures,
        latency: Latency::of(&run.series.latency_us),
        course: run.series.points,
        ..Report::default()
    })
}

fn plan(job: &Trace) -> Result<Arc<Plan>> {
    let trace = trace::load(&job.file)?;
    let id = u64::from(rand::rng().random::<u32>() | 1 << 31);
    Ok(Arc::new(Plan::new(&trace, "text", Sharing { writers: 1, turn: 1 }, &[id])?))
}

fn reader_result((number, reader): (usize, Reader)) -> ReaderResult {
    ReaderResult {
        number,
        arrived: reader.tracker.arrived_count,
        prefix: reader.tracker.prefix(),
        log: reader.tracker.log,
        frames: 0,
        bytes: reader.bytes,
        latency_us: new_histogram(),
    }
}

/// Checks that a client that joins at the end receives the text of the trace.
fn check_fresh_client(target: &Target, document: &str, plan: &Plan) -> Result<()> {
    let target = link::Target {
        url: format!("ws://{}{}", target.address.host, target.address.base),
        document: document.to_owned(),
        dialect: match target.dialect {
            Dialect::YWebsocket => detect::Dialect::YWebsocket,
            Dialect::Hocuspocus => detect::Dialect::Hocuspocus,
        },
        token: target.token.clone(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let checked = runtime.block_on(verify::check_fresh_client(&target, &plan.root, &plan.end));
    checked.context("a client that joined at the end")
}

impl Run {
    fn new(plan: Arc<Plan>, readers: usize, now: Instant) -> Self {
        let reader = |_| Reader {
            tracker: Tracker::new(Arc::clone(&plan)),
            pieces: Vec::new(),
            last: now,
            starved: Duration::ZERO,
            bytes: 0,
        };
        Self {
            readers: (0..readers).map(reader).collect(),
            sent: Vec::with_capacity(plan.edits.len()),
            lacking: vec![readers; plan.edits.len()],
            everywhere: 0,
            series: LatencySeries::new(),
            last_progress: now,
            plan,
        }
    }

    /// Sends all edits on the last connection; the others read.
    fn send_all(&mut self, sessions: &mut Sessions, job: &Trace) -> Result<()> {
        let (plan, writer) = (Arc::clone(&self.plan), self.readers.len());
        let all = plan.edits.len();
        let document = sessions.all[writer].document.clone();
        let mut bytes = Vec::new();
        while self.everywhere < all {
            if self.sent.len() == self.everywhere || job.flow.is_none() {
                let end = job.flow.map_or(all, |flow| all.min(self.sent.len() + flow));
                for index in self.sent.len()..end {
                    self.sent.push(Instant::now());
                    if job.leave_out == Some(index as u64) {
                        continue;
                    }
                    let message = sessions.target.dialect.update(&document, &plan.edits[index].update);
                    frame::write(&mut bytes, frame::BINARY, &message);
                    if job.flow.is_some() {
                        sessions.hub.send(writer, &bytes)?;
                        bytes.clear();
                    }
                }
                sessions.hub.send(writer, &bytes)?;
                bytes.clear();
            }
            self.receive(sessions)?;
            self.series.tick(Instant::now(), "replaying");
            if self.last_progress.elapsed() > sessions.target.stall {
                bail!("no new edit arrived for {} s", sessions.target.stall.as_secs());
            }
        }
        Ok(())
    }

    fn receive(&mut self, sessions: &mut Sessions) -> Result<()> {
        let Self { readers, sent, lacking, everywhere, series, last_progress, .. } = self;
        let (mut new_edits, mut failure) = (Vec::new(), None);
        sessions.turn(TURN, |connection, event, now| {
            let SessionEvent::Data { bytes, first, last } = event else { return };
            let Some(reader) = readers.get_mut(connection) else { return };
            reader.bytes += bytes.len() as u64;
            let update = match (first, last) {
                (true, true) => bytes,
                _ => {
                    // A piece repeats the end of the previous one.
                    let begin = if first { 0 } else { reader.pieces.len().saturating_sub(OVERLAP_BYTES) };
                    reader.pieces.truncate(begin);
                    reader.pieces.extend_from_slice(bytes);
                    if !last {
                        return;
                    }
                    &reader.pieces
                }
            };
            if let Err(error) = reader.tracker.apply(update, &mut new_edits) {
                failure.get_or_insert(error.context(format!("reader {connection}")));
            }
            if !new_edits.is_empty() {
                reader.starved = reader.starved.max(now.saturating_duration_since(reader.last));
                (reader.last, *last_progress) = (now, now);
            }
            for index in new_edits.drain(..) {
                let Some(at) = sent.get(index as usize) else { continue };
                series.delivered(now.saturating_duration_since(*at));
                lacking[index as usize] -= 1;
                *everywhere += usize::from(lacking[index as usize] == 0);
            }
        })?;
        failure.map_or(Ok(()), Err)
    }
}
