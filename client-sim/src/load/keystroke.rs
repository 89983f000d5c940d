//! `keystroke`: the cost of a keystroke in an empty document, and in a document with a long history.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::report::{Figures, Report};
use super::session::Target;
use super::stored::long_document;
use super::traffic::{self, Traffic};

/// Parameters of a keystroke run.
#[derive(Debug, Clone)]
pub(super) struct Keystroke {
    /// The traffic that is measured in both documents.
    pub traffic: Traffic,
    /// Trace file from which the long document is built.
    pub trace: PathBuf,
    /// Minimum number of edits in the long document.
    pub edits: usize,
}

/// Measures both documents, one after the other.
pub(super) fn run(target: &Target, job: &Keystroke, name: &str) -> Result<Report> {
    let (state, edits) = long_document(&job.trace, job.edits)?;
    let empty = traffic::run(target, &job.traffic, name)?;
    let mut long = traffic::run(target, &Traffic { prefill: Some(state), ..job.traffic.clone() }, name)?;
    let mut figures = Figures::default();
    let value = |report: &Report, key: &str| report.figures.get(key).with_context(|| format!("{key} was not measured"));
    figures.add("edits", "edits in the long document", edits as f64);
    figures.add("empty_updates_per_s", "updates/s, empty document", value(&empty, "updates_per_s")?);
    figures.add("long_updates_per_s", "updates/s, long document", value(&long, "updates_per_s")?);
    if target.pid.is_some() && empty.ok && long.ok {
        let (empty_us, long_us) = (value(&empty, "cpu_us_per_update")?, value(&long, "cpu_us_per_update")?);
        figures.add("empty_cpu_us", "server CPU, us per keystroke, empty", empty_us);
        figures.add("long_cpu_us", "server CPU, us per keystroke, long", long_us);
        figures.add("ratio", "long to empty", long_us / empty_us.max(f64::MIN_POSITIVE));
    }
    long.ok &= empty.ok;
    long.failures.extend(empty.failures);
    let larger = |one: Option<f64>, other: Option<f64>| one.into_iter().chain(other).reduce(f64::max);
    long.generator_share = larger(long.generator_share, empty.generator_share);
    long.generator_busy = larger(long.generator_busy, empty.generator_busy);
    long.about = format!("{}; then the same in a document of {edits} edits", job.traffic.about());
    Ok(Report { figures, ..long })
}
