//! `cargo +nightly fuzz run session`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| syncline_fuzz::run("session", bytes));
