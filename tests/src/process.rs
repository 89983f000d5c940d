//! The test's process: its memory usage, and a lock for tests that must run alone in it.

use std::sync::{Mutex, MutexGuard, PoisonError};

static ALONE: Mutex<()> = Mutex::new(());

/// Returns a lock that each test of `tests/alone` holds while it runs: `cargo test` runs the tests of a binary
/// concurrently. A test that panicked while it held the lock does not fail the others.
pub fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns a size from `/proc/self/status` in bytes: `VmRSS` is the memory in use now, `VmHWM` its peak.
pub fn memory_bytes(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}
