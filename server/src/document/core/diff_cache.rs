//! PURE: replies to a step 1, shared by sessions with the same state vector.

use std::sync::Arc;

use bytes::Bytes;

use crate::document::frame::{Frame, LARGE_REPLY_BYTES};

use crate::document::message::Message;

/// Cached replies.
const MAX_CACHED_DIFFS: usize = 4;
/// Overhead of a cached reply: smaller ones are encoded again instead.
const MIN_CACHED_BYTES: usize = 256;

/// Step 2 replies by state vector, newest last. Valid until the next record.
#[derive(Debug, Default)]
pub(super) struct DiffCache(Vec<(Bytes, Arc<Frame>)>);

impl DiffCache {
    pub(super) fn clear(&mut self) {
        self.0 = Vec::new();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Memory of the cached replies, in bytes. A small one may also hold its encoded frame, a large one
    /// shares the document's memory.
    pub(super) fn bytes(&self) -> usize {
        let replies = self.0.iter().map(|(asked, frame)| match frame.message() {
            Message::Step2(diff) if diff.len() < LARGE_REPLY_BYTES => asked.len() + diff.len() * 2,
            Message::Step2(diff) => asked.len() + diff.len() - diff.shared_bytes(),
            _ => asked.len(),
        });
        replies.sum()
    }

    pub(super) fn get(&self, state_vector: &[u8]) -> Option<Arc<Frame>> {
        self.0.iter().find(|(asked, _)| asked[..] == *state_vector).map(|(_, frame)| Arc::clone(frame))
    }

    /// Keeps a reply whose diff has `bytes`, unless encoding it again is as cheap.
    pub(super) fn insert(&mut self, state_vector: &Bytes, bytes: usize, frame: &Arc<Frame>) {
        if bytes < MIN_CACHED_BYTES {
            return;
        }
        if self.0.len() == MAX_CACHED_DIFFS {
            self.0.remove(0);
        }
        // Exact, because most documents have one reply cached, and it stays while the document is idle.
        self.0.reserve_exact(1);
        self.0.push((state_vector.clone(), Arc::clone(frame)));
    }
}
