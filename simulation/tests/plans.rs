//! Runs ten thousand plans, and checks that plans are deterministic. `SYNCLINE_SEED` replays one plan and prints each step;
//! `SYNCLINE_PLANS` sets the number of plans.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::cell::RefCell;
use std::rc::Rc;

use syncline_simulation::{run, run_many};

const PLANS: u64 = 10_000;
/// The number of plans that are run twice.
const TWICE: u64 = 60;
/// Events that must occur in at least one plan: a fault that never occurs is not tested.
const REQUIRED_EVENTS: [&str; 24] = [
    "all documents out of memory",
    "calm moments",
    "clients crashed",
    "connections cut",
    "connections ended by the server",
    "devices' disks failed",
    "disk errors",
    "documents deleted",
    "documents purged",
    "documents restored",
    "documents with pending updates",
    "documents with permanently pending updates",
    "edits acknowledged",
    "direct exchanges between pages",
    "histories replaced",
    "long silences",
    "register writes accepted",
    "server crashes",
    "server restarts",
    "slow readers resynced",
    "slow sessions",
    "snapshots",
    "syncs",
    "deletions reported",
];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|number| number.parse().unwrap())
}

#[test]
fn random_plans_keep_every_promise() {
    if let Some(seed) = number("SYNCLINE_SEED") {
        run(seed, Some(Box::new(|line| println!("{line}")))).unwrap();
        return;
    }
    let plans = number("SYNCLINE_PLANS").unwrap_or(PLANS);
    let summary = run_many(1..1 + plans, 10, |_, _| ());
    println!("{summary}");
    assert!(
        summary.failures.is_empty(),
        "replay a failure with SYNCLINE_SEED=... cargo run -p syncline-simulation\n{summary}"
    );
    for event in REQUIRED_EVENTS {
        assert!(summary.counts.0.get(event).is_some_and(|count| *count > 0), "no plan had: {event}\n{summary}");
    }
}

#[test]
fn same_seed_gives_the_same_plan() {
    for seed in 1..=TWICE {
        let run_traced = || {
            let lines = Rc::new(RefCell::new(Vec::new()));
            let trace = Rc::clone(&lines);
            let outcome = run(seed, Some(Box::new(move |line| trace.borrow_mut().push(line))));
            (lines.take(), outcome.map_err(|failure| failure.reason))
        };
        let (once, again) = (run_traced(), run_traced());
        let differs = once.0.iter().zip(&again.0).find(|(once, again)| once != again);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(once.1, again.1, "seed {seed}");
    }
}
