//! `cargo +nightly fuzz run update`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| syncline_fuzz::run("update", bytes));
