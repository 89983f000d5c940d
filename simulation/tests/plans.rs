//! Ten thousand plans, and that a plan is the same each time. `SYNCLINE_SEED` replays one, told step by step;
//! `SYNCLINE_PLANS` runs more.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::cell::RefCell;
use std::rc::Rc;

use syncline_simulation::{many, run};

const PLANS: u64 = 10_000;
/// Plans that are run twice.
const TWICE: u64 = 60;
/// What plans must have reached: a fault that never happens tests nothing.
const REACHED: [&str; 24] = [
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
    "documents with updates that wait",
    "documents with updates that wait for ever",
    "edits acknowledged",
    "heard past the server",
    "histories replaced",
    "long silences",
    "register writes taken",
    "server crashes",
    "server restarts",
    "slow readers brought up to date",
    "slow sessions",
    "snapshots",
    "syncs",
    "told of a deletion",
];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|number| number.parse().unwrap())
}

#[test]
fn every_promise_is_kept_whatever_happens() {
    if let Some(seed) = number("SYNCLINE_SEED") {
        run(seed, Some(Box::new(|line| println!("{line}")))).unwrap();
        return;
    }
    let plans = number("SYNCLINE_PLANS").unwrap_or(PLANS);
    let ran = many(1..1 + plans, 10);
    println!("{ran}");
    assert!(ran.failures.is_empty(), "replay one: SYNCLINE_SEED=... cargo run -p syncline-simulation\n{ran}");
    for what in REACHED {
        assert!(ran.counts.0.get(what).is_some_and(|count| *count > 0), "no plan reached: {what}\n{ran}");
    }
}

#[test]
fn the_same_seed_gives_the_same_plan() {
    for seed in 1..=TWICE {
        let tell = || {
            let lines = Rc::new(RefCell::new(Vec::new()));
            let told = Rc::clone(&lines);
            let outcome = run(seed, Some(Box::new(move |line| told.borrow_mut().push(line))));
            (lines.take(), outcome.map_err(|failure| failure.reason))
        };
        let (once, again) = (tell(), tell());
        let differs = once.0.iter().zip(&again.0).find(|(once, again)| once != again);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(once.1, again.1, "seed {seed}");
    }
}
