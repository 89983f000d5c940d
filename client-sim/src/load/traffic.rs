//! Documents with writers and readers, at a fixed rate or with a window of updates in flight. Most scenarios use this.
//!
//! Definitions. A writer appends to its document. An update is *delivered* each time its content reaches another connection
//! of the document, in whatever message. With a window of n, a writer keeps n updates in flight that have not reached all
//! other connections (or, with [`Until::Acked`], are not acknowledged). The measurement lasts from the end of the warm-up to
//! the end of sending; afterwards everything sent must still arrive.

mod run;

use std::time::Duration;

use anyhow::{Result, ensure};

use self::run::TrafficRun;
use super::marker;
use super::measure::UsageSample;
use super::report::{Figures, Report, mib};
use super::session::Target;
use crate::report::Latency;

/// Number of undelivered updates described individually.
const MAX_COMPLAINTS: usize = 5;

/// When an update leaves the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// When all other connections have it.
    Delivered,
    /// When the server has acknowledged it.
    Acked,
}

/// When a writer sends its next update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum SendPolicy {
    /// At this number of updates per second.
    Rate(f64),
    /// As soon as fewer than this number are in flight.
    Window(usize, Until),
}

/// Parameters of a traffic run.
#[derive(Debug, Clone)]
pub(super) struct Traffic {
    /// Number of documents.
    pub documents: usize,
    /// Writers per document.
    pub writers: usize,
    /// Connections per document that only read.
    pub readers: usize,
    /// Send policy of each writer.
    pub policy: SendPolicy,
    /// Whether an awareness update is sent with every update.
    pub awareness: bool,
    /// Whether all updates that a writer may send go out in one socket write instead of one write per update.
    pub burst: bool,
    /// Characters inserted by an update.
    pub chars: usize,
    /// Length of the warm-up, which is not measured.
    pub warmup: Duration,
    /// Length of the measurement.
    pub time: Duration,
    /// Update that the first writer sends into each document before anything else.
    pub prefill: Option<Vec<u8>>,
    /// Number of a marker received by readers that is ignored, to prove that the check fails.
    pub forget: Option<u64>,
}

impl Traffic {
    /// Description for the report.
    pub(super) fn about(&self) -> String {
        let policy = match self.policy {
            SendPolicy::Rate(rate) => format!("{rate} updates/s each"),
            SendPolicy::Window(updates, Until::Delivered) => format!("{updates} in flight each"),
            SendPolicy::Window(updates, Until::Acked) => format!("{updates} unacknowledged each"),
        };
        let awareness = if self.awareness { ", an awareness update with each" } else { "" };
        format!(
            "{} document(s), {} writer(s) and {} reader(s) each, {policy}{awareness}, {} characters",
            self.documents, self.writers, self.readers, self.chars
        )
    }

    fn check(&self) -> Result<()> {
        let enough = self.documents > 0 && self.writers > 0 && self.writers + self.readers > 1;
        let alone =
            matches!(self.policy, SendPolicy::Window(_, Until::Acked)) && self.documents > 0 && self.writers > 0;
        ensure!(enough || alone, "each document needs at least one writer and one other connection");
        ensure!(self.writers <= marker::MAX_WRITERS, "--writers must be at most {}", marker::MAX_WRITERS);
        ensure!(self.chars >= marker::MARKER_CHARS, "--payload must be at least {}", marker::MARKER_CHARS);
        match self.policy {
            SendPolicy::Rate(rate) => ensure!(rate > 0.0, "--rate must be above 0"),
            SendPolicy::Window(updates, _) => ensure!(updates > 0, "--in-flight must be at least 1"),
        }
        Ok(())
    }
}

