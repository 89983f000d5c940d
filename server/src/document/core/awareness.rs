//! PURE: awareness. Events only record which clients changed; their states are encoded once for all readers
//! at the end of the turn, so several changes in one turn become one frame.

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::awareness::AwarenessUpdate;

use crate::document::awareness::{AwarenessStates, ChangedClient};
use crate::document::event::Effect;
use crate::document::frame::Frame;
use crate::document::message::Message;
use crate::ids::LeaseId;

/// Encodings of all states below this size are not cached across turns.
const MIN_CACHED_BYTES: usize = 64 * 1024;

/// The awareness of one document, with its encoding.
#[derive(Debug)]
pub(super) struct EncodedAwareness {
    states: AwarenessStates,
    /// All states; kept only if it is large, dropped on every change.
    all: Option<Arc<Frame>>,
}

impl EncodedAwareness {
    /// `limit_bytes` is the maximum for the states of one lease.
    pub(super) fn with_limit(limit_bytes: usize) -> Self {
        Self { states: AwarenessStates::with_limit(limit_bytes), all: None }
    }

    pub(super) fn limit_share(&mut self, lease: LeaseId, documents: usize) {
        self.states.limit_share(lease, documents);
    }

    /// True if the lease has announced an id of Yjs 14.
    pub(super) fn is_yjs14(&self, lease: LeaseId) -> bool {
        self.states.is_yjs14(lease)
    }

    /// True unless the lease has announced an id of Yjs 13.
    pub(super) fn may_be_yjs14(&self, lease: LeaseId) -> bool {
        self.states.may_be_yjs14(lease)
    }

    /// Applies an update of a lease. Unless it `may_grow`, a state that needs more memory than before is dropped.
    pub(super) fn apply(
        &mut self,
        lease: LeaseId,
        update: &AwarenessUpdate<'_>,
        may_grow: bool,
        effects: &mut Vec<Effect>,
    ) {
        self.states.limit_growth(may_grow);
        let changes = self.states.update(lease, update.iter());
        if let Some(update) = changes.sender {
            effects.push(Effect::Reply { lease, frame: Frame::new(Message::Awareness(update.into())) });
        }
        if changes.dropped > 0 {
            effects.push(Effect::AwarenessDropped { states: changes.dropped });
        }
        self.push_changed(changes.everyone, effects);
    }

    /// Removes the states of a lease.
    pub(super) fn leave(&mut self, lease: LeaseId, effects: &mut Vec<Effect>) {
        let changes = self.states.leave(lease);
        self.push_changed(changes.everyone, effects);
    }

    fn push_changed(&mut self, clients: Vec<ChangedClient>, effects: &mut Vec<Effect>) {
        if !clients.is_empty() {
            self.all = None;
            effects.push(Effect::Awareness { clients: clients.into() });
        }
    }

    /// Sends all states to a session at the end of the turn, including states that arrive later in the turn.
    pub(super) fn push_all(&self, lease: LeaseId, effects: &mut Vec<Effect>) {
        if !self.states.is_empty() {
            effects.push(Effect::AllAwareness { lease });
        }
    }

    /// Sends all states directly after the preceding reply, to a reader that missed frames.
    pub(super) fn push_all_now(&mut self, lease: LeaseId, effects: &mut Vec<Effect>) {
        effects.extend(self.all().map(|frame| Effect::Reply { lease, frame }));
    }

    /// All states; `None` if there are none. A large encoding is cached until a state changes.
    pub(super) fn all(&mut self) -> Option<Arc<Frame>> {
        if let Some(cached) = &self.all {
            return Some(Arc::clone(cached));
        }
        let encoded = Bytes::from(self.states.all()?);
        let is_large = encoded.len() >= MIN_CACHED_BYTES;
        let frame = Frame::new(Message::Awareness(encoded));
        self.all = is_large.then(|| Arc::clone(&frame));
        Some(frame)
    }

    /// The newest states of these clients.
    pub(super) fn of(&self, clients: impl ExactSizeIterator<Item = ChangedClient>) -> Arc<Frame> {
        Frame::new(Message::Awareness(self.states.encode(clients).into()))
    }

    /// True if the encoding of all states is cached.
    pub(super) fn is_cached(&self) -> bool {
        self.all.is_some()
    }

    pub(super) fn drop_cache(&mut self) {
        self.all = None;
    }

    /// Estimated memory use in bytes: with the cached encoding and one dialect's frame of it, if present.
    pub(super) fn memory_bytes(&self) -> usize {
        self.states.memory_bytes() * if self.all.is_some() { 3 } else { 1 }
    }
}
