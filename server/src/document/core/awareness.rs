//! PURE: awareness. Events only record which clients changed; their states are encoded once for all readers
//! at the end of the turn, so several changes in one turn become one frame.

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::awareness::AwarenessUpdate;

use super::Core;
use crate::document::event::Effect;
use crate::document::frame::{Frame, Message};
use crate::document::presence::Changed;
use crate::ids::LeaseId;

/// Encodings of all states below this size are not cached across turns.
const LARGE_PRESENCE_BYTES: usize = 64 * 1024;

impl Core {
    pub(super) fn take_awareness(&mut self, lease: LeaseId, update: &[u8], effects: &mut Vec<Effect>) {
        let Ok(update) = AwarenessUpdate::scan(update, &Default::default()) else { return };
        let changes = self.presence.update(lease, update.iter());
        if let Some(update) = changes.bringer {
            effects.push(Effect::Answer { lease, frame: Frame::new(Message::Awareness(update.into())) });
        }
        self.dropped_states += changes.dropped;
        self.push_changed(changes.everyone, effects);
    }

    /// Sets the limit of a lease before it opens the document; its session has `documents` open, this one
    /// included.
    pub fn share_presence(&mut self, lease: LeaseId, documents: usize) {
        self.presence.limit_share(lease, documents);
    }

    pub(super) fn leave_presence(&mut self, lease: LeaseId, effects: &mut Vec<Effect>) {
        let changes = self.presence.leave(lease);
        self.push_changed(changes.everyone, effects);
    }

    /// Sends all awareness states to a session at the end of the turn, including states that arrive later in
    /// the turn.
    pub(super) fn show_everyone(&self, lease: LeaseId, effects: &mut Vec<Effect>) {
        if !self.presence.is_empty() {
            effects.push(Effect::Everyone { lease });
        }
    }

    /// All awareness states; `None` if there are none. A large encoding is cached until a state changes.
    pub fn everyone(&mut self) -> Option<Arc<Frame>> {
        if let Some(everyone) = &self.everyone {
            return Some(Arc::clone(everyone));
        }
        let everyone = Bytes::from(self.presence.everyone()?);
        let is_large = everyone.len() >= LARGE_PRESENCE_BYTES;
        let frame = Frame::new(Message::Awareness(everyone));
        self.everyone = is_large.then(|| Arc::clone(&frame));
        Some(frame)
    }

    /// The newest states of the clients named by [`Effect::Presence`].
    pub fn presence_of(&self, clients: impl ExactSizeIterator<Item = Changed>) -> Arc<Frame> {
        Frame::new(Message::Awareness(self.presence.encode(clients).into()))
    }

    /// Sends all awareness states right behind the preceding reply, to a reader that missed frames.
    pub(super) fn send_presence(&mut self, lease: LeaseId, effects: &mut Vec<Effect>) {
        effects.extend(self.everyone().map(|frame| Effect::Answer { lease, frame }));
    }

    fn push_changed(&mut self, clients: Vec<Changed>, effects: &mut Vec<Effect>) {
        if !clients.is_empty() {
            self.everyone = None;
            effects.push(Effect::Presence { clients: clients.into() });
        }
    }
}
