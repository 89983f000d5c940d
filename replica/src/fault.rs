//! For tests: a panic within the CRDT library, where one cannot be had by bytes that pass the scanner. Compiled into debug
//! builds; elsewhere `strike` is empty.

#[cfg(debug_assertions)]
static MARKER: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();

/// From now on an update that contains `marker` panics when it is half applied. Once in a process; never forgotten.
#[cfg(debug_assertions)]
pub fn panic_on(marker: &[u8]) {
    let marker = MARKER.get_or_init(|| marker.to_vec());
    assert!(!marker.is_empty(), "every update contains nothing");
}

/// Panics if it is told to.
#[cfg(debug_assertions)]
pub(crate) fn strike(update: &[u8]) {
    let Some(marker) = MARKER.get() else { return };
    assert!(!update.windows(marker.len()).any(|window| window == marker), "told to panic by a test");
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn strike(_update: &[u8]) {}
