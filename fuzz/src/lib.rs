//! The fuzz targets of `tests/tests/fuzz.rs`, each as a binary for cargo-fuzz.

#[path = "../../tests/tests/support/fuzz_targets.rs"]
mod fuzz_targets;

/// Runs the target `name` on `bytes`.
pub fn run(name: &str, bytes: &[u8]) {
    let target = fuzz_targets::TARGETS.iter().find(|(target_name, _)| *target_name == name);
    target.expect("a known target name").1(bytes);
}
