//! `cargo +nightly fuzz run hocuspocus`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| syncline_fuzz::run("hocuspocus", bytes));
