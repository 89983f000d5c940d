//! PURE: events of the native dialect only: resuming from a cursor and deciding on registers.
//!
//! A cursor is a durable position. Its owner has received everything the document had integrated at that
//! record, so it lacks what was broadcast since: the recent changes, if these reach back far enough.

use bytes::Bytes;
use syncline_protocol::ids::Seq;
use syncline_protocol::native::{Cursor, Resume};
use syncline_replica::{Decision, Full, RegisterWrite, decide};

use super::{AckReply, Core};
use crate::document::event::{Effect, Outcome};
use crate::document::frame::{Frame, Message};
use crate::ids::LeaseId;

impl Core {
    pub(super) fn resume(
        &mut self,
        lease: LeaseId,
        from: Option<Cursor>,
        wants_state_vector: bool,
        read_only: bool,
        effects: &mut Vec<Effect>,
    ) {
        let cursor = Cursor { epoch: self.epoch, seq: self.last };
        if from.is_some_and(|from| !self.is_own_cursor(from)) {
            self.ended.insert(lease);
            let resume = Resume::OtherHistory;
            return effects.push(Effect::Opened { lease, cursor, read_only, resume, state_vector: None });
        }
        // The client may have the missing dependencies of pending updates: it sends them once it gets the
        // state vector.
        let sends_state_vector = wants_state_vector || self.document.pending_len() > 0;
        let state_vector = sends_state_vector.then(|| self.document.state_vector());
        let missed = from.and_then(|from| self.recent.since(from.seq));
        let resume = if missed.is_some() { Resume::FromCursor } else { Resume::SendStateVector };
        effects.push(Effect::Opened { lease, cursor, read_only, resume, state_vector });
        if let Some(missed) = missed {
            effects.extend(missed.map(|(seq, update)| {
                let frame = Frame::at(seq, Message::Update(update.clone()));
                Effect::Missed { lease, frame }
            }));
            self.push_durable(lease, effects);
        }
        self.push_all_awareness(lease, effects);
    }

    /// True if the cursor belongs to this history. The start of any history is empty, so it always does.
    fn is_own_cursor(&self, cursor: Cursor) -> bool {
        cursor.seq == Seq::ZERO || (cursor.epoch == self.epoch && cursor.seq <= self.last)
    }

    /// Sends the durable position to a native reader that has just been brought up to date.
    pub(super) fn push_durable(&self, lease: LeaseId, effects: &mut Vec<Effect>) {
        if self.leases.get(lease).is_some_and(|lease| lease.native) {
            effects.push(Effect::Durable { lease: Some(lease), seq: self.durable });
        }
    }

    /// Sends the durable position to all native readers.
    pub(super) fn push_durable_to_all(&self, effects: &mut Vec<Effect>) {
        if self.native_leases > 0 {
            effects.push(Effect::Durable { lease: None, seq: self.durable });
        }
    }

    pub(super) fn propose(&mut self, lease: LeaseId, batch: u64, write: &RegisterWrite, effects: &mut Vec<Effect>) {
        let outcome = if self.storage_failed {
            Outcome::Refused
        } else if !self.document.make_room_for(write.value.len()) {
            Outcome::Full(Full::Bytes)
        } else if !self.document.has_room_for_register(&write.register) {
            Outcome::Full(Full::Registers)
        } else {
            let (accepted, register) = self.decide(write, effects);
            return self.push_when_durable(lease, batch, AckReply::Decided { accepted, register }, effects);
        };
        effects.push(Effect::Ack { lease, batch, seq: self.last, outcome, echo: None });
    }

    /// Decides on a write; an accepted write becomes an edit of the document. Returns whether it was accepted
    /// and the resulting register.
    fn decide(&mut self, write: &RegisterWrite, effects: &mut Vec<Effect>) -> (bool, Bytes) {
        let current = self.document.read_register(&write.register);
        let accepted = match decide(current.as_ref(), write) {
            Decision::Accept(state) if !self.was_refused(write.id) => {
                self.record_decision(&write.register, &state);
                self.write_register(&write.register, &state, effects);
                if self.broadcast_released(effects) {
                    self.enforce_decisions(effects);
                }
                self.document.take_touched();
                return (true, state.encode());
            }
            Decision::AcceptedBefore => true,
            Decision::Accept(_) | Decision::Refuse => {
                self.record_refusal(write.id);
                false
            }
        };
        (accepted, current.map_or_else(Bytes::new, |current| current.encode()))
    }
}
