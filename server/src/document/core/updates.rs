//! PURE: changes of a document: an update of a session is weighed, then entered; a write to a register is decided.
//!
//! [`Core::update`] weighs an update, answers every refusal, acknowledges a known update, and enters a new one.
//! [`Core::enter`] gives the update its sequence number, appends it to the log, applies it and broadcasts it; nothing
//! is refused any more. A cluster's log will be between the two (decision 0091).

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::update::EMPTY_UPDATE;
use syncline_replica::{Decision, Full, Refused, RegisterWrite, Released, WeighOutcome, Weighed, decide};

use super::Core;
use super::acks::AckReply;
use super::registers::Correction;
use super::step2::{DueAcks, RefusalReply};
use crate::document::event::{Effect, Origin};
use crate::document::frame::Frame;
use crate::document::message::Message;
use crate::document::outcome::Outcome;
use crate::ids::LeaseId;

/// An update as a session sent it.
pub(super) struct Submitted {
    pub(super) update: Bytes,
    pub(super) origin: Origin,
    /// The client's batch number, in the native dialect; 0 in the others.
    pub(super) batch: u64,
}

impl Core {
    pub(super) fn update(&mut self, lease: LeaseId, submitted: Submitted, effects: &mut Vec<Effect>) {
        let Submitted { ref update, origin, batch } = submitted;
        self.note_step2(lease, origin);
        if self.history.has_failed() {
            // Every client replies to our step 1, even a read-only one: that is not an edit to refuse. It may list
            // deletions that readers derive, for example of a map entry that another one replaces.
            let is_unneeded = origin.is_step2() && self.document.weigh(update).is_ok_and(|weighed| !weighed.inserts());
            let outcome = if is_unneeded { Outcome::Unneeded } else { Outcome::Refused };
            return self.refuse(lease, (batch, origin), outcome, effects);
        }
        let weighed = match self.weigh(update) {
            Ok(weighed) => weighed,
            Err(refused) => {
                let close = Close::BadMessage(format!("the update was refused: {refused}").into());
                return self.close(lease, close, effects);
            }
        };
        let (outcome, is_complete) = (weighed.outcome(), !weighed.is_split());
        let is_new = !matches!(outcome, WeighOutcome::Known | WeighOutcome::Full(_));
        if !self.may_grow && is_new && weighed.inserts() {
            return self.close(lease, Close::memory_full(), effects);
        }
        let pending_before = self.document.pending_len();
        match outcome {
            WeighOutcome::Full(full) => self.refuse(lease, (batch, origin), Outcome::Full(full), effects),
            WeighOutcome::NoRoom => {
                let ready = weighed.ready();
                self.refuse_pending(lease, &submitted, ready, effects);
            }
            WeighOutcome::Known => {
                let frame = Frame::at(self.last(), Message::Update(update.clone()));
                self.acknowledge(lease, &submitted, Some(frame), is_complete, effects);
            }
            WeighOutcome::Changed | WeighOutcome::Pending => {
                let frame = self.enter(lease, weighed, effects);
                self.acknowledge(lease, &submitted, Some(frame), is_complete, effects);
            }
        }
        if self.document.pending_len() < pending_before {
            self.ask_for_unstored(effects);
        }
        let is_entered = matches!(outcome, WeighOutcome::Changed | WeighOutcome::Pending);
        if is_entered && !is_complete && self.leases.change(lease, |step2| step2.ask_for_missing()) == Some(true) {
            self.ask(lease, effects);
        }
    }

