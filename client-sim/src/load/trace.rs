//! `trace`, `trace-flow`: a recorded editing session, one update per keystroke, sent to readers whose texts are checked.
//!
//! ```text
//! file      the trace file             plan    its updates, encoded before the run, and an index of their content
//! tracker   which edits have arrived   verify  every reader's text, and that of a client that joins at the end
//! ```
//!
//! `trace-flow` sends a number of updates and waits until every reader has them, as in the tables of the documentation;
//! `trace` sends as fast as the socket accepts.

pub(super) mod file;
pub(super) mod plan;
mod tracker;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::RngExt;

use self::plan::Plan;
use self::tracker::Tracker;
use super::measure::{LatencySeries, UsageSample};
use super::report::{Figures, Report, mib};
use super::session::{SessionEvent, Sessions, Target};
use crate::peer::frame::{self, Assembler};
use crate::peer::{Dialect, Unanswered};
use crate::report::Latency;

/// Longest wait in one turn of the event loop.
const TURN: Duration = Duration::from_millis(20);

/// Parameters of a trace run.
#[derive(Debug, Clone)]
pub(super) struct TraceJob {
    /// The trace file.
    pub file: PathBuf,
    /// Name of the document; `None`: a random one.
    pub document: Option<String>,
    /// Send nothing; compare the document of an earlier run with the end of the trace.
    pub verify_only: bool,
    /// Number of reading connections.
    pub readers: usize,
    /// Number of updates sent before waiting for all readers; `None`: no wait.
    pub flow: Option<usize>,
    /// Number of an edit that is not sent, to prove that the checks fail.
    pub leave_out: Option<u64>,
}

/// A reading connection.
struct TraceReader {
    tracker: Tracker,
    assembler: Assembler,
    /// Time of the last new edit.
    last: Instant,
    /// Longest time without a new edit.
    starved: Duration,
}

struct TraceRun {
    plan: Arc<Plan>,
    readers: Vec<TraceReader>,
    /// Time at which each edit was sent.
    sent: Vec<Instant>,
    /// Number of readers that lack each edit.
    lacking: Vec<usize>,
    /// Number of edits that all readers have.
    everywhere: usize,
    /// The edits that the server has not acknowledged.
    unanswered: Unanswered,
    series: LatencySeries,
    /// Time of the last new edit at any reader, or of the last acknowledgement.
    last_progress: Instant,
}

/// Runs the scenario and returns its report.
pub(super) fn run(target: &Target, job: &TraceJob, name: &str) -> Result<Report> {
    let trace = file::load(&job.file)?;
    let document = match (&job.document, job.verify_only) {
        (Some(document), _) => document.clone(),
        (None, false) => format!("load-{:08x}", rand::rng().random::<u32>()),
        (None, true) => bail!("--verify-only needs --document with the document name of the earlier run"),
    };
    let mut sessions = Sessions::new(target.clone())?;
    let checked = match job.verify_only {
        true => verify_only(&mut sessions, &document, &trace)?,
        false => replay(&mut sessions, job, &document, &trace)?,
    };
    let file = job.file.file_name().unwrap_or_default().to_string_lossy();
    Ok(Report {
        ok: checked.failures.is_empty(),
        scenario: name.to_owned(),
        about: format!("{file}, {}", checked.about),
        relay: sessions.relay,
        ..checked
    })
}

/// Compares the document of an earlier run with the end of the trace.
fn verify_only(sessions: &mut Sessions, document: &str, trace: &file::Trace) -> Result<Report> {
    let checked = verify::check_fresh_client(sessions, document, &trace.end);
    Ok(Report {
        about: format!("the document {document} compared with the end"),
        failures: checked.err().map(|error| format!("{error:#}")).into_iter().collect(),
        ..Report::default()
    })
}

fn replay(sessions: &mut Sessions, job: &TraceJob, document: &str, trace: &file::Trace) -> Result<Report> {
    ensure!(job.readers > 0, "--readers must be at least 1");
    // 32 bits as in Yjs 13; the top bit gives all ids the same encoded length.
    let plan = Arc::new(Plan::new(trace, u64::from(rand::rng().random::<u32>() | 1 << 31))?);
    let pid = sessions.target.pid;
    sessions.join_all(&vec![document.to_owned(); job.readers + 1])?;
    // An empty update has two bytes.
    let empty = sessions.all.iter().all(|peer| peer.data_bytes <= 2);
    ensure!(empty, "the document {document} is not empty; choose another with --document");
    let before = UsageSample::now(pid)?;
    let mut run = TraceRun::new(Arc::clone(&plan), job.readers, before.at);
    let sent = run.send_all(sessions, job);
    let (after, frames) = (UsageSample::now(pid)?, sessions.frames);
    run.series.finish();
    // The measurement has ended; a run that lacks deliveries is not kept waiting for acknowledgements.
    let complete = sent.and_then(|()| run.wait_for_acks(sessions));
    let mut failures: Vec<String> = complete.err().map(|error| format!("{error:#}")).into_iter().collect();
    let starved = run.readers.iter().map(|reader| reader.starved).max().unwrap_or_default();
    let readers: Vec<Tracker> = run.readers.into_iter().map(|reader| reader.tracker).collect();
    let (wrong, right) = verify::check_readers(&plan, &readers);
    failures.extend(wrong);
    if failures.is_empty() && !sessions.relay {
        let checked = verify::check_fresh_client(sessions, document, &plan.end);
        failures.extend(checked.context("a client that joined at the end").err().map(|error| format!("{error:#}")));
    }
    let deliveries = readers.iter().map(|reader| reader.arrived_count).sum::<usize>();
    let mut figures = figures(&before, &after, plan.edits.len() as f64, deliveries as f64);
    figures.add("starved_ms", "longest wait for an update, ms", starved.as_secs_f64() * 1e3);
    figures.add("frames_to_a_reader", "frames per reader", frames as f64 / (job.readers + 1) as f64);
    figures.add("updates", "updates", plan.edits.len() as f64);
    figures.add("right_readers", "readers with the expected text", right as f64);
    let sending = job.flow.map_or("as fast as possible".into(), |flow| format!("{flow} updates at a time"));
    Ok(Report {
        failures,
        about: format!("{} updates, {} readers, {sending}", plan.edits.len(), job.readers),
        seconds: after.seconds_since(&before),
        generator_share: after.generator_share_since(&before),
        generator_busy: after.generator_busy_since(&before),
        figures,
        latency: Latency::of(&run.series.latency_us),
        ack_latency: Latency::of(&run.series.ack_us),
        course: run.series.points,
        ..Report::default()
    })
}

