//! The check at the end: every reader, and a client that joins now, has the end text of the trace.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::TURN;
use super::plan::{Plan, difference, text_of};
use super::tracker::{ReceivedLog, Tracker};
use crate::load::session::{SessionEvent, Sessions};
use crate::peer::frame::Assembler;

/// Longest wait for a new client to join.
const JOIN_LIMIT: Duration = Duration::from_secs(30);

/// Number of readers whose failures are shown individually.
const MAX_SHOWN: usize = 5;

/// Rebuilds every reader's document from the updates that it received. Returns what is wrong, and the number of readers with
/// the expected text.
pub(super) fn check_readers(plan: &Plan, readers: &[Tracker]) -> (Vec<String>, usize) {
    let mut failures = Vec::new();
    // Readers that received the same updates in the same order have the same text: rebuild it once.
    let mut rebuilt: Vec<(&ReceivedLog, String)> = Vec::new();
    for (number, reader) in readers.iter().enumerate() {
        let (all, lacking) = (plan.edits.len(), plan.edits.len() - reader.arrived_count);
        if lacking > 0 {
            let first = reader.prefix();
            failures
                .push(format!("reader {number} lacks {lacking} of {all} updates, the first of them number {first}"));
            continue;
        }
        let known = rebuilt.iter().position(|(log, _)| **log == reader.log);
        let at = match known {
            Some(at) => at,
            None => match text_of(reader.log.updates(plan)) {
                Ok(text) => {
                    rebuilt.push((&reader.log, text));
                    rebuilt.len() - 1
                }
                Err(error) => {
                    failures.push(format!("reader {number}: {error:#}"));
                    continue;
                }
            },
        };
        if rebuilt[at].1 != plan.end {
            failures.push(format!("reader {number} has the wrong text: {}", difference(&rebuilt[at].1, &plan.end)));
        }
    }
    let complete = readers.len() - failures.len();
    if failures.len() > MAX_SHOWN {
        let more = failures.len() - MAX_SHOWN;
        failures.truncate(MAX_SHOWN);
        failures.push(format!("and {more} more readers"));
    }
    (failures, complete)
}

/// Joins with a new client and checks that the server sends it a document with the expected text.
pub(super) fn check_fresh_client(sessions: &mut Sessions, document: &str, end: &str) -> Result<()> {
    let fresh = sessions.connect(document)?;
    let (mut assembler, mut updates) = (Assembler::default(), Vec::new());
    let begin = Instant::now();
    while !sessions.all[fresh].joined() {
        sessions.turn(TURN, |connection, event, _| {
            let SessionEvent::Data { bytes, first, last } = event else { return };
            if connection == fresh {
                updates.extend(assembler.add(bytes, first, last).map(<[u8]>::to_vec));
            }
        })?;
        ensure!(begin.elapsed() < JOIN_LIMIT, "not in sync after {} s", JOIN_LIMIT.as_secs());
    }
    sessions.hub.cut(fresh);
    let text = text_of(updates.iter().map(Vec::as_slice))?;
    ensure!(text == end, "wrong text: {}", difference(&text, end));
    Ok(())
}
