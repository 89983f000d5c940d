//! PURE: awareness. Events only record which clients changed; their states are encoded once for all readers
//! at the end of the turn, so several changes in one turn become one frame.

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::awareness::AwarenessUpdate;

use super::Core;
use crate::document::awareness::ChangedClient;
use crate::document::event::Effect;
use crate::document::frame::{Frame, Message};
use crate::ids::LeaseId;

/// Encodings of all states below this size are not cached across turns.
const MIN_CACHED_AWARENESS_BYTES: usize = 64 * 1024;

impl Core {
    pub(super) fn apply_awareness(&mut self, lease: LeaseId, update: &[u8], effects: &mut Vec<Effect>) {
        let Ok(update) = AwarenessUpdate::scan(update, &Default::default()) else { return };
        let was_yjs14 = self.awareness.is_yjs14(lease);
        let changes = self.awareness.update(lease, update.iter());
        if !was_yjs14 {
            // A client announces itself after its step 1.
            self.push_pending(lease, effects);
        }
        if let Some(update) = changes.sender {
            effects.push(Effect::Reply { lease, frame: Frame::new(Message::Awareness(update.into())) });
        }
        if changes.dropped > 0 {
            effects.push(Effect::AwarenessDropped { states: changes.dropped });
        }
        self.push_changed_clients(changes.everyone, effects);
    }

    pub(super) fn remove_awareness(&mut self, lease: LeaseId, effects: &mut Vec<Effect>) {
        let changes = self.awareness.leave(lease);
        self.push_changed_clients(changes.everyone, effects);
    }

    /// Sends all awareness states to a session at the end of the turn, including states that arrive later in
    /// the turn.
    pub(super) fn push_all_awareness(&self, lease: LeaseId, effects: &mut Vec<Effect>) {
        if !self.awareness.is_empty() {
            effects.push(Effect::AllAwareness { lease });
        }
    }

    /// All awareness states; `None` if there are none. A large encoding is cached until a state changes.
    pub fn all_awareness(&mut self) -> Option<Arc<Frame>> {
        if let Some(cached) = &self.cached_awareness {
            return Some(Arc::clone(cached));
        }
        let encoded = Bytes::from(self.awareness.all()?);
        let is_large = encoded.len() >= MIN_CACHED_AWARENESS_BYTES;
        let frame = Frame::new(Message::Awareness(encoded));
        self.cached_awareness = is_large.then(|| Arc::clone(&frame));
        Some(frame)
    }

    /// The newest states of the clients named by [`Effect::Awareness`].
    pub fn awareness_of(&self, clients: impl ExactSizeIterator<Item = ChangedClient>) -> Arc<Frame> {
        Frame::new(Message::Awareness(self.awareness.encode(clients).into()))
    }

    /// Sends all awareness states directly after the preceding reply, to a reader that missed frames.
    pub(super) fn push_awareness_now(&mut self, lease: LeaseId, effects: &mut Vec<Effect>) {
        effects.extend(self.all_awareness().map(|frame| Effect::Reply { lease, frame }));
    }

    fn push_changed_clients(&mut self, clients: Vec<ChangedClient>, effects: &mut Vec<Effect>) {
        if !clients.is_empty() {
            self.cached_awareness = None;
            effects.push(Effect::Awareness { clients: clients.into() });
        }
    }
}
