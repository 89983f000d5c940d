//! PURE: the memory use of a document, estimated without walking it.

use super::Core;

/// Fixed cost of an open document: its task, its inbox, its entries in the registry and the log.
const DOCUMENT_BYTES: usize = 4 * 1024;
/// Cost of a session that has it open, without the session itself.
const LEASE_BYTES: usize = 512;

impl Core {
    /// Estimated memory use of the document, in bytes.
    pub fn memory_bytes(&self) -> usize {
        DOCUMENT_BYTES
            + self.document.memory_bytes()
            + self.recent.bytes()
            + self.diff_cache.bytes()
            + self.decisions.as_ref().map_or(0, |decisions| decisions.memory_bytes())
            // With the cached encoding and one dialect's frame of it, if present.
            + self.awareness.memory_bytes() * if self.cached_awareness.is_some() { 3 } else { 1 }
            + self.leases.len() * LEASE_BYTES
            + self.owed_bytes
            + self.unstored_bytes
    }
}
