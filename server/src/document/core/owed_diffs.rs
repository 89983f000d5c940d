//! PURE: step 1 messages that are not answered immediately. A diff takes time linear in the document, so a client that
//! sends step 1 faster than it reads, or faster than they are answered, is sent one diff for all of them.
//!
//! The newest state vector is kept: the diff from it has everything that the older ones ask for and the client has not
//! received, and every change that was not sent because the reader was behind.

use bytes::Bytes;
use syncline_protocol::update::EMPTY_STATE_VECTOR;

use super::Core;
use crate::document::event::Effect;
use crate::ids::LeaseId;

/// A longer state vector is not kept: the client is sent the whole document.
const MAX_OWED_BYTES: usize = 16 * 1024;

impl Core {
    /// Keeps a step 1 for later. It already resets the client's counter of unsynced changes.
    pub(super) fn defer_step1(&mut self, lease: LeaseId, state_vector: &Bytes) {
        self.note_step1(lease, state_vector);
        if let Some(lease) = self.leases.get_mut(lease) {
            // Copied: it may be a slice of a much longer message.
            let is_short = state_vector.len() <= MAX_OWED_BYTES;
            let kept =
                if is_short { Bytes::copy_from_slice(state_vector) } else { Bytes::from_static(&EMPTY_STATE_VECTOR) };
            self.owed_bytes += kept.len();
            let before = lease.owed_diff.replace(Box::new(kept));
            self.owed_bytes -= before.map_or(0, |before| before.len());
        }
    }

    /// The state vector of a step 1 that was deferred; none is owed any more.
    pub(super) fn take_owed_diff(&mut self, lease: LeaseId) -> Option<Bytes> {
        let owed = self.leases.get_mut(lease)?.owed_diff.take()?;
        self.owed_bytes -= owed.len();
        Some(*owed)
    }

    /// Answers a step 1, and asks the client in turn if it counts unsynced changes.
    pub(super) fn answer_step1(&mut self, lease: LeaseId, state_vector: &Bytes, effects: &mut Vec<Effect>) {
        self.step1(lease, state_vector, effects);
        if self.leases.get(lease).is_some_and(|lease| lease.step2.awaits_unasked_step2()) {
            self.ask(lease, effects);
        }
        self.push_durable(lease, effects);
    }

    /// Answers a deferred step 1 of a reader whose socket has drained, which may also have missed awareness.
    pub(super) fn send_owed_diff(&mut self, lease: LeaseId, state_vector: &Bytes, effects: &mut Vec<Effect>) {
        self.answer_step1(lease, state_vector, effects);
        self.push_awareness_now(lease, effects);
    }
}
