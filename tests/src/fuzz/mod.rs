//! Fuzzing: the targets, and the inputs to begin with. `tests/tests/it/formats/fuzz.rs` runs them on stable Rust, `fuzz/` with
//! cargo-fuzz.

pub mod seeds;
pub mod targets;

mod pipe;
mod session;
