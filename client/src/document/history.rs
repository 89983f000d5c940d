//! PURE: adopts another history of the server, with or without the queued edits. Part of [`Core`].

use bytes::Bytes;
use syncline_protocol::ids::Seq;
use syncline_protocol::native::{Channel, Cursor, ToServer};
use syncline_protocol::update::{EMPTY_UPDATE, ScanLimits, scan_update};
use syncline_replica::Replica;

use super::core::{Core, Outputs};
use super::journal::Note;
use super::queue::{State, What};
use super::status::{Event, SyncState};
use super::sync::{Fault, Link, bad_update};
use crate::types::rebase::rebase;

impl Core {
    /// True while the new history is being fetched.
    pub(crate) fn is_rebasing(&self) -> bool {
        self.link.is_rebasing()
    }

    /// Starts to fetch the new history, onto which the queue is rebased. Returns false if the history has not changed.
    pub(crate) fn begin_rebase(&mut self, channel: Channel, name: &str, token: &str, out: &mut Outputs) -> bool {
        if self.sync != SyncState::HistoryChanged || self.link.is_rebasing() {
            return false;
        }
        self.open(channel, name, token, 0, true, out);
        true
    }

    /// Collects the new history: first all of it, then its changes. Only what is on the server's disk becomes the base:
    /// after a crash of the server nobody else would have the rest.
    pub(super) fn fetched(&mut self, seq: Seq, update: &[u8]) -> Result<(), Fault> {
        scan_update(update, &ScanLimits::STORED).map_err(bad_update)?;
        if let Link::Up(joining) = &mut self.link {
            joining.new_history.push((seq, Bytes::copy_from_slice(update)));
        }
        Ok(())
    }

    /// The server's disk has the history up to `durable`. Rebases as soon as that covers the first part of the fetched
    /// history; later changes are sent again by the server.
    pub(super) fn rebase_if_stored(&mut self, durable: Seq, now_ms: u64, out: &mut Outputs) -> Result<(), Fault> {
        let Link::Up(joining) = &mut self.link else { return Ok(()) };
        let stored = joining.new_history.iter().take_while(|(seq, _)| *seq <= durable);
        let (seqs, pieces): (Vec<Seq>, Vec<Bytes>) = stored.cloned().unzip();
        let (Some(cursor), Some(&seq)) = (joining.cursor, seqs.last()) else { return Ok(()) };
        let base = match &pieces[..] {
            [whole] => whole.clone(),
            _ => Replica::load(pieces.into_iter()).and_then(|replica| replica.encode()).map_err(bad_update)?,
        };
        self.rebase_onto(base, Cursor { epoch: cursor.epoch, seq }, now_ms, out)
    }

    /// Makes the new history the base, and turns all queued edits into one edit on top of it. The edits are applied by
    /// content, not by the CRDT: an unrelated history has none of our ids, and merging both would duplicate every text.
    /// The position in the new history is recorded, so that its replacement is noticed too.
    fn rebase_onto(&mut self, base: Bytes, now: Cursor, now_ms: u64, out: &mut Outputs) -> Result<(), Fault> {
        let mut onto = Replica::load(std::iter::once(base.clone())).map_err(bad_update)?;
        let mut notes = Vec::new();
        if let Some((id, at_ms)) = self.queue.iter().rev().find(|entry| entry.is_edit()).map(|e| (e.id, e.at_ms)) {
            let before = self.base_replica().map_err(bad_update)?;
            let (report, update) =
                onto.edit(|txn| rebase(before.doc(), self.replica.doc(), txn)).map_err(bad_update)?;
            if update[..] != EMPTY_UPDATE {
                notes.push(Note::Edit { id, at_ms, update });
            }
            out.events.push(Event::Rebased(report));
        }
        for entry in self.queue.iter().filter(|entry| !matches!(entry.state, State::Refused { .. })) {
            if let What::Proposal(proposed) = &entry.what {
                notes.push(Note::Proposal(proposed.clone()));
            }
        }
        if let Link::Up(joining) = &self.link {
            out.frames.push(ToServer::Leave { channel: joining.channel }.encode().into());
        }
        self.link = Link::Down;
        self.sync = SyncState::Offline;
        self.start_over(base, Some((now, now_ms)), &notes, out);
        Ok(())
    }

    /// Drops the queue and the known history. The caller opens the document again, which fetches everything.
    pub(crate) fn discard(&mut self, out: &mut Outputs) {
        self.start_over(Bytes::new(), None, &[], out);
        self.link = Link::Down;
        if self.sync != SyncState::Deleted {
            self.sync = SyncState::Offline;
        }
    }
}
