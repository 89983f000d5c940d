//! `keystroke`: what one costs in an empty document, and in one with a long history.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::report::{Figures, Report};
use super::session::Target;
use super::stored::long_document;
use super::traffic::{self, Traffic};

/// What to do.
#[derive(Debug, Clone)]
pub struct Keystroke {
    /// The keystrokes.
    pub traffic: Traffic,
    /// An editing session to make the long document of.
    pub trace: PathBuf,
    /// Its edits, at least.
    pub edits: usize,
}

/// Measures both, one after the other.
pub fn run(target: &Target, job: &Keystroke, name: &str) -> Result<Report> {
    let (state, edits) = long_document(&job.trace, job.edits)?;
    let empty = traffic::run(target, &job.traffic, name)?;
    let mut long = traffic::run(target, &Traffic { prefill: Some(state), ..job.traffic.clone() }, name)?;
    let mut figures = Figures::default();
    let value = |report: &Report, key: &str| report.figures.get(key).with_context(|| format!("no {key} was measured"));
    figures.add("edits", "edits in the long document", edits as f64);
    figures.add("empty_updates_per_s", "updates/s, empty document", value(&empty, "updates_per_s")?);
    figures.add("long_updates_per_s", "updates/s, long document", value(&long, "updates_per_s")?);
    if target.pid.is_some() && empty.ok && long.ok {
        let (short, much) = (value(&empty, "cpu_us_per_update")?, value(&long, "cpu_us_per_update")?);
        figures.add("empty_cpu_us", "server CPU, us a keystroke, empty", short);
        figures.add("long_cpu_us", "server CPU, us a keystroke, long", much);
        figures.add("ratio", "long to empty", much / short.max(f64::MIN_POSITIVE));
    }
    long.ok &= empty.ok;
    long.failures.extend(empty.failures);
    let most = |one: Option<f64>, other: Option<f64>| one.into_iter().chain(other).reduce(f64::max);
    long.generator_share = most(long.generator_share, empty.generator_share);
    long.generator_busy = most(long.generator_busy, empty.generator_busy);
    long.about = format!("{}; then the same in a document of {edits} edits", job.traffic.about());
    Ok(Report { figures, ..long })
}
