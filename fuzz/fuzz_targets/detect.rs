//! `cargo +nightly fuzz run detect`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| syncline_fuzz::run("detect", bytes));
