//! The fuzz targets of `tests/src/fuzz/targets.rs`, each as a binary for cargo-fuzz.

use syncline_tests::fuzz::targets::TARGETS;

/// Runs the target `name` on `bytes`.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(target_name, _)| *target_name == name);
    target.expect("a known target name").1(bytes);
}
