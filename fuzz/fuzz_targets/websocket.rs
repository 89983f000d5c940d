//! `cargo +nightly fuzz run websocket`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| syncline_fuzz::run("websocket", bytes));
