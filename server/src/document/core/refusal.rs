//! PURE: refusals: invalid updates, closed sessions, edits of read-only sessions.

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_replica::Refused;

use super::updates::Submitted;
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

    /// Refuses an update of a read-only session unless the document has everything in it already: a reply to
    /// our step 1 contains every deletion the client knows.
    pub(super) fn refuse_read_only(
        &mut self,
        lease: LeaseId,
        batch: u64,
        (update, origin): (Option<Bytes>, Origin),
        effects: &mut Vec<Effect>,
    ) {
        let known = update.filter(|update| self.document.knows(update));
        match known {
            None => self.refuse(lease, (batch, origin), Outcome::Forbidden, effects),
            Some(_) if self.storage_failed => self.refuse(lease, (batch, origin), Outcome::Unneeded, effects),
            Some(update) => self.acknowledge(lease, &Submitted { update, origin, batch }, None, true, effects),
        }
    }

    /// Refuses an update. A session whose step 2 is refused is sent the acknowledgements that wait for it.
    pub(super) fn refuse(
        &mut self,
        lease: LeaseId,
        (batch, origin): (u64, Origin),
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        if origin.is_step2() && !self.storage_failed {
            let acks = self.with_step2(lease, |step2, _| step2.refuse_step2(origin)).unwrap_or(0);
            self.push_when_durable(lease, batch, AckReply::Saved { echo: None, acks }, effects);
        }
        effects.push(Effect::Ack { lease, batch, seq: self.last, outcome, count: 1, echo: None });
    }
}