fn figures(before: &UsageSample, after: &UsageSample, updates: f64, deliveries: f64) -> Figures {
    let seconds = after.seconds_since(before);
    let mut figures = Figures::default();
    figures.add("until_all_have_it_s", "until all readers are complete, s", seconds);
    figures.add("updates_per_s", "updates/s", updates / seconds);
    figures.add("deliveries_per_s", "deliveries/s", deliveries / seconds);
    let cpu = after.server_cpu_since(before);
    figures.add_known("cpu_s", "server CPU, s", cpu);
    figures.add_known("cpu_us_per_update", "server CPU, us per update", cpu.map(|cpu| 1e6 * cpu / updates));
    figures.add_known(
        "cpu_us_per_delivery",
        "server CPU, us per delivery",
        cpu.map(|cpu| 1e6 * cpu / deliveries.max(1.0)),
    );
    figures.add_known("rss_peak_mib", "server memory, peak, MiB", after.server.map(|server| mib(server.peak_bytes)));
    figures.add_known("others_cores", "CPU of other programs, cores", after.others_since(before));
    figures
}

impl TraceRun {
    fn new(plan: Arc<Plan>, readers: usize, now: Instant) -> Self {
        let reader = |_| TraceReader {
            tracker: Tracker::new(Arc::clone(&plan)),
            assembler: Assembler::default(),
            last: now,
            starved: Duration::ZERO,
        };
        Self {
            readers: (0..readers).map(reader).collect(),
            sent: Vec::with_capacity(plan.edits.len()),
            lacking: vec![readers; plan.edits.len()],
            everywhere: 0,
            unanswered: Unanswered::default(),
            series: LatencySeries::new(),
            last_progress: now,
            plan,
        }
    }

    /// Sends all edits on the last connection; the others read.
    fn send_all(&mut self, sessions: &mut Sessions, job: &TraceJob) -> Result<()> {
        let (plan, writer) = (Arc::clone(&self.plan), self.readers.len());
        let all = plan.edits.len();
        let mut bytes = Vec::new();
        while self.everywhere < all {
            if self.sent.len() == self.everywhere || job.flow.is_none() {
                let end = job.flow.map_or(all, |flow| all.min(self.sent.len() + flow));
                for index in self.sent.len()..end {
                    self.sent.push(Instant::now());
                    if job.leave_out == Some(index as u64) {
                        continue;
                    }
                    let update = &plan.edits[index].update;
                    self.unanswered.push(Some(index), update.clone());
                    let message = sessions.all[writer].update(update);
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

    /// Waits until the server has acknowledged every edit, if it acknowledges at all.
    fn wait_for_acks(&mut self, sessions: &mut Sessions) -> Result<()> {
        self.last_progress = Instant::now();
        while !self.series.ack_us.is_empty() && self.unanswered.len() > 0 {
            self.receive(sessions)?;
            ensure!(
                self.last_progress.elapsed() < sessions.target.stall,
                "{} of {} updates were not acknowledged",
                self.unanswered.len(),
                self.plan.edits.len()
            );
        }
        Ok(())
    }

    fn receive(&mut self, sessions: &mut Sessions) -> Result<()> {
        let Self { readers, sent, lacking, everywhere, unanswered, series, last_progress, .. } = self;
        let (writer, echoes) = (readers.len(), sessions.target.dialect == Dialect::YWebsocket);
        let (mut new_edits, mut failure) = (Vec::new(), None);
        sessions.turn(TURN, |connection, event, now| {
            if connection == writer {
                let saved = match event {
                    SessionEvent::Data { bytes, first: true, last: true } if echoes => unanswered.take_echo(bytes),
                    SessionEvent::Saved(count) => Some(unanswered.take(count)),
                    _ => None,
                };
                for index in saved.into_iter().flatten() {
                    series.acknowledged(now.saturating_duration_since(sent[index]));
                    *last_progress = now;
                }
                return;
            }
            let SessionEvent::Data { bytes, first, last } = event else { return };
            let Some(reader) = readers.get_mut(connection) else { return };
            let Some(update) = reader.assembler.add(bytes, first, last) else { return };
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
