//! `cargo +nightly fuzz run replica`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| syncline_fuzz::run("replica", bytes));
