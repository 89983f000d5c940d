//! PURE: what a lease sent and the document did not store, because too much was pending.
//!
//! An acknowledgement covers everything that the client sent before it, so it matters when all of that is stored. A step 2 that is
//! stored has it. Some clients answer a step 1 with a change instead, and then the content decides: the updates are kept,
//! within a limit, to compare them with the document.

use bytes::Bytes;

/// Bytes of the updates that are kept for a lease.
const MAX_KEPT_BYTES: usize = 16 * 1024;
/// Memory of a kept update besides its bytes.
const UPDATE_BYTES: usize = 64;
/// The client is asked again when this share of what was pending has been released.
const RELEASED_SHARE: usize = 8;

/// The updates of one lease that were not stored. Made with the first of them, dropped when all of them are stored.
#[derive(Debug, Default)]
pub(super) struct UnstoredUpdates {
    updates: Vec<Bytes>,
    bytes: usize,
    /// Not all of them could be kept: only a step 2 is known to have them.
    is_over: bool,
    /// What was pending in the document when the client was asked last, or could not be.
    pending_len: usize,
    /// Number of empty updates whose echoes are held back. Each is owed, because clients recognise an echo by its bytes.
    pub(super) held_echoes: u64,
}

impl UnstoredUpdates {
    pub(super) fn add(&mut self, update: &[u8], pending_len: usize) {
        self.pending_len = pending_len;
        let bytes = update.len() + UPDATE_BYTES;
        if self.is_over || self.bytes + bytes > MAX_KEPT_BYTES {
            self.is_over = true;
            (self.updates, self.bytes) = (Vec::new(), 0);
        } else {
            // Copied: it may be a slice of a much longer frame.
            self.updates.push(Bytes::copy_from_slice(update));
            self.bytes += bytes;
        }
    }

    /// True if the document has all of them by now.
    pub(super) fn are_stored(&mut self, is_stored: impl Fn(&Bytes) -> bool) -> bool {
        while let Some(last) = self.updates.last() {
            if !is_stored(last) {
                return false;
            }
            self.bytes -= last.len() + UPDATE_BYTES;
            self.updates.pop();
        }
        !self.is_over
    }

    /// True once for each eighth of what was pending that has been released since.
    pub(super) fn has_more_room(&mut self, pending_len: usize) -> bool {
        let released = self.pending_len.saturating_sub(pending_len);
        let has_more_room = released >= (self.pending_len / RELEASED_SHARE).max(1);
        if has_more_room {
            self.pending_len = pending_len;
        }
        has_more_room
    }

    /// Memory of the kept updates, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
