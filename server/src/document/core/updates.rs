//! PURE: an update of a session: it is weighed, then entered.
//!
//! [`Core::update`] weighs an update, answers every refusal, acknowledges a known update, and enters a new one.
//! [`Core::enter`] gives the update its sequence number, appends it to the log, applies it and broadcasts it; nothing
//! is refused any more. A cluster's log will be between the two (decision 0091).

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::update::EMPTY_UPDATE;
use syncline_replica::{Full, Refused, Released, WeighOutcome, Weighed};

use super::{AckReply, Core};
use crate::document::event::{Effect, Origin, Outcome};
use crate::document::frame::{Frame, Message};
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
        let refuse = |outcome, seq| Effect::Ack { lease, batch, seq, outcome, echo: None };
        if self.storage_failed {
            // Every client replies to our step 1, even a read-only one: that is not an edit to refuse. It may list deletions that
            // readers derive, for example of a map entry that another one replaces.
            let is_unneeded = origin.is_step2() && self.document.weigh(update).is_ok_and(|weighed| !weighed.inserts());
            let outcome = if is_unneeded { Outcome::Unneeded } else { Outcome::Refused };
            return effects.push(refuse(outcome, self.last));
        }
        let weighed = match self.weigh(update) {
            Ok(weighed) => weighed,
            Err(refused) => return self.refuse_update(lease, &refused, effects),
        };
        match weighed.outcome() {
            WeighOutcome::Full(full) => effects.push(refuse(Outcome::Full(full), self.last)),
            WeighOutcome::NoRoom => {
                let ready = weighed.ready();
                self.refuse_pending(lease, &submitted, ready, effects);
            }
            WeighOutcome::Known => {
                let frame = Frame::at(self.last, Message::Update(update.clone()));
                self.acknowledge(lease, &submitted, frame, effects);
            }
            WeighOutcome::Changed | WeighOutcome::Pending => {
                let frame = self.enter(lease, weighed, effects);
                self.acknowledge(lease, &submitted, frame, effects);
            }
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
        let (pending_before, is_split) = (self.document.pending_len(), weighed.is_split());
        let frame = Frame::change(self.last.next(), weighed.update().clone());
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
        if self.document.pending_len() < pending_before {
            self.leases.values_mut().for_each(|lease| lease.asked_for_missing = false);
        }
        if is_split {
            self.ask_for_missing(lease, effects);
        }
        frame
    }

    /// Broadcasts what was pending and was applied since the last call. False if that is nothing.
    pub(super) fn broadcast_released(&mut self, effects: &mut Vec<Effect>) -> bool {
        let released = self.document.take_released();
        let is_any = !released.is_empty();
        for Released { update, source } in released {
            let author = source.map(LeaseId).filter(|source| self.leases.get(*source).is_some());
            self.broadcast(Frame::at(self.last, Message::Update(update)), author, effects);
        }
        is_any
    }

    /// A part of the update has missing dependencies, and the document keeps no more of those. The other part,
    /// `ready`, is entered. The update is not acknowledged: the client's next step 2 contains it, with what it
    /// depends on if the client has that, and is asked for. Only a step 2 itself is refused, and a native session is closed.
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
        let Some(state) = self.leases.get(lease) else { return };
        if state.native {
            let close = Close::TooMany("too many pending updates with missing dependencies".into());
            return self.close(lease, close, effects);
        }
        if origin.is_step2() {
            let outcome = Outcome::TooManyPending;
            return effects.push(Effect::Ack { lease, batch, seq: self.last, outcome, echo: None });
        }
        let must_ask = !state.awaits_step2;
        let owed = self.acks_of(lease, update, origin);
        if let Some(state) = self.leases.get_mut(lease).filter(|state| state.unsynced.is_some()) {
            state.owed_acks += owed;
        }
        if must_ask {
            self.ask(lease, effects);
        }
    }

    /// Acknowledges an update once everything so far is on disk. `frame` has the update as a message.
    fn acknowledge(&mut self, lease: LeaseId, submitted: &Submitted, frame: Arc<Frame>, effects: &mut Vec<Effect>) {
        let Submitted { ref update, origin, batch } = *submitted;
        let mut acks = self.acks_of(lease, update, origin);
        if origin.is_step2()
            && let Some(state) = self.leases.get_mut(lease)
        {
            acks += std::mem::take(&mut state.owed_acks);
        }
        let is_echoed = !origin.is_step2() || (update[..] != EMPTY_UPDATE && self.awareness.may_be_yjs14(lease));
        self.push_when_durable(lease, batch, AckReply::Saved { echo: is_echoed.then_some(frame), acks }, effects);
    }

    /// Asks the sender of a pending update for its missing dependencies, once.
    fn ask_for_missing(&mut self, lease: LeaseId, effects: &mut Vec<Effect>) {
        if let Some(state) = self.leases.get_mut(lease)
            && !state.asked_for_missing
        {
            state.asked_for_missing = true;
            self.ask(lease, effects);
        }
    }

    /// Every step 2 counts as the reply to our step 1, even if it is refused.
    pub(super) fn note_step2(&mut self, lease: LeaseId, origin: Origin) {
        if let Some(lease) = self.leases.get_mut(lease).filter(|_| origin.is_step2()) {
            lease.awaits_step2 = false;
        }
    }

    /// Asks a session for what the document lacks. Native sessions get the state vector when they open the
    /// document instead.
    pub(super) fn ask(&mut self, lease: LeaseId, effects: &mut Vec<Effect>) {
        if let Some(lease) = self.leases.get_mut(lease) {
            if lease.native {
                return;
            }
            lease.awaits_step2 = true;
        }
        let frame = Frame::new(Message::Step1(self.document.state_vector()));
        effects.push(Effect::Reply { lease, frame });
    }
}
