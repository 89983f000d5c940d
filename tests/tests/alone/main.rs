//! Tests that measure the memory of their own process. Each begins with `let _alone = alone();`, so that they run one at a time
//! also under `cargo test`, where they share a process; cargo-nextest runs each in a process of its own.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a panic fails the test, and measurements are printed")]

mod bombs;
mod linear;
mod registers;
