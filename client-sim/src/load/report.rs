//! The report of a load run, as text and as JSON.

use std::fmt;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::measure::Point;
use crate::report::Latency;

/// One measured value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figure {
    /// Key in the JSON report, unit last.
    pub key: &'static str,
    /// Label in the text report.
    pub name: &'static str,
    /// The value, in the unit of its key.
    pub value: f64,
}

/// Figures in the order of the text report; a map in JSON.
#[derive(Debug, Default)]
pub(super) struct Figures(Vec<Figure>);

impl Figures {
    /// Adds a figure.
    pub(super) fn add(&mut self, key: &'static str, name: &'static str, value: f64) {
        self.0.push(Figure { key, name, value });
    }

    /// Adds a figure if its value is known.
    pub(super) fn add_known(&mut self, key: &'static str, name: &'static str, value: Option<f64>) {
        if let Some(value) = value {
            self.add(key, name, value);
        }
    }

    /// Returns the value of a figure.
    pub(super) fn get(&self, key: &str) -> Option<f64> {
        self.0.iter().find(|figure| figure.key == key).map(|figure| figure.value)
    }
}

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for figure in &self.0 {
            map.serialize_entry(figure.key, &figure.value)?;
        }
        map.end()
    }
}

/// Report of a load run.
#[derive(Debug, Default, serde::Serialize)]
pub(super) struct Report {
    /// Whether every check passed.
    pub ok: bool,
    /// Failed checks.
    pub failures: Vec<String>,
    /// Remarks that are needed to interpret the figures.
    pub notes: Vec<String>,
    /// Name of the scenario.
    pub scenario: String,
    /// Description of the run.
    pub about: String,
    /// Server address.
    pub url: String,
    /// Wire protocol.
    pub dialect: String,
    /// Whether the server is the bare relay of this program.
    pub relay: bool,
    /// Length of the measurement.
    pub seconds: f64,
    /// CPU of this program during the measurement, as a share of one core.
    pub generator_share: Option<f64>,
    /// Share of the time in which this program was running or waiting for a core; at 1 it was never idle.
    pub generator_busy: Option<f64>,
    /// Whether this program was the bottleneck, so that the figures say little about the server.
    pub saturated: bool,
    /// The measured values.
    pub figures: Figures,
    /// Latency from sending to arrival.
    pub latency: Option<Latency>,
    /// Latency from sending to the server's SyncStatus (Hocuspocus) or echo (y-websocket). What these guarantee depends on
    /// the server.
    pub ack_latency: Option<Latency>,
    /// Throughput and latency over time.
    pub course: Vec<Point>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let relay = if self.relay { ", the bare relay" } else { "" };
        writeln!(f, "{}: {}", self.scenario, self.about)?;
        writeln!(f, "  at {} ({}{relay}), {:.2} s", self.url, self.dialect, self.seconds)?;
        for figure in &self.figures.0 {
            writeln!(f, "  {:<34} {}", figure.name, number(figure.value))?;
        }
        if let Some(latency) = &self.latency {
            writeln!(f, "  {:<34} {latency}", "latency")?;
        }
        if let Some(latency) = &self.ack_latency {
            writeln!(f, "  {:<34} {latency}", "acknowledgement")?;
        }
        if let Some(share) = self.generator_share {
            let busy =
                self.generator_busy.map_or(String::new(), |busy| format!(", busy {:.0} % of the time", 100.0 * busy));
            writeln!(f, "  {:<34} {:.0} % of a core{busy}", "generator CPU", 100.0 * share)?;
        }
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        for failure in &self.failures {
            writeln!(f, "  FAILED: {failure}")?;
        }
        f.write_str(if self.ok { "  every check passed" } else { "  the run FAILED" })
    }
}

/// Bytes as MiB.
pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

/// Formats 1234567 as 1,234,567.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a number with three significant digits; from 1000 on with all digits, grouped.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => {
            let sign = if value < 0.0 { "-" } else { "" };
            format!("{sign}{}", grouped(large.round() as u64))
        }
        large if large >= 100.0 => format!("{value:.0}"),
        large if large >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_rounds_to_three_digits_and_groups_thousands() {
        let written = [0.4567, 12.34, 123.4, 2_045_443.2, -1234.0].map(number);
        assert_eq!(written, ["0.46", "12.3", "123", "2,045,443", "-1,234"]);
    }

    #[test]
    fn figures_serialize_as_map_without_unknown_values() {
        let mut figures = Figures::default();
        figures.add("updates_per_s", "updates/s", 5.0);
        figures.add_known("rss_bytes", "memory", None);
        assert_eq!(serde_json::to_string(&figures).unwrap(), r#"{"updates_per_s":5.0}"#);
        assert_eq!((figures.get("updates_per_s"), figures.get("rss_bytes")), (Some(5.0), None));
    }
}
