//! PURE: an update of a session: it is weighed, then entered.
//!
//! [`Core::update`] weighs an update, answers every refusal, acknowledges a known update, and enters a new one.
//! [`Core::enter`] gives the update its sequence number, appends it to the log, applies it and broadcasts it; nothing
//! is refused any more. A cluster's log will be between the two (decision 0091).

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::update::EMPTY_UPDATE;
use syncline_replica::{Entered, Full, HubDocument, Refused, Released, Weighed};

use super::step2::{DueAcks, RefusalReply, Step2State};
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
        if self.storage_failed {
            // Every client replies to our step 1, even a read-only one: that is not an edit to refuse.
            let unneeded = origin.is_step2() && self.document.inserts_nothing_new(update);
            let outcome = if unneeded { Outcome::Unneeded } else { Outcome::Refused };
            return self.refuse(lease, (batch, origin), outcome, effects);
        }
        let weighed = match self.weigh(update) {
            Ok(weighed) => weighed,
            Err(refused) => return self.refuse_update(lease, &refused, effects),
        };
        let pending_before = self.document.pending_len();
        let (outcome, is_complete) = (weighed.outcome(), !weighed.is_split());
        match outcome {
            Entered::Full(full) => self.refuse(lease, (batch, origin), Outcome::Full(full), effects),
            Entered::NoRoom => {
                let ready = weighed.ready();
                self.refuse_pending(lease, &submitted, ready, effects);
            }
            Entered::Known => {
                let frame = Frame::at(self.last, Message::Update(update.clone()));
                self.acknowledge(lease, &submitted, Some(frame), is_complete, effects);
            }
            Entered::Changed | Entered::Pending => {
                let frame = self.enter(lease, weighed, effects);
                self.acknowledge(lease, &submitted, Some(frame), is_complete, effects);
            }
        }
        if self.document.pending_len() < pending_before {
            self.ask_for_unstored(effects);
        }
        let is_entered = matches!(outcome, Entered::Changed | Entered::Pending);
        if is_entered && !is_complete && self.with_step2(lease, |step2, _| step2.ask_for_missing()) == Some(true) {
            self.ask(lease, effects);
        }
    }

    /// What entering an update would do. Changes nothing, except that a full document is compacted if that may
    /// make room.
    fn weigh<'u>(&mut self, update: &'u Bytes) -> Result<Weighed<'u>, Refused> {
        let weighed = self.document.weigh(update)?;
        if weighed.outcome() == Entered::Full(Full::Bytes) {
            // Weighed again whether or not there is room now: a deletion may need less of it than an insertion.
            self.document.make_room_for(update.len());
            return self.document.weigh(update);
        }
        Ok(weighed)
    }

    /// Numbers, appends, applies and broadcasts an update that is new. Returns it as a message.
    fn enter(&mut self, lease: LeaseId, weighed: Weighed<'_>, effects: &mut Vec<Effect>) -> Arc<Frame> {
        let is_split = weighed.is_split();
        let frame = Frame::change(self.last.next(), weighed.update().clone());
        if let Message::Update(update) = frame.message() {
            self.append(update.clone(), effects);
        }
        let added = self.document.enter(weighed, Some(lease.0));
        if !is_split {
            self.broadcast(Arc::clone(&frame), Some(lease), effects);
        }
        for Released { update, source } in self.document.take_released() {
            let author = source.map(LeaseId).filter(|source| self.leases.get(*source).is_some());
            self.broadcast(Frame::at(self.last, Message::Update(update)), author, effects);
        }
        if let Some(added) = added {
            self.broadcast_pending(added, lease, effects);
        }
        self.enforce_decisions(effects);
        frame
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
            && weighed.outcome() == Entered::Changed
        {
            self.enter(lease, weighed, effects);
        }
        let Some(state) = self.leases.get(lease) else { return };
        if state.step2.is_native() {
            let close = Close::TooMany("too many pending updates with missing dependencies".into());
            return self.close(lease, close, effects);
        }
        let reply =
            self.with_step2(lease, |step2, document| step2.refuse_pending(update, origin, document.pending_len()));
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
    pub(super) fn acknowledge(
        &mut self,
        lease: LeaseId,
        submitted: &Submitted,
        echo: Option<Arc<Frame>>,
        is_complete: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Submitted { ref update, origin, batch } = *submitted;
        let due = self.with_step2(lease, |step2, document| {
            let is_stored = |update: &Bytes| document.weigh(update).is_ok_and(|it| it.outcome() == Entered::Known);
            step2.store(update, origin, is_complete, is_stored)
        });
        let DueAcks { acks, held_echoes, must_ask } = due.unwrap_or(DueAcks::ONE);
        if held_echoes > 0 {
            let empty = Frame::at(self.last, Message::Update(Bytes::from_static(&EMPTY_UPDATE)));
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
        let pending_len = self.document.pending_len();
        let mut frame = None;
        for (lease, state) in self.leases.iter_mut() {
            if state.step2.note_released(pending_len) {
                let frame = frame.get_or_insert_with(|| Frame::new(Message::Step1(self.document.state_vector())));
                effects.push(Effect::Reply { lease, frame: Arc::clone(frame) });
            }
        }
    }

    /// Asks a session for what the document lacks. Native sessions get the state vector when they open the
    /// document instead.
    pub(super) fn ask(&mut self, lease: LeaseId, effects: &mut Vec<Effect>) {
        if self.with_step2(lease, |step2, _| step2.note_asked()).is_some() {
            let frame = Frame::new(Message::Step1(self.document.state_vector()));
            effects.push(Effect::Reply { lease, frame });
        }
    }

    /// The client has sent a step 1, whether or not it is answered now.
    pub(super) fn note_step1(&mut self, lease: LeaseId, state_vector: &[u8]) {
        self.with_step2(lease, |step2, _| step2.note_step1(state_vector));
    }

    /// The client has sent a step 2 if that is the `origin`.
    pub(super) fn note_step2(&mut self, lease: LeaseId, origin: Origin) {
        if origin.is_step2() {
            self.with_step2(lease, |step2, _| step2.note_step2());
        }
    }

    /// Changes what a lease is asked for and owed; `None` if it is not open.
    pub(super) fn with_step2<R>(
        &mut self,
        lease: LeaseId,
        change: impl FnOnce(&mut Step2State, &HubDocument) -> R,
    ) -> Option<R> {
        let step2 = &mut self.leases.get_mut(lease)?.step2;
        let before = step2.unstored_bytes();
        let result = change(step2, &self.document);
        self.unstored_bytes = self.unstored_bytes + step2.unstored_bytes() - before;
        Some(result)
    }
}
