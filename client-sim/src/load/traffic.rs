//! Documents with writers and readers, at a rate or as fast as a window allows: most scenarios are this.
//!
//! Definitions. A writer appends to its document; an update is *delivered* each time its content reaches another
//! connection of the document, in whatever message. In a window of n, a writer has n updates that have not reached all
//! others (or, with [`Until::Acked`], were not acknowledged). Measured is a span between a warm-up and the end of
//! sending; afterwards everything sent must still arrive.

mod run;

use std::time::Duration;

use anyhow::{Result, ensure};

use self::run::Run;
use super::marker;
use super::measure::Look;
use super::report::{Figures, Report, mib};
use super::session::Target;
use crate::report::Latency;

/// Failures named one by one.
const MAX_COMPLAINTS: usize = 5;

/// When an update leaves the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Everybody else has it.
    Delivered,
    /// The server acknowledged it.
    Acked,
}

/// How fast a writer goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Updates a second.
    Rate(f64),
    /// At most so many on their way.
    Window(usize, Until),
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Traffic {
    /// Documents.
    pub documents: usize,
    /// Writers of each.
    pub writers: usize,
    /// Other connections of each.
    pub readers: usize,
    /// Of each writer.
    pub pace: Pace,
    /// A presence with every update.
    pub awareness: bool,
    /// What a writer may send at once leaves in one write, not in a write for each update.
    pub burst: bool,
    /// Characters of an update.
    pub chars: usize,
    /// Not measured, at the beginning.
    pub warmup: Duration,
    /// Measured.
    pub time: Duration,
    /// Sent into each document by its first writer before anything else.
    pub prefill: Option<Vec<u8>>,
    /// Overlook the marker that comes to readers as this one, to see the check fail.
    pub forget: Option<u64>,
}

impl Traffic {
    /// In words.
    pub fn about(&self) -> String {
        let pace = match self.pace {
            Pace::Rate(rate) => format!("{rate} updates/s each"),
            Pace::Window(updates, Until::Delivered) => format!("{updates} in flight each"),
            Pace::Window(updates, Until::Acked) => format!("{updates} not acknowledged each"),
        };
        let awareness = if self.awareness { ", a presence with each" } else { "" };
        format!(
            "{} document(s), {} writer(s) and {} reader(s) of each, {pace}{awareness}, {} characters",
            self.documents, self.writers, self.readers, self.chars
        )
    }

    fn check(&self) -> Result<()> {
        let enough = self.documents > 0 && self.writers > 0 && self.writers + self.readers > 1;
        let alone = matches!(self.pace, Pace::Window(_, Until::Acked)) && self.documents > 0 && self.writers > 0;
        ensure!(enough || alone, "nobody would receive anything: at least one writer and one other connection");
        ensure!(self.writers <= marker::MAX_WRITERS, "at most {} writers in a document", marker::MAX_WRITERS);
        ensure!(self.chars >= marker::MARKER_CHARS, "an update has at least {} characters", marker::MARKER_CHARS);
        match self.pace {
            Pace::Rate(rate) => ensure!(rate > 0.0, "the rate must be above 0"),
            Pace::Window(updates, _) => ensure!(updates > 0, "at least one update in flight"),
        }
        Ok(())
    }
}

/// Runs it and reports.
pub fn run(target: &Target, traffic: &Traffic, name: &str) -> Result<Report> {
    traffic.check()?;
    let mut run = Run::join(target, traffic)?;
    let mut failures = Vec::new();
    let measured = run.measure().map_err(|error| failures.push(format!("{error:#}"))).ok();
    if matches!(traffic.pace, Pace::Window(_, Until::Acked)) && run.ledger.acked == 0 {
        failures.push("the server acknowledged nothing".into());
    }
    if run.ledger.missing > 0 {
        failures.push(format!("{} deliveries never came", run.ledger.missing));
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
    report.figures.add("sent", "updates in all, warm-up and end too", run.ledger.sent as f64);
    report.figures.add("delivered", "deliveries of these", run.ledger.delivered as f64);
    report.latency = Latency::of(&run.course.latency_us);
    report.ack_latency = Latency::of(&run.course.ack_us);
    report.course = run.course.points;
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

fn report(traffic: &Traffic, before: &Look, after: &Look, from: Counts, to: Counts, late: Duration) -> Report {
    let seconds = after.seconds_since(before);
    let (sent, delivered) = ((to.sent - from.sent) as f64, (to.delivered - from.delivered) as f64);
    let (frames, acked) = ((to.frames - from.frames) as f64, (to.acked - from.acked) as f64);
    let mut figures = Figures::default();
    figures.add("updates_per_s", "updates/s", sent / seconds);
    figures.add("deliveries_per_s", "deliveries/s", delivered / seconds);
    figures.add("frames_per_s", "frames with these, /s", frames / seconds);
    figures.add("deliveries_per_frame", "deliveries in a frame", delivered / frames.max(1.0));
    figures.add("received_mib_per_s", "received, MiB/s", mib(to.bytes_received - from.bytes_received) / seconds);
    if to.acked > 0 {
        figures.add("acks_per_s", "acknowledged/s", acked / seconds);
    }
    if traffic.awareness {
        figures.add("awareness_per_s", "presences received/s", (to.awareness - from.awareness) as f64 / seconds);
    }
    if let Some(cpu_s) = after.server_cpu_since(before) {
        figures.add("server_share", "server CPU, cores", cpu_s / seconds);
        figures.add("cpu_us_per_update", "server CPU, us an update", 1e6 * cpu_s / sent.max(1.0));
        let of_delivery = (delivered > 0.0).then(|| 1e6 * cpu_s / delivered);
        figures.add_known("cpu_us_per_delivery", "server CPU, us a delivery", of_delivery);
    }
    if let (Some(was), Some(is)) = (before.server, after.server) {
        figures.add("rss_before_mib", "server memory before, MiB", mib(was.rss_bytes));
        figures.add("rss_after_mib", "server memory after, MiB", mib(is.rss_bytes));
        figures.add("rss_peak_mib", "server memory at most, MiB", mib(is.peak_bytes));
    }
    figures.add_known("others_cores", "CPU of everything else, cores", after.others_since(before));
    if matches!(traffic.pace, Pace::Rate(_)) {
        figures.add("late_ms", "latest send behind its time, ms", late.as_secs_f64() * 1e3);
    }
    Report {
        seconds,
        generator_share: after.generator_share_since(before),
        generator_busy: after.generator_busy_since(before),
        figures,
        ..Report::default()
    }
}