    /// What entering an update would do. Changes nothing, except that a full document is compacted if that may
    /// make room.
    fn weigh<'u>(&mut self, update: &'u Bytes) -> Result<Weighed<'u>, Refused> {
        let weighed = self.document.weigh(update)?;
        if weighed.outcome() == WeighOutcome::Full(Full::Bytes) {
            // Weighed again whether or not there is room now: a deletion may need less of it than an insertion.
            self.document.make_room_for(update.len());
            return self.document.weigh(update);
        }
        Ok(weighed)
    }

    /// Numbers, appends, applies and broadcasts an update that is new. Returns it as a message.
    fn enter(&mut self, lease: LeaseId, weighed: Weighed<'_>, effects: &mut Vec<Effect>) -> Arc<Frame> {
        let is_split = weighed.is_split();
        let frame = Frame::change(self.last().next(), weighed.update().clone());
        if let Message::Update(update) = frame.message() {
            self.append(update.clone(), effects);
        }
        let added = self.document.enter(weighed, Some(lease.0));
        if !is_split {
            self.broadcast(Arc::clone(&frame), Some(lease), effects);
        }
        self.broadcast_released(effects);
        if let Some(added) = added {
            self.broadcast_pending(added, lease, effects);
        }
        self.enforce_decisions(effects);
        frame
    }

    /// Broadcasts what was pending and was applied since the last call. False if that is nothing.
    fn broadcast_released(&mut self, effects: &mut Vec<Effect>) -> bool {
        let released = self.document.take_released();
        let is_any = !released.is_empty();
        for Released { update, source } in released {
            let author = source.map(LeaseId).filter(|source| self.leases.contains(*source));
            self.broadcast(Frame::at(self.last(), Message::Update(update)), author, effects);
        }
        is_any
    }

    /// A part of the update has missing dependencies, and the document keeps no more of those. The other part,
    /// `ready`, is entered as an update of its own. The client is asked for its step 2, which contains the update, with what it
    /// depends on if the client has that. A native session is closed.
    fn refuse_pending(
        &mut self,
        lease: LeaseId,
        submitted: &Submitted,
        ready: Option<Bytes>,
        effects: &mut Vec<Effect>,
    ) {
        let Submitted { ref update, origin, batch } = *submitted;
        if let Some(ready) = ready
            && let Ok(weighed) = self.weigh(&ready)
            && weighed.outcome() == WeighOutcome::Changed
        {
            self.enter(lease, weighed, effects);
        }
        if self.leases.is_native(lease) {
            let close = Close::TooMany("too many pending updates with missing dependencies".into());
            return self.close(lease, close, effects);
        }
        let pending_len = self.document.pending_len();
        let reply = self.leases.change(lease, |step2| step2.refuse_pending(update, origin, pending_len));
        let Some(RefusalReply { acks, is_sent, must_ask }) = reply else { return };
        self.push_when_durable(lease, batch, AckReply::Saved { echo: None, acks }, effects);
        if is_sent {
            self.push_refusal(lease, batch, Outcome::TooManyPending, effects);
        }
        if must_ask {
            self.ask(lease, effects);
        }
    }

    /// Acknowledges an update once everything so far is on disk, with everything that waited for it. `echo` has it as a
    /// message, for dialects that echo. `is_complete`: nothing of it is pending.
    fn acknowledge(
        &mut self,
        lease: LeaseId,
        submitted: &Submitted,
        echo: Option<Arc<Frame>>,
        is_complete: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Submitted { ref update, origin, batch } = *submitted;
        let is_stored =
            |update: &Bytes| self.document.weigh(update).is_ok_and(|it| it.outcome() == WeighOutcome::Known);
        let due = self.leases.change(lease, |step2| step2.store(update, origin, is_complete, is_stored));
        let DueAcks { acks, held_echoes, must_ask } = due.unwrap_or(DueAcks::ONE);
        if held_echoes > 0 {
            let empty = Frame::at(self.last(), Message::Update(Bytes::from_static(&EMPTY_UPDATE)));
            let held = AckReply::Saved { echo: Some(empty), acks: held_echoes };
            self.push_when_durable(lease, batch, held, effects);
        }
        let is_echoed = !origin.is_step2() || (update[..] != EMPTY_UPDATE && self.awareness.may_be_yjs14(lease));
        let echo = echo.filter(|_| is_echoed);
        self.push_when_durable(lease, batch, AckReply::Saved { echo, acks }, effects);
        if must_ask {
            self.ask(lease, effects);
        }
    }

    /// Less is pending: asks the sessions whose updates could not be stored.
    fn ask_for_unstored(&mut self, effects: &mut Vec<Effect>) {
        let mut frame = None;
        for lease in self.leases.note_released(self.document.pending_len()) {
            let frame = frame.get_or_insert_with(|| Frame::new(Message::Step1(self.document.state_vector())));
            effects.push(Effect::Reply { lease, frame: Arc::clone(frame) });
        }
    }

    /// Every step 2 counts as the reply to our step 1, even if it is refused.
    fn note_step2(&mut self, lease: LeaseId, origin: Origin) {
        if origin.is_step2() {
            self.leases.change(lease, |step2| step2.note_step2());
        }
    }

    /// Refuses an update of a read-only session unless the document has everything in it already, applied or pending. A
    /// reply to our step 1 is no attempt to write if it only lists more deletions: readers derive some themselves, for
    /// example of a map entry that another one replaces. They are not applied.
    pub(super) fn refuse_read_only(
        &mut self,
        lease: LeaseId,
        batch: u64,
        (update, origin): (Option<Bytes>, Origin),
        effects: &mut Vec<Effect>,
    ) {
        self.note_step2(lease, origin);
        let weighed = update.as_ref().and_then(|update| self.document.weigh(update).ok());
        let (is_known, inserts) =
            weighed.map_or((false, true), |weighed| (weighed.outcome() == WeighOutcome::Known, weighed.inserts()));
        match update.filter(|_| is_known) {
            Some(update) if !self.history.has_failed() => {
                self.acknowledge(lease, &Submitted { update, origin, batch }, None, true, effects);
            }
            Some(_) => self.refuse(lease, (batch, origin), Outcome::Unneeded, effects),
            None if origin.is_step2() && !inserts => self.refuse(lease, (batch, origin), Outcome::Unneeded, effects),
            None => self.refuse(lease, (batch, origin), Outcome::Forbidden, effects),
        }
    }

    /// Refuses an update. A session whose step 2 is refused is sent the acknowledgements that wait for it.
    fn refuse(&mut self, lease: LeaseId, (batch, origin): (u64, Origin), outcome: Outcome, effects: &mut Vec<Effect>) {
        if origin.is_step2() && !self.history.has_failed() {
            let acks = self.leases.change(lease, |step2| step2.refuse_step2(origin)).unwrap_or(0);
            self.push_when_durable(lease, batch, AckReply::Saved { echo: None, acks }, effects);
        }
        effects.push(Effect::Ack { lease, batch, seq: self.last(), outcome, count: 1, echo: None });
    }

    pub(super) fn propose(&mut self, lease: LeaseId, batch: u64, write: &RegisterWrite, effects: &mut Vec<Effect>) {
        let outcome = if self.history.has_failed() {
            Outcome::Refused
        } else if !self.may_grow {
            return self.close(lease, Close::memory_full(), effects);
        } else if !self.document.make_room_for(write.value.len()) {
            Outcome::Full(Full::Bytes)
        } else if !self.document.has_room_for_register(&write.register) {
            Outcome::Full(Full::Registers)
        } else {
            let (accepted, register) = self.decide(write, effects);
            return self.push_when_durable(lease, batch, AckReply::Decided { accepted, register }, effects);
        };
        effects.push(Effect::Ack { lease, batch, seq: self.last(), outcome, count: 1, echo: None });
    }

    /// Decides on a write; an accepted write becomes an edit of the document. Returns whether it was accepted
    /// and the resulting register.
    fn decide(&mut self, write: &RegisterWrite, effects: &mut Vec<Effect>) -> (bool, Bytes) {
        let current = self.document.read_register(&write.register);
        let accepted = match decide(current.as_ref(), write) {
            Decision::Accept(state) if !self.decisions.was_refused(write.id) => {
                self.decisions.record(&write.register, &state);
                let update = self.document.write_register(&write.register, &state);
                self.apply_own_edit(update, effects);
                if self.broadcast_released(effects) {
                    self.enforce_decisions(effects);
                }
                self.document.take_touched();
                return (true, state.encode());
            }
            Decision::AcceptedBefore => true,
            Decision::Accept(_) | Decision::Refuse => {
                self.decisions.record_refusal(write.id);
                false
            }
        };
        (accepted, current.map_or_else(Bytes::new, |current| current.encode()))
    }

    /// Checks the registers that the last update changed against the decisions and restores those that
    /// conflict.
    fn enforce_decisions(&mut self, effects: &mut Vec<Effect>) {
        loop {
            for name in self.document.take_touched() {
                let now = self.document.read_register(&name);
                let update = match self.decisions.check(&name, now.as_ref()) {
                    Correction::Keep => None,
                    Correction::Write(state) => Some(self.document.write_register(&name, &state)),
                    Correction::Clear => self.document.clear_register(&name),
                };
                update.into_iter().for_each(|update| self.apply_own_edit(update, effects));
            }
            // Updates that waited for a write of our own were applied with it.
            if !self.broadcast_released(effects) {
                break;
            }
        }
        // Our own writes need no check.
        self.document.take_touched();
    }

    /// Logs and broadcasts an edit that the document made itself.
    fn apply_own_edit(&mut self, update: Bytes, effects: &mut Vec<Effect>) {
        self.append(update.clone(), effects);
        self.broadcast(Frame::at(self.last(), Message::Update(update)), None, effects);
    }
}
