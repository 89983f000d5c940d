//! Latencies: histograms, and their summary in reports.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that histograms distinguish, in microseconds: ten minutes. Longer ones count as this.
const MAX_LATENCY_US: u64 = 600_000_000;

/// A histogram of latencies in microseconds, with three significant digits.
pub(crate) fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).expect("the bounds are constants and valid")
}

/// Records a latency.
pub(crate) fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    // `record` fails above the bound. (With automatic bounds `saturating_record` would cut at the current bound.)
    histogram.saturating_record(latency.as_micros() as u64);
}

/// A distribution of latencies, in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Latency {
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
    pub(crate) fn of(histogram: &Histogram<u64>) -> Option<Self> {
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
