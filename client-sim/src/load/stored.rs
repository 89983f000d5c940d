//! Documents that lie on the server: `cold-open` and `held-open`, and how they get there.
//!
//! With `--prepare` an editing session is sent into a document, two hundred keystrokes a message. Then the server is
//! restarted (by whoever runs this: it is theirs), and without `--prepare` the same document is opened.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::RngExt;
use yrs::updates::decoder::Decode;
use yrs::{Doc, ReadTxn, StateVector, Transact, Update};

use super::measure::Look;
use super::report::{Figures, Report, mib};
use super::session::{Sessions, Target};
use crate::replay::plan::{Plan, Sharing};
use crate::replay::trace;

/// Keystrokes in a message.
const MESSAGE_EDITS: usize = 200;
/// Messages that leave at once.
const MESSAGES_AT_ONCE: usize = 16;
/// Nothing more comes when nothing came for so long.
const QUIET: Duration = Duration::from_millis(500);
/// A server that acknowledges does it within this time.
const SAVED: Duration = Duration::from_secs(3);
/// Longest wait in a turn: these scenarios measure single milliseconds, and events end a turn.
const TURN: Duration = Duration::from_millis(20);

/// What to do with the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Fill it.
    Prepare,
    /// Open it twice.
    Cold,
    /// Hold it open, and then let it be quiet for so long.
    Held(Duration),
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The document.
    pub document: Option<String>,
    /// The editing session in it.
    pub trace: PathBuf,
    /// What is done.
    pub act: Act,
}

/// Runs it and reports.
pub fn run(target: &Target, job: &Stored, name: &str) -> Result<Report> {
    let document = match (&job.document, job.act) {
        (Some(document), _) => document.clone(),
        (None, Act::Prepare) => format!("load-{:08x}", rand::rng().random::<u32>()),
        (None, _) => anyhow::bail!(
            "which document? Fill one with --prepare --document NAME, restart the server, and give the same --document"
        ),
    };
    let mut report = match job.act {
        Act::Prepare => prepare(target, &document, &job.trace)?,
        Act::Cold => cold(target, &document)?,
        Act::Held(quiet) => held(target, &document, quiet)?,
    };
    (report.ok, report.scenario) = (true, name.to_owned());
    Ok(report)
}

fn prepare(target: &Target, document: &str, file: &Path) -> Result<Report> {
    let plan = plan_of(file, 1 << 31 | 1)?;
    let mut sessions = Sessions::new(target.clone())?;
    let writer = sessions.connect(document)?;
    until(&mut sessions, |sessions| sessions.joined == 1, "the document was not opened")?;
    ensure!(sessions.all[writer].data_bytes <= 2, "{document} is not empty; choose another with --document");
    let before = Look::now(target.pid)?;
    let updates: Vec<&[u8]> = plan.edits.iter().map(|edit| &edit.update[..]).collect();
    for (number, group) in updates.chunks(MESSAGE_EDITS).enumerate() {
        let merged = yrs::merge_updates_v1(group.iter().copied()).context("updates of the trace cannot be merged")?;
        let message = sessions.target.dialect.update(document, &merged);
        sessions.say(writer, &message)?;
        if number % MESSAGES_AT_ONCE == 0 {
            sessions.turn(Duration::from_millis(1), |_, _, _| {})?;
        }
    }
    quiet(&mut sessions, SAVED)?;
    let after = Look::now(target.pid)?;
    let mut figures = Figures::default();
    figures.add("edits", "keystrokes sent", plan.edits.len() as f64);
    Ok(Report {
        about: format!("{} sent into the document {document}", file.display()),
        relay: sessions.relay,
        seconds: after.seconds_since(&before),
        figures,
        ..Report::default()
    })
}

/// The updates of a trace by one client.
fn plan_of(file: &Path, client: u64) -> Result<Plan> {
    Plan::new(&trace::load(file)?, super::marker::ROOT, Sharing { writers: 1, turn: 1 }, &[client])
}

/// A document of at least `edits` keystrokes, encoded: the trace, typed by one client after another.
pub fn long_document(file: &Path, edits: usize) -> Result<(Vec<u8>, usize)> {
    let (doc, mut all) = (Doc::new(), 0);
    for client in 1.. {
        let plan = plan_of(file, client)?;
        let mut txn = doc.transact_mut();
        for edit in &plan.edits {
            txn.apply_update(Update::decode_v1(&edit.update)?)?;
        }
        all += plan.edits.len();
        if all >= edits {
            break;
        }
    }
    let state = doc.transact().encode_state_as_update_v1(&StateVector::default());
    Ok((state, all))
}