/// Runs the scenario and returns its report.
pub(super) fn run(target: &Target, traffic: &Traffic, name: &str) -> Result<Report> {
    traffic.check()?;
    let mut run = TrafficRun::join(target, traffic)?;
    let mut failures = Vec::new();
    let measured = run.measure().map_err(|error| failures.push(format!("{error:#}"))).ok();
    if matches!(traffic.policy, SendPolicy::Window(_, Until::Acked)) && run.ledger.acked == 0 {
        failures.push("the server acknowledged nothing".into());
    }
    if run.ledger.missing > 0 {
        failures.push(format!("{} deliveries never arrived", run.ledger.missing));
        failures.extend(run.ledger.complaints(MAX_COMPLAINTS));
    }
    if failures.is_empty() && !run.sessions.relay {
        failures.extend(run.check_fresh_clients().err().map(|error| format!("{error:#}")));
    }
    let mut report = measured.unwrap_or_default();
    report.ok = failures.is_empty();
    report.failures = failures;
    report.scenario = name.to_owned();
    report.about = traffic.about();
    report.relay = run.sessions.relay;
    report.figures.add("sent", "updates, including warm-up and end", run.ledger.sent as f64);
    report.figures.add("delivered", "deliveries of these updates", run.ledger.delivered as f64);
    report.latency = Latency::of(&run.series.latency_us);
    report.ack_latency = Latency::of(&run.series.ack_us);
    report.course = run.series.points;
    Ok(report)
}

/// Counters at one moment.
#[derive(Clone, Copy)]
struct Counts {
    sent: u64,
    delivered: u64,
    acked: u64,
    frames: u64,
    awareness: u64,
    bytes_received: u64,
}

fn report(
    traffic: &Traffic,
    before: &UsageSample,
    after: &UsageSample,
    from: Counts,
    to: Counts,
    late: Duration,
) -> Report {
    let seconds = after.seconds_since(before);
    let (sent, delivered) = ((to.sent - from.sent) as f64, (to.delivered - from.delivered) as f64);
    let (frames, acked) = ((to.frames - from.frames) as f64, (to.acked - from.acked) as f64);
    let mut figures = Figures::default();
    figures.add("updates_per_s", "updates/s", sent / seconds);
    figures.add("deliveries_per_s", "deliveries/s", delivered / seconds);
    figures.add("frames_per_s", "frames with deliveries/s", frames / seconds);
    figures.add("deliveries_per_frame", "deliveries per frame", delivered / frames.max(1.0));
    figures.add("received_mib_per_s", "received, MiB/s", mib(to.bytes_received - from.bytes_received) / seconds);
    if to.acked > 0 {
        figures.add("acks_per_s", "acknowledged/s", acked / seconds);
    }
    if traffic.awareness {
        figures.add(
            "awareness_per_s",
            "awareness updates received/s",
            (to.awareness - from.awareness) as f64 / seconds,
        );
    }
    if let Some(cpu_s) = after.server_cpu_since(before) {
        figures.add("server_share", "server CPU, cores", cpu_s / seconds);
        figures.add("cpu_us_per_update", "server CPU, us per update", 1e6 * cpu_s / sent.max(1.0));
        let per_delivery = (delivered > 0.0).then(|| 1e6 * cpu_s / delivered);
        figures.add_known("cpu_us_per_delivery", "server CPU, us per delivery", per_delivery);
    }
    if let (Some(start), Some(end)) = (before.server, after.server) {
        figures.add("rss_before_mib", "server memory before, MiB", mib(start.rss_bytes));
        figures.add("rss_after_mib", "server memory after, MiB", mib(end.rss_bytes));
        figures.add("rss_peak_mib", "server memory, peak, MiB", mib(end.peak_bytes));
    }
    figures.add_known("others_cores", "CPU of other programs, cores", after.others_since(before));
    if matches!(traffic.policy, SendPolicy::Rate(_)) {
        figures.add("late_ms", "longest delay of a send, ms", late.as_secs_f64() * 1e3);
    }
    Report {
        seconds,
        generator_share: after.generator_share_since(before),
        generator_busy: after.generator_busy_since(before),
        figures,
        ..Report::default()
    }
}
