//! PURE: when the server has another history than ours: start from it, with or without what is queued. Part of [`Core`].

use bytes::Bytes;
use syncline_protocol::ids::Seq;
use syncline_protocol::native::{Channel, Cursor, ToServer};
use syncline_protocol::update::{EMPTY_UPDATE, ScanLimits, scan_update};
use syncline_replica::Replica;

use super::core::{Core, Outputs};
use super::journal::Note;
use super::queue::{State, What};
use super::status::{Event, SyncState};
use super::sync::{Fault, Link, bad};
use crate::types::rebase::rebase;

impl Core {
    /// True while the new history is being fetched.
    pub(crate) fn is_rebasing(&self) -> bool {
        self.link.is_rebasing()
    }

    /// Fetches the new history, onto which the queue is put. False when there is nothing to do.
    pub(crate) fn begin_rebase(&mut self, channel: Channel, name: &str, token: &str, out: &mut Outputs) -> bool {
        if self.sync != SyncState::HistoryChanged || self.link.is_rebasing() {
            return false;
        }
        self.open(channel, name, token, 0, true, out);
        true
    }

    /// The new history comes: first the whole of it, then what changes. It becomes the base as far as it is on the server's
    /// disk: of what is not, a crash would make a base that nobody else has.
    pub(super) fn fetched(&mut self, seq: Seq, update: &[u8]) -> Result<(), Fault> {
        scan_update(update, &ScanLimits::STORED).map_err(bad)?;
        if let Link::Up(joining) = &mut self.link {
            joining.new_history.push((seq, Bytes::copy_from_slice(update)));
        }
        Ok(())
    }

    /// The server has written this far: it may be all that came first, or more. The rest comes again.
    pub(super) fn rebase_if_stored(&mut self, durable: Seq, now_ms: u64, out: &mut Outputs) -> Result<(), Fault> {
        let Link::Up(joining) = &mut self.link else { return Ok(()) };
        let stored = joining.new_history.iter().take_while(|(seq, _)| *seq <= durable);
        let (seqs, pieces): (Vec<Seq>, Vec<Bytes>) = stored.cloned().unzip();
        let (Some(cursor), Some(&seq)) = (joining.cursor, seqs.last()) else { return Ok(()) };
        let base = match &pieces[..] {
            [whole] => whole.clone(),
            _ => Replica::load(pieces.into_iter()).and_then(|replica| replica.encode()).map_err(bad)?,
        };
        self.rebase_onto(base, Cursor { epoch: cursor.epoch, seq }, now_ms, out)
    }

    /// Makes the new history the base, and of everything that was queued one edit upon it. By content, not by CRDT: an
    /// unrelated history knows none of our ids, and merging both would double every text. From then on we are in step
    /// with this history, and notice when it is replaced, too.
    fn rebase_onto(&mut self, base: Bytes, now: Cursor, now_ms: u64, out: &mut Outputs) -> Result<(), Fault> {
        let mut onto = Replica::load(std::iter::once(base.clone())).map_err(bad)?;
        let mut notes = Vec::new();
        if let Some((id, at_ms)) = self.queue.iter().rev().find(|entry| entry.is_edit()).map(|e| (e.id, e.at_ms)) {
            let before = self.base_replica().map_err(bad)?;
            let (report, update) = onto.edit(|txn| rebase(before.doc(), self.replica.doc(), txn)).map_err(bad)?;
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

    /// Forgets what is queued, and the history that was known: everything comes anew. The caller opens again.
    pub(crate) fn discard(&mut self, out: &mut Outputs) {
        self.start_over(Bytes::new(), None, &[], out);
        self.link = Link::Down;
        if self.sync != SyncState::Deleted {
            self.sync = SyncState::Offline;
        }
    }
}
