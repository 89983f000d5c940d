//! Measurements during a scenario: latencies and throughput over time, CPU and memory.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::Serialize;

use crate::proc::{Usage, machine_cpu_s, usage};
use crate::report::{new_histogram, record};

/// Time between two points of a series.
const POINT_INTERVAL: Duration = Duration::from_millis(100);

/// One point of a series.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Point {
    /// Seconds since the start of the measurement.
    pub at_s: f64,
    /// Deliveries per second since the previous point.
    pub per_s: f64,
    /// Median latency of these deliveries.
    pub p50_us: u64,
    /// 99th percentile of the latency of these deliveries.
    pub p99_us: u64,
}

/// CPU and memory at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct UsageSample {
    /// Time of the sample.
    pub at: Instant,
    /// Usage of this program.
    pub generator: Option<Usage>,
    /// Usage of the server; `None` without a process id.
    pub server: Option<Usage>,
    /// CPU seconds that the whole machine has used.
    pub machine_s: Option<f64>,
}

impl UsageSample {
    /// Takes a sample.
    pub(super) fn now(pid: Option<u32>) -> Result<Self> {
        let server = match pid {
            Some(pid) => Some(usage(pid).with_context(|| {
                format!("cannot read the usage of process {pid} (--pid): no such process, or no /proc")
            })?),
            None => None,
        };
        Ok(Self { at: Instant::now(), generator: usage(std::process::id()), server, machine_s: machine_cpu_s() })
    }

    /// Wall-clock seconds since `earlier`.
    pub(super) fn seconds_since(&self, earlier: &Self) -> f64 {
        self.at.saturating_duration_since(earlier.at).as_secs_f64().max(1e-9)
    }

    /// CPU seconds of the server since `earlier`.
    pub(super) fn server_cpu_since(&self, earlier: &Self) -> Option<f64> {
        Some((self.server?.cpu_s - earlier.server?.cpu_s).max(0.0))
    }

    /// Average number of cores used by other programs (or the host) since `earlier`; `None` if unknown.
    pub(super) fn others_since(&self, earlier: &Self) -> Option<f64> {
        let accounted_s = self.generator?.cpu_s - earlier.generator?.cpu_s + self.server_cpu_since(earlier)?;
        Some(((self.machine_s? - earlier.machine_s? - accounted_s) / self.seconds_since(earlier)).max(0.0))
    }

    /// Share of the time since `earlier` in which this program was running or waiting for a core.
    pub(super) fn generator_busy_since(&self, earlier: &Self) -> Option<f64> {
        let waited_s = self.generator?.waited_s - earlier.generator?.waited_s;
        Some(self.generator_share_since(earlier)? + waited_s / self.seconds_since(earlier))
    }

    /// CPU of this program since `earlier`, as a share of one core.
    pub(super) fn generator_share_since(&self, earlier: &Self) -> Option<f64> {
        Some((self.generator?.cpu_s - earlier.generator?.cpu_s) / self.seconds_since(earlier))
    }
}

/// Latencies of a run, in total and over time.
pub(super) struct LatencySeries {
    /// From sending to arrival, of all deliveries.
    pub latency_us: Histogram<u64>,
    /// From sending to the acknowledgement, of all updates.
    pub ack_us: Histogram<u64>,
    /// The completed points.
    pub points: Vec<Point>,
    begin: Instant,
    /// End of the current point.
    next: Instant,
    /// Latencies of the current point.
    of_point: Histogram<u64>,
    bar: ProgressBar,
}

impl LatencySeries {
    /// Starts a series now.
    pub(super) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr_with_hz(5) } else { ProgressDrawTarget::hidden() };
        let now = Instant::now();
        Self {
            latency_us: new_histogram(),
            ack_us: new_histogram(),
            points: Vec::new(),
            begin: now,
            next: now + POINT_INTERVAL,
            of_point: new_histogram(),
            bar: ProgressBar::with_draw_target(None, target),
        }
    }

    /// Discards everything recorded so far; the measurement starts now.
    pub(super) fn restart(&mut self) {
        let now = Instant::now();
        self.latency_us.reset();
        self.ack_us.reset();
        self.of_point.reset();
        self.points.clear();
        (self.begin, self.next) = (now, now + POINT_INTERVAL);
    }

    /// Records a delivery; `age` is the time since it was sent.
    pub(super) fn delivered(&mut self, age: Duration) {
        record(&mut self.of_point, age);
    }

    /// Records an acknowledgement; `age` is the time since the update was sent.
    pub(super) fn acknowledged(&mut self, age: Duration) {
        record(&mut self.ack_us, age);
    }

    /// Ends the current point when its time is over; `stage` is shown in the progress line.
    pub(super) fn tick(&mut self, now: Instant, stage: &str) {
        if now >= self.next {
            self.end_point(now);
            if let Some(point) = self.points.last() {
                self.bar.set_message(format!(
                    "{stage}: {:5.1} s, {:>9.0} deliveries/s, p50 {:.2} ms, p99 {:.2} ms",
                    point.at_s,
                    point.per_s,
                    point.p50_us as f64 / 1e3,
                    point.p99_us as f64 / 1e3
                ));
                self.bar.tick();
            }
        }
    }

    /// Ends the measurement.
    pub(super) fn finish(&mut self) {
        self.end_point(Instant::now());
        self.bar.finish_and_clear();
    }

    fn end_point(&mut self, now: Instant) {
        let since = (now + POINT_INTERVAL).saturating_duration_since(self.next).as_secs_f64().max(1e-9);
        self.points.push(Point {
            at_s: now.saturating_duration_since(self.begin).as_secs_f64(),
            per_s: self.of_point.len() as f64 / since,
            p50_us: self.of_point.value_at_quantile(0.50),
            p99_us: self.of_point.value_at_quantile(0.99),
        });
        // Added once per point: recording into both histograms would cost every delivery twice.
        self.latency_us += &self.of_point;
        self.of_point.reset();
        self.next = now + POINT_INTERVAL;
    }
}
