//! PURE: sessions that a document ends, and what it does when its CRDT fails.

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_replica::CrdtError;

use super::{Answer, Core};
use crate::document::event::{Effect, Origin, Outcome};
use crate::ids::LeaseId;

impl Core {
    /// Ends a session, or this document of a native one.
    pub fn close(&mut self, lease: LeaseId, close: Close, effects: &mut Vec<Effect>) {
        self.ended.insert(lease);
        effects.push(Effect::Close { lease, close });
    }

    pub(super) fn fail(&mut self, lease: LeaseId, error: &CrdtError, effects: &mut Vec<Effect>) {
        let close = Close::BadMessage(format!("the update was refused: {error}").into());
        self.close(lease, close, effects);
        self.reload_if_broken(error, effects);
    }

    /// A diff could not be made. A state vector that cannot be read is its sender's fault; that the document cannot be
    /// encoded is not the fault of the one who asks, who may come back.
    pub(super) fn fail_to_answer(&mut self, lease: LeaseId, error: &CrdtError, effects: &mut Vec<Effect>) {
        match error {
            CrdtError::Undecodable(_) => self.fail(lease, error, effects),
            CrdtError::Broken(_) | CrdtError::TooMuchWork => {
                self.close(lease, Close::DocumentReloading, effects);
                self.reload_if_broken(error, effects);
            }
        }
    }

    /// A reader says something: to be refused, unless everything of it is here. What it answers to our step 1 holds every
    /// deletion that it knows of.
    pub(super) fn forbid(
        &mut self,
        lease: LeaseId,
        batch: u64,
        (update, origin): (Option<Bytes>, Origin),
        effects: &mut Vec<Effect>,
    ) {
        let known = update.filter(|update| !self.broken && self.replica.knows(update).unwrap_or(false));
        let is_known = known.is_some();
        if let Some(known) = known
            && !self.storage_failed
        {
            let acks = self.acks_of(lease, &known, origin);
            return self.answer(lease, batch, Answer::Saved { echo: None, acks }, effects);
        }
        let (seq, outcome) = (self.last, if is_known { Outcome::Unneeded } else { Outcome::Forbidden });
        effects.push(Effect::Ack { lease, batch, seq, outcome, echo: None });
    }

    pub(super) fn reload_if_broken(&mut self, error: &CrdtError, effects: &mut Vec<Effect>) {
        if matches!(error, CrdtError::Broken(_) | CrdtError::TooMuchWork) && !self.broken {
            self.broken = true;
            effects.push(Effect::Reload);
        }
    }
}
