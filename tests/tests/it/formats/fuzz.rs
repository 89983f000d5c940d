//! Runs every fuzz target with real messages, and with mutated ones for some seconds: on stable Rust, in every test run.
//!
//! `SYNCLINE_FUZZ_SECONDS=<n>` runs for longer, `SYNCLINE_FUZZ_TARGET=<name>` runs one target, `SYNCLINE_SEED=<seed>` replays a
//! run. A failure prints the target, the seed and the bytes. `fuzz/` runs the same targets with cargo-fuzz.

use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use syncline_tests::fuzz::seeds;
use syncline_tests::fuzz::targets::TARGETS;
use syncline_tests::spoil::spoil;

const DEFAULT_SECONDS: u64 = 20;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn run(name: &str, target: fn(&[u8]), bytes: &[u8], seed: u64) {
    assert!(
        catch_unwind(|| target(bytes)).is_ok(),
        "target {name} failed; SYNCLINE_SEED={seed}, bytes {}",
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    );
}

#[test]
fn fuzz_targets_pass_with_real_and_mutated_inputs() {
    let seed = from_environment("SYNCLINE_SEED").unwrap_or_else(rand::random);
    let seconds = from_environment("SYNCLINE_FUZZ_SECONDS").unwrap_or(DEFAULT_SECONDS);
    println!("SYNCLINE_SEED={seed}");
    let messages = seeds::messages();
    let mut rng = StdRng::seed_from_u64(seed);
    let only = std::env::var("SYNCLINE_FUZZ_TARGET").ok();
    let targets: Vec<_> = TARGETS.iter().filter(|(name, _)| only.as_ref().is_none_or(|only| only == name)).collect();
    assert!(!targets.is_empty(), "no target of this name");
    for (name, target) in &targets {
        // Inputs of this target are chosen as often as all others together.
        let own = [seeds::of(name), seeds::committed(name)].concat();
        assert!(!seeds::committed(name).is_empty(), "no corpus for {name}: see write_the_corpus");
        for bytes in own.iter().chain(&messages) {
            run(name, *target, bytes, seed);
        }
        let (began, mut runs) = (Instant::now(), 0_u64);
        while began.elapsed() < Duration::from_secs(seconds) / targets.len() as u32 {
            let from = if rng.random_bool(0.5) { &own } else { &messages };
            let mut bytes = from[rng.random_range(0..from.len())].clone();
            spoil(&mut bytes, from, &mut rng);
            run(name, *target, &bytes, seed);
            runs += 1;
        }
        println!("{name}: {} real inputs, {runs} mutated ones", own.len() + messages.len());
    }
}

/// Creates the missing directories in `fuzz/corpus`, each with a few short seeds of its target.
#[test]
// A tool, not a check: it generates seed files and asserts nothing.
#[ignore = "generates files in fuzz/corpus; run by hand when a fuzz target is added"]
fn write_the_corpus() {
    const MAX_TARGET_BYTES: usize = 10_000;
    for (name, _) in TARGETS {
        let directory = seeds::directory(name);
        if directory.exists() {
            continue;
        }
        std::fs::create_dir_all(&directory).unwrap();
        let own = seeds::of(name);
        let messages = if own.is_empty() { seeds::messages() } else { Vec::new() };
        let some = messages.iter().step_by(71).filter(|bytes| bytes.len() < 300);
        let mut left = MAX_TARGET_BYTES;
        for (number, bytes) in own.iter().chain(some).enumerate() {
            if bytes.len() <= left {
                left -= bytes.len();
                std::fs::write(directory.join(format!("seed-{number:03}")), bytes).unwrap();
            }
        }
    }
}
