//! `cargo +nightly fuzz run admin`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| syncline_fuzz::run("admin", bytes));
