//! The targets of `tests/tests/fuzz.rs`, one binary each for cargo-fuzz.

#[path = "../../tests/tests/support/fuzz_targets.rs"]
mod fuzz_targets;

/// Runs the target of this name.
pub fn run(name: &str, bytes: &[u8]) {
    let target = fuzz_targets::TARGETS.iter().find(|(of, _)| *of == name);
    target.expect("a target of this name").1(bytes);
}
