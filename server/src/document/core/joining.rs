//! PURE: replies to a step 1, shared by sessions with the same state vector; dropping caches of a dormant
//! document.

use std::sync::Arc;

use bytes::Bytes;

use super::Core;
use crate::document::event::Effect;
use crate::document::frame::{Frame, LARGE_REPLY_BYTES, Message};
use crate::ids::LeaseId;

/// Cached replies.
const MAX_CACHED_DIFFS: usize = 4;
/// Encoding a larger document takes milliseconds.
const LARGE_DOCUMENT_BYTES: usize = 1024 * 1024;
/// Overhead of a cached reply: smaller ones are encoded again instead.
const MIN_CACHED_BYTES: usize = 256;

/// Step 2 replies by state vector, newest last.
#[derive(Debug, Default)]
pub(super) struct DiffCache(Vec<(Bytes, Arc<Frame>)>);

impl DiffCache {
    pub(super) fn clear(&mut self) {
        self.0 = Vec::new();
    }

    /// Memory of the cached replies, in bytes. A small one may also hold its encoded frame, a large one
    /// shares the document's memory.
    pub(super) fn bytes(&self) -> usize {
        let answers = self.0.iter().map(|(asked, frame)| match frame.message() {
            Message::Step2(diff) if diff.len() < LARGE_REPLY_BYTES => asked.len() + diff.len() * 2,
            Message::Step2(diff) => asked.len() + diff.len() - diff.shared_bytes(),
            _ => asked.len(),
        });
        answers.sum()
    }

    fn get(&self, state_vector: &[u8]) -> Option<Arc<Frame>> {
        self.0.iter().find(|(asked, _)| asked[..] == *state_vector).map(|(_, frame)| Arc::clone(frame))
    }

    fn insert(&mut self, state_vector: &Bytes, frame: &Arc<Frame>) {
        if self.0.len() == MAX_CACHED_DIFFS {
            self.0.remove(0);
        }
        // Exact, because most documents have one reply cached, and it stays while the document is idle.
        self.0.reserve_exact(1);
        self.0.push((state_vector.clone(), Arc::clone(frame)));
    }
}

impl Core {
    pub(super) fn step1(&mut self, lease: LeaseId, state_vector: &Bytes, effects: &mut Vec<Effect>) {
        if let Some(frame) = self.diff_cache.get(state_vector) {
            effects.push(Effect::Diff { lease, frame });
            return;
        }
        let diff = self.document.diff(state_vector);
        let is_cheap = diff.len() < MIN_CACHED_BYTES;
        let frame = Frame::at(self.last, Message::Step2(diff));
        if !is_cheap {
            self.diff_cache.insert(state_vector, &frame);
        }
        effects.push(Effect::Diff { lease, frame });
    }

    /// True if the reply to this state vector is cached.
    pub fn has_cached_diff(&self, state_vector: &[u8]) -> bool {
        self.diff_cache.get(state_vector).is_some()
    }

    /// Called after a quiet period: drops deleted content and everything that can be rebuilt.
    pub fn make_dormant(&mut self) {
        self.diff_cache.clear();
        self.cached_awareness = None;
        self.document.compact();
    }

    /// True if there is no deleted content to drop.
    pub fn is_dormant(&self) -> bool {
        self.document.is_compact()
    }

    /// True if its memory cannot be reduced any further.
    pub fn is_minimal(&self) -> bool {
        self.is_dormant() && self.diff_cache.0.is_empty()
    }

    /// True if processing the whole document takes milliseconds.
    pub fn is_large(&self) -> bool {
        self.document.bytes() > LARGE_DOCUMENT_BYTES
    }
}
