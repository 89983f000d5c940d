//! PURE: a snapshot replaces the records of a document; a dormant document drops what can be rebuilt.

use super::Core;
use crate::document::event::Effect;

impl Core {
    /// Emits the compacted state up to [`Core::last`]; deleted content is removed. Pending updates are not part of
    /// it: they are appended again as new records before the snapshot replaces their first copies.
    pub(super) fn compact(&mut self, effects: &mut Vec<Effect>) {
        if self.storage_failed {
            return;
        }
        let (upto, update) = (self.last, self.document.compact());
        for pending in self.document.pending() {
            self.append(pending, effects);
        }
        effects.push(Effect::Snapshot { upto, update });
    }

    pub(super) fn make_dormant(&mut self) {
        self.diff_cache.clear();
        self.cached_awareness = None;
        self.document.compact();
    }

    /// Number of records that each snapshot appends again.
    pub fn pending_records(&self) -> usize {
        self.document.pending_len()
    }

    /// Approximate size of what is pending: each snapshot writes it again.
    pub fn pending_bytes(&self) -> usize {
        self.document.pending_bytes()
    }

    /// True if there is no deleted content to drop.
    pub fn is_dormant(&self) -> bool {
        self.document.is_compact()
    }

    /// True if its memory cannot be reduced any further.
    pub fn is_minimal(&self) -> bool {
        self.is_dormant() && self.diff_cache.is_empty()
    }
}
