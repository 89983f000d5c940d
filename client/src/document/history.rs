//! PURE: when the server has another history than ours: start from it, with or without what is queued. Part of [`Core`].

use bytes::Bytes;
use syncline_protocol::native::{Channel, ToServer};
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

    /// The whole new history is here: makes it the base, and of everything that was queued one edit upon it. By
    /// content, not by CRDT: an unrelated history knows none of our ids, and merging both would double every text.
    pub(super) fn rebased(&mut self, update: &[u8], out: &mut Outputs) -> Result<(), Fault> {
        scan_update(update, &ScanLimits::STORED).map_err(bad)?;
        let base = Bytes::copy_from_slice(update);
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
        self.start_over(base, &notes, out);
        Ok(())
    }

    /// Forgets what is queued, and the history that was known: everything comes anew. The caller opens again.
    pub(crate) fn discard(&mut self, out: &mut Outputs) {
        self.start_over(Bytes::new(), &[], out);
        self.link = Link::Down;
        if self.sync != SyncState::Deleted {
            self.sync = SyncState::Offline;
        }
    }
}
