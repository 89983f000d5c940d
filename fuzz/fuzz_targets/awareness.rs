//! `cargo +nightly fuzz run awareness`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| syncline_fuzz::run("awareness", bytes));
