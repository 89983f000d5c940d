//! The report of `syncline-sim replay`, as text and as JSON; latency histograms for all commands.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that histograms distinguish, in microseconds: ten minutes. Longer ones count as this.
const MAX_LATENCY_US: u64 = 600_000_000;

/// A histogram of latencies in microseconds, with three significant digits.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).expect("the bounds are constants and valid")
}

/// Records a latency.
pub fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    // `record` fails above the bound. (With automatic bounds `saturating_record` would cut at the current bound.)
    histogram.saturating_record(latency.as_micros() as u64);
}

/// A distribution of latencies, in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// Number of measurements.
    pub count: u64,
    /// Median.
    pub p50_us: u64,
    /// 95th percentile.
    pub p95_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// Maximum.
    pub max_us: u64,
}

impl Latency {
    /// Summarises a histogram; `None` when it is empty.
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        (!histogram.is_empty()).then(|| Self {
            count: histogram.len(),
            p50_us: histogram.value_at_quantile(0.50),
            p95_us: histogram.value_at_quantile(0.95),
            p99_us: histogram.value_at_quantile(0.99),
            max_us: histogram.max(),
        })
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us: u64| us as f64 / 1000.0;
        write!(
            f,
            "p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
            ms(self.p50_us),
            ms(self.p95_us),
            ms(self.p99_us),
            ms(self.max_us)
        )
    }
}

/// CPU and memory of the server process (`--pid`). CPU times have a resolution of 10 ms.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ServerUsage {
    /// CPU seconds from the first edit to the last arrival.
    pub cpu_s: f64,
    /// CPU time per edit.
    pub cpu_us_per_update: f64,
    /// CPU time per edit delivered to a reader.
    pub cpu_us_per_delivery: f64,
    /// Resident memory when all clients are connected and no edit is sent.
    pub rss_before_bytes: u64,
    /// Resident memory at the end.
    pub rss_after_bytes: u64,
}

/// Report of a replay.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether every check passed.
    pub ok: bool,
    /// Failed checks.
    pub failures: Vec<String>,
    /// Remarks that are needed to interpret the figures.
    pub notes: Vec<String>,
    /// File name of the trace.
    pub trace: String,
    /// Server address.
    pub url: String,
    /// Wire protocol.
    pub dialect: &'static str,
    /// Document name.
    pub document: String,
    /// Number of reader connections.
    pub readers: usize,
    /// Number of writer connections.
    pub writers: usize,
    /// Maximum number of edits in flight; 0: no limit.
    pub in_flight: usize,
    /// Number of edits in the trace; each is one update.
    pub updates: u64,
    /// Number of edits sent.
    pub updates_sent: u64,
    /// Edits received, summed over all readers.
    pub deliveries: u64,
    /// Seconds from the first edit sent to the last arrival.
    pub seconds: f64,
    /// Edits sent per second.
    pub updates_per_s: f64,
    /// Deliveries per second.
    pub deliveries_per_s: f64,
    /// Latency from sending to arrival at a reader.
    pub latency: Option<Latency>,
    /// Latency from sending to the server's SyncStatus (Hocuspocus) or echo (y-websocket). What these guarantee depends on
    /// the server.
    pub ack_latency: Option<Latency>,
    /// Frames sent by writers.
    pub frames_sent: u64,
    /// Bytes sent by writers, without WebSocket headers.
    pub bytes_sent: u64,
    /// Frames with document data received by readers. Fewer than deliveries when the server coalesces updates.
    pub frames_received: u64,
    /// Bytes received by readers, without WebSocket headers.
    pub bytes_received: u64,
    /// CPU seconds of this program, from the first edit to the last arrival.
    pub generator_cpu_s: Option<f64>,
    /// CPU and memory of the server; `None` without `--pid`.
    pub server: Option<ServerUsage>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
        let window = if self.in_flight == 0 { "no limit".into() } else { self.in_flight.to_string() };
        writeln!(f, "{} to {} ({}), document {}", self.trace, self.url, self.dialect, self.document)?;
        writeln!(f, "  writers: {}, readers: {}, in flight: {window}", self.writers, self.readers)?;
        writeln!(
            f,
            "  updates    {} of {} sent in {:.2} s: {:.0}/s",
            self.updates_sent, self.updates, self.seconds, self.updates_per_s
        )?;
        writeln!(
            f,
            "  deliveries {} in {} frames: {:.0}/s",
            self.deliveries, self.frames_received, self.deliveries_per_s
        )?;
        if let Some(latency) = &self.latency {
            writeln!(f, "  latency    {latency}")?;
        }
        if let Some(latency) = &self.ack_latency {
            writeln!(f, "  acks       {latency} ({} of {})", latency.count, self.updates_sent)?;
        }
        writeln!(
            f,
            "  bytes      {:.2} MiB sent, {:.2} MiB received (without WebSocket headers)",
            mib(self.bytes_sent),
            mib(self.bytes_received)
        )?;
        if let Some(cpu_s) = self.generator_cpu_s {
            writeln!(f, "  generator  {cpu_s:.2} s CPU, {:.0} % of a core", 100.0 * cpu_s / self.seconds)?;
        }
        if let Some(server) = &self.server {
            writeln!(
                f,
                "  server     {:.2} s CPU, {:.2} us per update, {:.2} us per delivery; memory {:.1} MiB, then {:.1} MiB",
                server.cpu_s,
                server.cpu_us_per_update,
                server.cpu_us_per_delivery,
                mib(server.rss_before_bytes),
                mib(server.rss_after_bytes)
            )?;
        }
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        for failure in &self.failures {
            writeln!(f, "  FAILED: {failure}")?;
        }
        if self.ok {
            write!(f, "  every reader, and a client that joined at the end, has the expected text")
        } else {
            write!(f, "  the run FAILED")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_keeps_latencies_of_different_magnitude() {
        let mut histogram = new_histogram();
        for latency_ms in [1, 50, 3_000] {
            record(&mut histogram, Duration::from_millis(latency_ms));
        }
        assert!(histogram.equivalent(histogram.value_at_quantile(0.5), 50_000));
        assert!(histogram.equivalent(histogram.max(), 3_000_000));
    }
}
