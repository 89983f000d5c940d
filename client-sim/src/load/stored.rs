//! Documents stored on the server: `cold-open` and `held-open`.
//!
//! With `--prepare` an editing session is sent into a document, two hundred keystrokes per message. The user then restarts
//! the server and runs the scenario without `--prepare`, which opens the same document.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::RngExt;
use yrs::updates::decoder::Decode;
use yrs::{Doc, ReadTxn, StateVector, Transact, Update};

use super::measure::UsageSample;
use super::report::{Figures, Report, mib};
use super::session::{Sessions, Target};
use super::trace::file;
use super::trace::plan::Plan;

/// Keystrokes per message.
const MESSAGE_EDITS: usize = 200;
/// Messages sent between two turns of the event loop.
const MESSAGES_PER_TURN: usize = 16;
/// A document counts as complete when nothing has arrived for this long.
const QUIET: Duration = Duration::from_millis(500);
/// The server has saved everything when nothing has arrived for this long.
const SAVE_WAIT: Duration = Duration::from_secs(3);
/// Longest wait in one turn of the event loop; an event ends a turn earlier, so milliseconds can be measured.
const TURN: Duration = Duration::from_millis(20);

/// What a run does with the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Fill it.
    Prepare,
    /// Open it twice.
    Cold,
    /// Keep it open for this long without edits.
    Held(Duration),
}

/// Parameters of a run with a stored document.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// Name of the document; `None`: a random one, for `Prepare` only.
    pub document: Option<String>,
    /// Trace file to fill it with.
    pub trace: PathBuf,
    /// What the run does.
    pub action: Action,
}

/// Runs the scenario and returns its report.
pub(super) fn run(target: &Target, stored: &Stored, name: &str) -> Result<Report> {
    let document = match (&stored.document, stored.action) {
        (Some(document), _) => document.clone(),
        (None, Action::Prepare) => format!("load-{:08x}", rand::rng().random::<u32>()),
        (None, _) => anyhow::bail!(
            "--document is missing: fill a document with --prepare --document NAME, restart the server, and run again \
             without --prepare"
        ),
    };
    let mut report = match stored.action {
        Action::Prepare => prepare(target, &document, &stored.trace)?,
        Action::Cold => cold(target, &document)?,
        Action::Held(quiet) => held(target, &document, quiet)?,
    };
    (report.ok, report.scenario) = (true, name.to_owned());
    Ok(report)
}

