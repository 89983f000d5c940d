//! PURE: replies to a step 1, shared by sessions with the same state vector; the diff for a reader that fell
//! behind.

use std::sync::Arc;

use bytes::Bytes;

use super::Core;
use crate::document::event::{Effect, Event, SessionEvent};
use crate::document::frame::{Frame, LARGE_REPLY_BYTES, Message};
use crate::ids::LeaseId;
use syncline_protocol::update::EMPTY_UPDATE;
use syncline_replica::{Known, Pieces};

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
        if self.shows_pending(lease) {
            let diff = self.document.diff(state_vector);
            let diff = self.with_pending(lease, diff);
            effects.push(Effect::Diff { lease, frame: Frame::at(self.last, Message::Step2(diff)) });
            return;
        }
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

    /// Brings a reader up to date with one diff from `floor`, or from the empty state.
    pub(super) fn resync(&mut self, lease: LeaseId, floor: Option<&Known>, effects: &mut Vec<Effect>) {
        let from_nothing = Known::default();
        let diff = self.document.diff_since(floor.unwrap_or(&from_nothing));
        let diff = self.with_pending(lease, diff);
        effects.push(Effect::Diff { lease, frame: Frame::at(self.last, Message::Step2(diff)) });
        self.push_durable(lease, effects);
        self.push_awareness_now(lease, effects);
    }

    /// True if something is pending and the client can show it: Yjs 14 has gaps in its documents, and makes some that stay.
    /// Other clients receive it when its dependencies are present.
    fn shows_pending(&self, lease: LeaseId) -> bool {
        self.document.pending_len() > 0 && self.awareness.is_yjs14(lease)
    }

    /// The diff with what is pending, if the client can show it. In one frame: a reader is behind again if frames after its
    /// diff exceed the limit.
    fn with_pending(&self, lease: LeaseId, diff: Pieces) -> Pieces {
        if self.shows_pending(lease) { self.document.with_pending(&diff.to_bytes()).into() } else { diff }
    }

    /// Sends what is pending to a client that has announced itself after its step 1.
    pub(super) fn push_pending(&self, lease: LeaseId, effects: &mut Vec<Effect>) {
        if self.shows_pending(lease) {
            let update = self.document.with_pending(&Bytes::from_static(&EMPTY_UPDATE));
            effects.push(Effect::Pending { lease, frame: Frame::at(self.last, Message::Update(update)) });
        }
    }

    /// Sends what has become pending to the clients that can show it.
    pub(super) fn broadcast_pending(&self, added: Bytes, author: LeaseId, effects: &mut Vec<Effect>) {
        let frame = Frame::at(self.last, Message::Update(added));
        let receivers = self.leases.iter().map(|(lease, _)| lease);
        let receivers = receivers.filter(|lease| *lease != author && self.awareness.is_yjs14(*lease));
        effects.extend(receivers.map(|lease| Effect::Pending { lease, frame: Arc::clone(&frame) }));
    }

    /// True if handling this event takes milliseconds: it processes all of a large document.
    pub fn takes_long(&self, event: &Event) -> bool {
        let processes_all = match event {
            Event::Session(lease, SessionEvent::Step1 { state_vector }) => {
                self.shows_pending(*lease) || self.diff_cache.get(state_vector).is_none()
            }
            Event::Resync { .. } | Event::Compact | Event::MakeDormant => true,
            _ => false,
        };
        processes_all && self.document.bytes() > LARGE_DOCUMENT_BYTES
    }
}
