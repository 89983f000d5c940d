//! Compares the ledger with the content of a replica, and replicas with each other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::{Debug, Display};

use super::edit::{EditKind, Id};
use super::view::View;
use super::{Ledger, Outcome};
use crate::faults::judgement::{Expected, judge};

/// Number of ids printed in one complaint.
const SHOWN: usize = 5;

/// Returns every fault of a replica whose document had these edits; empty when there is none.
pub(crate) fn check(ledger: &Ledger, view: &View) -> Vec<String> {
    let mut complaints = view.unexpected.clone();
    let deleted = superseded(ledger, EditKind::Delete);
    let unsure = ledger.of(EditKind::Delete).filter(|entry| entry.outcome == Outcome::Unknown).count();
    let text: Vec<String> = view.text.iter().map(Id::to_string).collect();
    once_each(ledger, EditKind::Insert, "the text", &text, &deleted, unsure, &mut complaints);
    let log: Vec<String> = view.log.iter().map(Id::to_string).collect();
    once_each(ledger, EditKind::Append, "the log", &log, &BTreeSet::new(), 0, &mut complaints);
    in_order(&view.log, &mut complaints);
    let keys: Vec<String> = view.map.keys().cloned().collect();
    once_each(ledger, EditKind::Map, "the map", &keys, &BTreeSet::new(), 0, &mut complaints);
    for (key, value) in view.map.iter().filter(|(key, value)| key != value) {
        complaints.push(format!("the map has {value} under {key}"));
    }
    once_each(ledger, EditKind::Push, "the list", &view.list, &BTreeSet::new(), 0, &mut complaints);
    counters(ledger, view, &mut complaints);
    last_writes(ledger, view, &mut complaints);
    choice(ledger, view, &mut complaints);
    complaints
}

/// The ids that accepted edits of this kind replaced.
fn superseded(ledger: &Ledger, kind: EditKind) -> BTreeSet<Id> {
    let replaced = ledger.of(kind).filter_map(|entry| match &entry.outcome {
        Outcome::Accepted(replaced) => Some(replaced.iter().copied()),
        _ => None,
    });
    replaced.flatten().collect()
}

/// Checks that every accepted edit of a kind is present once, or absent if it is in `gone`. `unsure` more may be absent.
fn once_each(
    ledger: &Ledger,
    kind: EditKind,
    place: &str,
    found: &[String],
    gone: &BTreeSet<Id>,
    unsure: usize,
    complaints: &mut Vec<String>,
) {
    let edits = ledger.of(kind).map(|entry| {
        let expected = match entry.outcome {
            Outcome::Accepted(_) if gone.contains(&entry.edit.id) => Expected::Never,
            Outcome::Accepted(_) => Expected::Once,
            Outcome::Failed => Expected::Never,
            Outcome::Unknown => Expected::AtMostOnce,
        };
        (entry.edit.id, expected)
    });
    let mut judgement = judge(edits, found.iter().map(String::as_str));
    if judgement.lost.len() <= unsure {
        judgement.lost.clear();
    }
    let (undeleted, failed): (Vec<Id>, Vec<Id>) = judgement.unwanted.iter().partition(|id| gone.contains(id));
    complain(complaints, "LOST", place, &judgement.lost);
    complain(complaints, "DOUBLED", place, &judgement.doubled);
    complain(complaints, "deleted but present", place, &undeleted);
    complain(complaints, "failed but present", place, &failed);
    complain(complaints, "present but never made", place, &judgement.unknown);
}

fn complain(complaints: &mut Vec<String>, what: &str, place: &str, ids: &[impl Display]) {
    if !ids.is_empty() {
        let shown: Vec<String> = ids.iter().take(SHOWN).map(ToString::to_string).collect();
        let more = if ids.len() > SHOWN { format!(" and {} more", ids.len() - SHOWN) } else { String::new() };
        complaints.push(format!("{what} in {place}: {}{more}", shown.join(", ")));
    }
}

/// Checks that each device's tokens in the log are in the order in which it appended them.
fn in_order(log: &[Id], complaints: &mut Vec<String>) {
    let mut newest: HashMap<u32, u32> = HashMap::new();
    for id in log {
        let before = newest.insert(id.device, id.number).unwrap_or(0);
        if before > id.number {
            complaints.push(format!("{id} comes after d{}-{before} in the log", id.device));
        }
    }
}

