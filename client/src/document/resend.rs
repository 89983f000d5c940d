//! PURE: resends remote changes that the server may have lost. Part of [`Core`].
//!
//! The server relays a change before the change is on its disk. If it crashes in between and the author never
//! reconnects, only the clients that received the change have it. Changes received after the last `Durable` are
//! therefore sent again on the next connection; usually the server has them already.

use std::collections::HashSet;

use bytes::Bytes;
use syncline_protocol::ids::Seq;
use syncline_protocol::native::ToServer;

use super::batch;
use super::core::{Core, Origin, Outputs};
use super::sync::Link;

impl Core {
    /// Sends the remote changes that are not known to be on the server's disk.
    pub(super) fn resend_unconfirmed(&mut self, out: &mut Outputs) {
        // They belong to the replaced history: onto the new one only the queue is rebased.
        if self.link.is_rebasing() {
            return;
        }
        let unconfirmed = self.take_unconfirmed();
        for group in unconfirmed.chunks(batch::MAX_BATCH_EDITS) {
            let Link::Up(joining) = &mut self.link else { return };
            let merged = batch::merge(group, joining.server_has.as_deref());
            let changes = merged.map_or_else(|| group.to_vec(), |merged| vec![merged]);
            for update in changes {
                let Link::Up(joining) = &mut self.link else { return };
                joining.last_batch += 1;
                joining.sent_again = Some(joining.last_batch);
                let (channel, batch) = (joining.channel, joining.last_batch);
                self.send(&ToServer::Change { channel, batch, update: &update }, out);
            }
        }
    }

    /// The server has answered all batches up to this one.
    pub(super) fn batch_answered(&mut self, batch: u64, now_ms: u64, out: &mut Outputs) {
        let Link::Up(joining) = &mut self.link else { return };
        if joining.sent_again.is_none_or(|sent| sent > batch) {
            return;
        }
        joining.sent_again = None;
        let durable = joining.durable_meanwhile.take();
        self.finish_resend(true);
        if let Some(seq) = durable {
            self.durable(seq, now_ms, out);
        }
    }

    /// Returns the remote changes that the server may have lost in a crash, and the queued edits that they may depend on:
    /// those made on this device before them.
    fn take_unconfirmed(&mut self) -> Vec<Bytes> {
        let known = self.in_step.map_or(Seq::ZERO, |(cursor, _)| cursor.seq);
        let is_unconfirmed = |of: Origin| matches!(of, Origin::Remote(seq) if seq > known);
        let Some(newest) = self.updates.iter().rposition(|update| is_unconfirmed(update.of)) else { return Vec::new() };
        let own = self.queue.resendable_edits(self.clock.allows_sending(&self.queue));
        let (mut unconfirmed, mut gone) = (Vec::new(), HashSet::new());
        for update in &mut self.updates[..=newest] {
            match update.of {
                Origin::Remote(seq) if seq > known => update.of = Origin::SentAgain(seq),
                Origin::Edit(id) if own.contains(&id) => drop(gone.insert(id)),
                _ => continue,
            }
            unconfirmed.push(update.bytes.clone());
        }
        self.queue.mark_sent(&gone);
        unconfirmed
    }

    /// Ends a resend: the changes are on the server's disk (`confirmed`), or still unconfirmed.
    pub(super) fn finish_resend(&mut self, confirmed: bool) {
        for update in &mut self.updates {
            if let Origin::SentAgain(seq) = update.of {
                update.of = Origin::Remote(if confirmed { Seq::ZERO } else { seq });
            }
        }
    }
}
