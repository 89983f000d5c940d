//! PURE: changes by others that the server may have lost. Part of [`Core`].
//!
//! The server relays a change before it is on its disk. If it crashes in between and the author never comes back, those
//! who received the change are the only ones who have it. What came beyond the last `Durable` is therefore sent again at
//! the next connection; most often the server knows it.

use std::collections::HashSet;

use bytes::Bytes;
use syncline_protocol::ids::Seq;
use syncline_protocol::native::ToServer;

use super::batch;
use super::core::{Core, Origin, Outputs};
use super::sync::Link;

impl Core {
    /// Sends what others did and only we may have: the server relays before it writes, and may have crashed between.
    pub(super) fn send_again(&mut self, out: &mut Outputs) {
        // They are of the history that was replaced: the new one is fetched to put upon it what is queued, nothing else.
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

    /// The server has answered up to this batch.
    pub(super) fn answered(&mut self, batch: u64, now_ms: u64, out: &mut Outputs) {
        let Link::Up(joining) = &mut self.link else { return };
        if joining.sent_again.is_none_or(|sent| sent > batch) {
            return;
        }
        joining.sent_again = None;
        let durable = joining.durable_meanwhile.take();
        self.sent_again(true);
        if let Some(seq) = durable {
            self.durable(seq, now_ms, out);
        }
    }

    /// Takes the changes by others that the server may have lost since, because it crashed before it wrote them, and what
    /// of the queue they may depend on: what was made here before them.
    fn take_unconfirmed(&mut self) -> Vec<Bytes> {
        let known = self.in_step.map_or(Seq::ZERO, |(cursor, _)| cursor.seq);
        let is_unconfirmed = |of: Origin| matches!(of, Origin::Remote(seq) if seq > known);
        let Some(newest) = self.updates.iter().rposition(|update| is_unconfirmed(update.of)) else { return Vec::new() };
        let own = self.queue.may_go_along(self.clock.lets_send(&self.queue));
        let (mut unconfirmed, mut gone) = (Vec::new(), HashSet::new());
        for update in &mut self.updates[..=newest] {
            match update.of {
                Origin::Remote(seq) if seq > known => update.of = Origin::SentAgain(seq),
                Origin::Edit(id) if own.contains(&id) => drop(gone.insert(id)),
                _ => continue,
            }
            unconfirmed.push(update.bytes.clone());
        }
        self.queue.have_left(&gone);
        unconfirmed
    }

    /// What became of them: the server has them on its disk, or nobody knows.
    pub(super) fn sent_again(&mut self, confirmed: bool) {
        for update in &mut self.updates {
            if let Origin::SentAgain(seq) = update.of {
                update.of = Origin::Remote(if confirmed { Seq::ZERO } else { seq });
            }
        }
    }
}
