//! `cargo +nightly fuzz run state_vector`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| syncline_fuzz::run("state_vector", bytes));
