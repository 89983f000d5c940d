//! Fuzzing: the targets and their seed inputs. `tests/tests/it/formats/fuzz.rs` runs the targets on stable Rust,
//! `fuzz/` runs them with cargo-fuzz.

pub mod seeds;
pub mod targets;

mod pipe;
mod session;
