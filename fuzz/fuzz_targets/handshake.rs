//! `cargo +nightly fuzz run handshake`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| syncline_fuzz::run("handshake", bytes));
