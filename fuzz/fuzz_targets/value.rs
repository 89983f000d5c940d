//! `cargo +nightly fuzz run value`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| syncline_fuzz::run("value", bytes));
