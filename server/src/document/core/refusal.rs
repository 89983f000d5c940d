//! PURE: refusals: invalid updates, closed sessions, edits of read-only sessions.

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_replica::{Refused, WeighOutcome};

use super::{AckReply, Core};
use crate::document::event::{Effect, Origin, Outcome};
use crate::ids::LeaseId;

impl Core {
    /// Closes a session; of a native or Hocuspocus session, only this document.
    pub(super) fn close(&mut self, lease: LeaseId, close: Close, effects: &mut Vec<Effect>) {
        self.ended.insert(lease);
        effects.push(Effect::Close { lease, close });
    }

    pub(super) fn refuse_update(&mut self, lease: LeaseId, refused: &Refused, effects: &mut Vec<Effect>) {
        self.close(lease, Close::BadMessage(format!("the update was refused: {refused}").into()), effects);
    }

    /// Refuses an update of a read-only session unless the document has everything in it already, applied or
    /// pending: a reply to our step 1 contains every deletion the client knows.
    pub(super) fn refuse_read_only(
        &mut self,
        lease: LeaseId,
        batch: u64,
        (update, origin): (Option<Bytes>, Origin),
        effects: &mut Vec<Effect>,
    ) {
        let is_known =
            |update: &Bytes| self.document.weigh(update).is_ok_and(|weighed| weighed.outcome() == WeighOutcome::Known);
        let known = update.filter(is_known);
        let is_known = known.is_some();
        if let Some(known) = known
            && !self.storage_failed
        {
            let acks = self.acks_of(lease, &known, origin);
            return self.push_when_durable(lease, batch, AckReply::Saved { echo: None, acks }, effects);
        }
        let (seq, outcome) = (self.last, if is_known { Outcome::Unneeded } else { Outcome::Forbidden });
        effects.push(Effect::Ack { lease, batch, seq, outcome, echo: None });
    }
}