fn counters(ledger: &Ledger, view: &View, complaints: &mut Vec<String>) {
    // The sum of accepted increments, and every sum that the increments with unknown outcome can add.
    let (mut sure, mut unsure) = (0, BTreeSet::from([0]));
    for entry in ledger.of(EditKind::Count) {
        let amount = entry.edit.amount() as i64;
        match entry.outcome {
            Outcome::Accepted(_) => sure += amount,
            Outcome::Failed => {}
            Outcome::Unknown => unsure = unsure.iter().flat_map(|sum| [*sum, sum + amount]).collect(),
        }
    }
    let found = view.counter;
    if !unsure.contains(&(found - sure)) {
        let what = if found < sure { "LOST" } else { "DOUBLED" };
        complaints.push(format!("{what} in the counter: it is {found} instead of {sure}"));
    }
}

/// Checks that each key's value is a write that no other write replaced.
fn last_writes(ledger: &Ledger, view: &View, complaints: &mut Vec<String>) {
    let seen = superseded(ledger, EditKind::Last);
    let mut candidates: BTreeMap<String, Vec<Id>> = BTreeMap::new();
    for entry in ledger.of(EditKind::Last).filter(|entry| entry.outcome != Outcome::Failed) {
        let of = candidates.entry(entry.edit.key()).or_default();
        if !seen.contains(&entry.edit.id) {
            of.push(entry.edit.id);
        }
    }
    let sure = |key: &str| {
        ledger.of(EditKind::Last).any(|entry| entry.edit.key() == key && matches!(entry.outcome, Outcome::Accepted(_)))
    };
    for (key, candidates) in &candidates {
        match view.last.get(key) {
            Some(value) if candidates.iter().any(|id| id.to_string() == *value) => {}
            Some(value) => complaints.push(format!(
                "{key} is {value}, which was overwritten or never written; expected one of {}; writes: {}",
                list(candidates),
                history(ledger, key)
            )),
            None if sure(key) => complaints.push(format!("LOST: {key} has no value")),
            None => {}
        }
    }
    for key in view.last.keys().filter(|key| !candidates.contains_key(*key)) {
        complaints.push(format!("{key} has a value but was never written"));
    }
}

/// Every write of a key and the writes that it replaced, as text.
fn history(ledger: &Ledger, key: &str) -> String {
    let writes = ledger.of(EditKind::Last).filter(|entry| entry.edit.key() == key);
    let lines = writes.map(|entry| match &entry.outcome {
        Outcome::Accepted(replaced) => format!("{} over {}", entry.edit.id, list(replaced)),
        other => format!("{} {other:?}", entry.edit.id),
    });
    lines.collect::<Vec<_>>().join(", ")
}

/// Checks that the choice holds exactly the writes that no accepted write replaced.
fn choice(ledger: &Ledger, view: &View, complaints: &mut Vec<String>) {
    let seen = superseded(ledger, EditKind::Choice);
    // What an edit of unknown outcome replaced is not known: any other write may be gone.
    let unsure = ledger.of(EditKind::Choice).filter(|entry| entry.outcome == Outcome::Unknown).count();
    let unsure = if unsure > 0 { usize::MAX } else { 0 };
    once_each(ledger, EditKind::Choice, "the choice", &view.choice, &seen, unsure, complaints);
}

fn list(ids: &[Id]) -> String {
    ids.iter().map(Id::to_string).collect::<Vec<_>>().join(", ")
}

/// Describes each difference between two replicas; empty when they are equal.
pub(crate) fn differences(one: &View, other: &View) -> Vec<String> {
    let mut found = Vec::new();
    differ("text", &one.text, &other.text, &mut found);
    differ("log", &one.log, &other.log, &mut found);
    differ("map", &one.map, &other.map, &mut found);
    differ("list", &one.list, &other.list, &mut found);
    differ("counter", &one.counter, &other.counter, &mut found);
    differ("last", &one.last, &other.last, &mut found);
    differ("choice", &one.choice, &other.choice, &mut found);
    differ("registers", &one.registers, &other.registers, &mut found);
    differ("other roots", &one.foreign, &other.foreign, &mut found);
    differ("unexpected content", &one.unexpected, &other.unexpected, &mut found);
    differ("state vector", &one.state_vector, &other.state_vector, &mut found);
    found
}

fn differ<T: Debug + PartialEq>(what: &str, one: &T, other: &T, found: &mut Vec<String>) {
    if one != other {
        found.push(format!("{what}: {} in one replica, {} in the other", short(one), short(other)));
    }
}

fn short(value: &impl Debug) -> String {
    const MAX_CHARS: usize = 400;
    let text = format!("{value:?}");
    match text.char_indices().nth(MAX_CHARS) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}
