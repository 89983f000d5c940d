//! What a run found, for people and as JSON.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency told from longer ones: ten minutes.
const MAX_LATENCY_US: u64 = 600_000_000;

/// For latencies in microseconds, to three digits.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).expect("the bounds are constants and valid")
}

/// Notes a latency.
pub fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    // Not `record`: that fails above the bound. (With automatic bounds this one would cut at the bound of the moment.)
    histogram.saturating_record(latency.as_micros() as u64);
}

/// A distribution of latencies, in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Median.
    pub p50_us: u64,
    /// 95 of 100 are at most this.
    pub p95_us: u64,
    /// 99 of 100 are at most this.
    pub p99_us: u64,
    /// The worst.
    pub max_us: u64,
}

impl Latency {
    /// None when nothing was measured.
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

/// What the server process used (`--pid`). CPU times come in steps of 10 ms.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ServerUsage {
    /// CPU seconds from the first edit to the last arrival.
    pub cpu_s: f64,
    /// The same for each edit.
    pub cpu_us_per_update: f64,
    /// The same for each edit delivered to a reader.
    pub cpu_us_per_delivery: f64,
    /// Resident memory, everybody connected, nothing sent.
    pub rss_before_bytes: u64,
    /// Resident memory at the end.
    pub rss_after_bytes: u64,
}

/// The whole report.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Every check passed.
    pub ok: bool,
    /// What did not.
    pub failures: Vec<String>,
    /// What a reader of the figures must know.
    pub notes: Vec<String>,
    /// The trace's file name.
    pub trace: String,
    /// Server address.
    pub url: String,
    /// Wire format.
    pub dialect: &'static str,
    /// Document name.
    pub document: String,
    /// Reader connections.
    pub readers: usize,
    /// Writer connections.
    pub writers: usize,
    /// Window of edits in flight; 0: none.
    pub in_flight: usize,
    /// Edits in the trace: one update each.
    pub updates: u64,
    /// Edits sent.
    pub updates_sent: u64,
    /// Edits that arrived, all readers together.
    pub deliveries: u64,
    /// From the first edit sent to the last arrival.
    pub seconds: f64,
    /// Edits sent in a second.
    pub updates_per_s: f64,
    /// Deliveries in a second.
    pub deliveries_per_s: f64,
    /// From sending to arrival at a reader.
    pub latency: Option<Latency>,
    /// From sending to the server's SyncStatus (Hocuspocus) or echo (y-websocket). What it promises is up to the
    /// server.
    pub ack_latency: Option<Latency>,
    /// Frames sent by writers.
    pub frames_sent: u64,
    /// Bytes of these, WebSocket headers not counted.
    pub bytes_sent: u64,
    /// Frames with document data received by readers. Fewer than deliveries when the server merges updates.
    pub frames_received: u64,
    /// Bytes received by readers, WebSocket headers not counted.
    pub bytes_received: u64,
    /// CPU seconds of this program, same span.
    pub generator_cpu_s: Option<f64>,
    /// The server's.
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
                "  server     {:.2} s CPU, {:.2} us an update, {:.2} us a delivery; memory {:.1} MiB, then {:.1} MiB",
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
            write!(f, "  every reader, and a client that joined at the end, has the right text")
        } else {
            write!(f, "  the run FAILED")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_recorded_as_they_are() {
        let mut histogram = new_histogram();
        for latency_ms in [1, 50, 3_000] {
            record(&mut histogram, Duration::from_millis(latency_ms));
        }
        assert!(histogram.equivalent(histogram.value_at_quantile(0.5), 50_000));
        assert!(histogram.equivalent(histogram.max(), 3_000_000));
    }
}
