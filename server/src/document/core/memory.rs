//! PURE: what a document takes in memory, estimated without looking at all of it.

use super::Core;

/// An open document with nothing in it: its task, its inbox, its entries in the registry and the log.
const DOCUMENT_BYTES: usize = 4 * 1024;
/// One session that has it open, without the session itself.
const LEASE_BYTES: usize = 512;

impl Core {
    /// Bytes that the document takes in memory, about.
    pub fn memory_bytes(&self) -> usize {
        DOCUMENT_BYTES
            + self.document.memory_bytes()
            + self.tail.bytes()
            + self.answers.bytes()
            + self.registers.as_ref().map_or(0, |registers| registers.memory_bytes())
            // Its encoding may be there, and a dialect's message of it.
            + self.presence.memory_bytes() * if self.everyone.is_some() { 3 } else { 1 }
            + self.leases.len() * LEASE_BYTES
    }
}
