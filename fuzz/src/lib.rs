//! The targets of `tests/src/fuzz/targets.rs`, one binary each for cargo-fuzz.

use syncline_tests::fuzz::targets::TARGETS;

/// Runs the target of this name.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(of, _)| *of == name);
    target.expect("a target of this name").1(bytes);
}