/// What one opening cost.
struct Opened {
    answered: Duration,
    complete: Duration,
    bytes: u64,
    cpu_s: Option<f64>,
}

fn open(sessions: &mut Sessions, document: &str) -> Result<Opened> {
    let before = Look::now(sessions.target.pid)?;
    let begin = Instant::now();
    let number = sessions.connect(document)?;
    let (mut answered, mut last) = (None, begin);
    while last.elapsed() < QUIET || answered.is_none() {
        ensure!(begin.elapsed() < sessions.target.stall, "{document} was not opened");
        sessions.turn(TURN, |connection, said, now| {
            use super::session::Said;
            match said {
                Said::Joined if connection == number => answered = Some(now - begin),
                Said::Data { .. } if connection == number => last = now,
                _ => {}
            }
        })?;
    }
    let after = Look::now(sessions.target.pid)?;
    Ok(Opened {
        answered: answered.unwrap_or_default(),
        complete: last - begin,
        bytes: sessions.all[number].data_bytes,
        cpu_s: after.server_cpu_since(&before),
    })
}

fn cold(target: &Target, document: &str) -> Result<Report> {
    let mut sessions = Sessions::new(target.clone())?;
    let first = open(&mut sessions, document)?;
    let second = open(&mut sessions, document)?;
    ensure!(first.bytes > 2, "the document {document} is empty: prepare it first, and restart the server");
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let mut figures = Figures::default();
    figures.add("first_ms", "first client has all, ms", ms(first.complete));
    figures.add("first_answer_ms", "first client is answered, ms", ms(first.answered));
    figures.add("second_ms", "second client has all, ms", ms(second.complete));
    figures.add("first_bytes", "bytes to the first", first.bytes as f64);
    figures.add("second_bytes", "bytes to the second", second.bytes as f64);
    figures.add_known("first_cpu_ms", "server CPU for the first, ms", first.cpu_s.map(|cpu| cpu * 1e3));
    figures.add_known("second_cpu_ms", "server CPU for the second, ms", second.cpu_s.map(|cpu| cpu * 1e3));
    Ok(Report {
        about: format!("the document {document} opened twice, connecting included"),
        relay: sessions.relay,
        seconds: (first.complete + second.complete).as_secs_f64(),
        figures,
        ..Report::default()
    })
}

fn held(target: &Target, document: &str, time: Duration) -> Result<Report> {
    let mut sessions = Sessions::new(target.clone())?;
    let before = Look::now(target.pid)?;
    let opened = open(&mut sessions, document)?;
    ensure!(opened.bytes > 2, "the document {document} is empty: prepare it first, and restart the server");
    let open = Look::now(target.pid)?;
    let begin = Instant::now();
    while begin.elapsed() < time {
        sessions.turn(QUIET, |_, _, _| {})?;
    }
    let after = Look::now(target.pid)?;
    let grown = |look: &Look| Some(mib(look.server?.rss_bytes.saturating_sub(before.server?.rss_bytes)));
    let mut figures = Figures::default();
    figures.add("encoded_mib", "the document, encoded, MiB", mib(opened.bytes));
    figures.add_known("rss_before_mib", "server memory before, MiB", before.server.map(|it| mib(it.rss_bytes)));
    figures.add_known("open_mib", "more with it open, MiB", grown(&open));
    figures.add_known("quiet_mib", "more after it was quiet, MiB", grown(&after));
    Ok(Report {
        about: format!("the document {document} held open, then quiet for {} s", time.as_secs()),
        relay: sessions.relay,
        seconds: after.seconds_since(&before),
        figures,
        ..Report::default()
    })
}

/// Turns until something is so.
pub fn until(sessions: &mut Sessions, so: impl Fn(&Sessions) -> bool, otherwise: &str) -> Result<()> {
    let begin = Instant::now();
    while !so(sessions) {
        ensure!(begin.elapsed() < sessions.target.stall, "{otherwise}");
        sessions.turn(TURN, |_, _, _| {})?;
    }
    Ok(())
}

/// Turns until nothing has come for `time`.
pub fn quiet(sessions: &mut Sessions, time: Duration) -> Result<()> {
    let mut last = Instant::now();
    while last.elapsed() < time {
        sessions.turn(TURN, |_, _, now| last = now)?;
    }
    Ok(())
}
