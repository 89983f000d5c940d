//! What is measured while a scenario runs: counts, latencies, CPU and memory, and their course over time.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::Serialize;

use crate::proc::{Usage, machine_cpu_s, usage};
use crate::report::{new_histogram, record};

/// One point of the course.
const POINT_EVERY: Duration = Duration::from_millis(100);

/// A moment of a run.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Point {
    /// Seconds since the measurement began.
    pub at_s: f64,
    /// Deliveries in a second, since the point before.
    pub per_s: f64,
    /// Latency of these: median.
    pub p50_us: u64,
    /// Latency of these: 99 of 100 are at most this.
    pub p99_us: u64,
}

/// CPU and memory at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// When.
    pub at: Instant,
    /// This program.
    pub generator: Option<Usage>,
    /// The server.
    pub server: Option<Usage>,
    /// CPU seconds of the whole machine.
    pub machine_s: Option<f64>,
}

impl Look {
    /// Looks.
    pub fn now(pid: Option<u32>) -> Result<Self> {
        let server = match pid {
            Some(pid) => Some(usage(pid).with_context(|| format!("there is no process {pid} to look at"))?),
            None => None,
        };
        Ok(Self { at: Instant::now(), generator: usage(std::process::id()), server, machine_s: machine_cpu_s() })
    }

    /// Wall-clock seconds from `earlier`.
    pub fn seconds_since(&self, earlier: &Self) -> f64 {
        self.at.saturating_duration_since(earlier.at).as_secs_f64().max(1e-9)
    }

    /// The server's CPU seconds from `earlier`.
    pub fn server_cpu_since(&self, earlier: &Self) -> Option<f64> {
        Some((self.server?.cpu_s - earlier.server?.cpu_s).max(0.0))
    }

    /// Cores that neither the server nor this program used, but others (or the host). None if that is not known.
    pub fn others_since(&self, earlier: &Self) -> Option<f64> {
        let ours = self.generator?.cpu_s - earlier.generator?.cpu_s + self.server_cpu_since(earlier)?;
        Some(((self.machine_s? - earlier.machine_s? - ours) / self.seconds_since(earlier)).max(0.0))
    }

    /// The share of the time from `earlier` in which this program had something to do, with a core or waiting for one.
    pub fn generator_busy_since(&self, earlier: &Self) -> Option<f64> {
        let waited_s = self.generator?.waited_s - earlier.generator?.waited_s;
        Some(self.generator_share_since(earlier)? + waited_s / self.seconds_since(earlier))
    }

    /// This program's CPU as a share of one core from `earlier`.
    pub fn generator_share_since(&self, earlier: &Self) -> Option<f64> {
        Some((self.generator?.cpu_s - earlier.generator?.cpu_s) / self.seconds_since(earlier))
    }
}

/// Latencies and their course.
pub struct Course {
    /// From sending to arrival, of all.
    pub latency_us: Histogram<u64>,
    /// From sending to the acknowledgement, of all.
    pub ack_us: Histogram<u64>,
    /// The points so far.
    pub points: Vec<Point>,
    begin: Instant,
    next: Instant,
    of_point: Histogram<u64>,
    bar: ProgressBar,
}

impl Course {
    /// Begins now.
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr_with_hz(5) } else { ProgressDrawTarget::hidden() };
        let now = Instant::now();
        Self {
            latency_us: new_histogram(),
            ack_us: new_histogram(),
            points: Vec::new(),
            begin: now,
            next: now + POINT_EVERY,
            of_point: new_histogram(),
            bar: ProgressBar::with_draw_target(None, target),
        }
    }

    /// Forgets what came so far: the measurement begins.
    pub fn restart(&mut self) {
        let now = Instant::now();
        self.latency_us.reset();
        self.ack_us.reset();
        self.of_point.reset();
        self.points.clear();
        (self.begin, self.next) = (now, now + POINT_EVERY);
    }

    /// Something arrived.
    pub fn delivered(&mut self, age: Duration) {
        record(&mut self.of_point, age);
    }

    /// Something was acknowledged.
    pub fn acknowledged(&mut self, age: Duration) {
        record(&mut self.ack_us, age);
    }

    /// Ends a point if it is time; `stage` is for the progress line.
    pub fn tick(&mut self, now: Instant, stage: &str) {
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

    /// The measurement ends.
    pub fn finish(&mut self) {
        self.end_point(Instant::now());
        self.bar.finish_and_clear();
    }

    fn end_point(&mut self, now: Instant) {
        let since = (now + POINT_EVERY).saturating_duration_since(self.next).as_secs_f64().max(1e-9);
        self.points.push(Point {
            at_s: now.saturating_duration_since(self.begin).as_secs_f64(),
            per_s: self.of_point.len() as f64 / since,
            p50_us: self.of_point.value_at_quantile(0.50),
            p99_us: self.of_point.value_at_quantile(0.99),
        });
        // Adding up once a point: recording twice would cost each delivery twice.
        self.latency_us += &self.of_point;
        self.of_point.reset();
        self.next = now + POINT_EVERY;
    }
}
