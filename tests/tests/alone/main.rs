//! Tests that measure the memory of their own process. Each begins with `let _alone = alone();`, so that they run one after the
//! other also under `cargo test`, where they share the process; cargo-nextest gives each one of its own.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a panic fails the test, and a measurement is printed")]

mod bombs;
mod linear;
mod registers;