fn prepare(target: &Target, document: &str, file: &Path) -> Result<Report> {
    let plan = plan_of(file, 1 << 31 | 1)?;
    let mut sessions = Sessions::new(target.clone())?;
    let writer = sessions.connect(document)?;
    wait_until(&mut sessions, |sessions| sessions.joined == 1, "the document was not opened in time")?;
    ensure!(sessions.all[writer].data_bytes <= 2, "{document} is not empty; choose another with --document");
    let before = UsageSample::now(target.pid)?;
    let updates: Vec<&[u8]> = plan.edits.iter().map(|edit| &edit.update[..]).collect();
    for (number, group) in updates.chunks(MESSAGE_EDITS).enumerate() {
        let merged = yrs::merge_updates_v1(group.iter().copied()).context("cannot merge updates of the trace")?;
        let message = sessions.all[writer].update(&merged);
        sessions.send_message(writer, &message)?;
        if number % MESSAGES_PER_TURN == 0 {
            sessions.turn(Duration::from_millis(1), |_, _, _| {})?;
        }
    }
    wait_until_quiet(&mut sessions, SAVE_WAIT)?;
    let after = UsageSample::now(target.pid)?;
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

/// The updates of a trace, typed by one client.
fn plan_of(path: &Path, client: u64) -> Result<Plan> {
    Plan::new(&file::load(path)?, client)
}

/// Builds a document of at least `edits` keystrokes: the trace, typed by one client after another. Returns the encoded state
/// and the number of keystrokes.
pub(super) fn long_document(file: &Path, edits: usize) -> Result<(Vec<u8>, usize)> {
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

/// Cost of opening a document once.
struct Opened {
    /// Time until the session had joined.
    answered: Duration,
    /// Time until the last document data.
    complete: Duration,
    bytes: u64,
    cpu_s: Option<f64>,
}

fn open(sessions: &mut Sessions, document: &str) -> Result<Opened> {
    let before = UsageSample::now(sessions.target.pid)?;
    let begin = Instant::now();
    let number = sessions.connect(document)?;
    let (mut answered, mut last) = (None, begin);
    while last.elapsed() < QUIET || answered.is_none() {
        ensure!(begin.elapsed() < sessions.target.stall, "{document} was not opened in time");
        sessions.turn(TURN, |connection, event, now| {
            use super::session::SessionEvent;
            match event {
                SessionEvent::Joined if connection == number => answered = Some(now - begin),
                SessionEvent::Data { .. } if connection == number => last = now,
                _ => {}
            }
        })?;
    }
    let after = UsageSample::now(sessions.target.pid)?;
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
    ensure!(
        first.bytes > 2,
        "the document {document} is empty; fill it with --prepare, restart the server, and run again"
    );
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let mut figures = Figures::default();
    figures.add("first_ms", "first client complete, ms", ms(first.complete));
    figures.add("first_answer_ms", "first client answered, ms", ms(first.answered));
    figures.add("second_ms", "second client complete, ms", ms(second.complete));
    figures.add("first_bytes", "bytes to the first client", first.bytes as f64);
    figures.add("second_bytes", "bytes to the second client", second.bytes as f64);
    figures.add_known("first_cpu_ms", "server CPU, first client, ms", first.cpu_s.map(|cpu| cpu * 1e3));
    figures.add_known("second_cpu_ms", "server CPU, second client, ms", second.cpu_s.map(|cpu| cpu * 1e3));
    Ok(Report {
        about: format!("the document {document} opened twice, including the connection"),
        relay: sessions.relay,
        seconds: (first.complete + second.complete).as_secs_f64(),
        figures,
        ..Report::default()
    })
}

fn held(target: &Target, document: &str, time: Duration) -> Result<Report> {
    let mut sessions = Sessions::new(target.clone())?;
    let before = UsageSample::now(target.pid)?;
    let opened = open(&mut sessions, document)?;
    ensure!(
        opened.bytes > 2,
        "the document {document} is empty; fill it with --prepare, restart the server, and run again"
    );
    let open = UsageSample::now(target.pid)?;
    let begin = Instant::now();
    while begin.elapsed() < time {
        sessions.turn(QUIET, |_, _, _| {})?;
    }
    let after = UsageSample::now(target.pid)?;
    let growth = |sample: &UsageSample| Some(mib(sample.server?.rss_bytes.saturating_sub(before.server?.rss_bytes)));
    let mut figures = Figures::default();
    figures.add("encoded_mib", "encoded document, MiB", mib(opened.bytes));
    figures.add_known("rss_before_mib", "server memory before, MiB", before.server.map(|it| mib(it.rss_bytes)));
    figures.add_known("open_mib", "added when open, MiB", growth(&open));
    figures.add_known("quiet_mib", "added after the quiet time, MiB", growth(&after));
    Ok(Report {
        about: format!("the document {document} opened, then left without edits for {} s", time.as_secs()),
        relay: sessions.relay,
        seconds: after.seconds_since(&before),
        figures,
        ..Report::default()
    })
}

/// Runs turns until `condition` holds; fails with `message` when that takes too long.
pub(super) fn wait_until(sessions: &mut Sessions, condition: impl Fn(&Sessions) -> bool, message: &str) -> Result<()> {
    let begin = Instant::now();
    while !condition(sessions) {
        ensure!(begin.elapsed() < sessions.target.stall, "{message}");
        sessions.turn(TURN, |_, _, _| {})?;
    }
    Ok(())
}

/// Runs turns until nothing has arrived for `time`.
pub(super) fn wait_until_quiet(sessions: &mut Sessions, time: Duration) -> Result<()> {
    let mut last = Instant::now();
    while last.elapsed() < time {
        sessions.turn(TURN, |_, _, now| last = now)?;
    }
    Ok(())
}
