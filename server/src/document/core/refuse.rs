//! PURE: what a document refuses: updates, sessions, and edits of those who may only read.

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_replica::Refused;

use super::{Answer, Core};
use crate::document::event::{Effect, Origin, Outcome};
use crate::ids::LeaseId;

impl Core {
    /// Ends a session, or this document of a native one.
    pub fn close(&mut self, lease: LeaseId, close: Close, effects: &mut Vec<Effect>) {
        self.ended.insert(lease);
        effects.push(Effect::Close { lease, close });
    }

    pub(super) fn refuse(&mut self, lease: LeaseId, refused: &Refused, effects: &mut Vec<Effect>) {
        self.close(lease, Close::BadMessage(format!("the update was refused: {refused}").into()), effects);
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
        let known = update.filter(|update| self.document.knows(update));
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
}
