//! PURE: applies remote changes to the CRDT and the journal. Part of [`Core`].

use bytes::Bytes;
use syncline_protocol::ids::Seq;
use syncline_protocol::native::ToServer;
use syncline_protocol::update::{EMPTY_UPDATE, ScanLimits, delete_set, scan_update};
use syncline_replica::{PendingLimits, UpdateOutcome};

use super::core::{Core, Origin, Outputs};
use super::journal::Note;
use super::status::Event;
use super::sync::{Fault, Link, bad_update};

impl Core {
    pub(super) fn apply(&mut self, seq: Seq, update: &[u8], out: &mut Outputs) -> Result<(), Fault> {
        scan_update(update, &ScanLimits::STORED).map_err(bad_update)?;
        let update = Bytes::copy_from_slice(update);
        self.track_overlaps(&update);
        match self.replica.take(&update, &PendingLimits::default()) {
            Ok(UpdateOutcome::Known) => self.keep_deletions(seq, &update, out),
            Ok(taken @ (UpdateOutcome::Changed | UpdateOutcome::BrokenByReleased)) => {
                for update in std::iter::once(update).chain(self.replica.take_released()) {
                    self.append_update(update.clone(), Origin::Remote(seq));
                    self.note(Note::Remote { seq, update }, out);
                }
                if taken == UpdateOutcome::BrokenByReleased {
                    // The CRDT is unusable after a panic; the update that caused it was not kept.
                    self.rebuild();
                }
                self.remote_changes += 1;
                out.events.push(Event::Changed);
            }
            // The server sends no update before its dependencies, so something is missing here: request it.
            Ok(UpdateOutcome::Pending | UpdateOutcome::NoRoom) => self.request_missing(out),
            Err(error) => {
                self.rebuild();
                return Err(bad_update(error));
            }
        }
        Ok(())
    }

    /// Keeps the deletions of a change that is already known. They may be known only from a local edit that is undone if
    /// the device's disk fails. Insertions cannot be: an edit that is not stored was not sent, so nobody else has them.
    fn keep_deletions(&mut self, seq: Seq, update: &[u8], out: &mut Outputs) {
        if !self.queue.has_unaccepted() {
            return;
        }
        let mut deletions = vec![0];
        deletions.extend_from_slice(delete_set(update));
        if deletions[..] != EMPTY_UPDATE {
            let update = Bytes::from(deletions);
            self.append_update(update.clone(), Origin::Remote(seq));
            self.note(Note::Remote { seq, update }, out);
        }
    }

    fn request_missing(&mut self, out: &mut Outputs) {
        let Link::Up(joining) = &mut self.link else { return };
        if !joining.awaits_diff {
            joining.awaits_diff = true;
            let (channel, state_vector) = (joining.channel, self.replica.state_vector());
            self.send(&ToServer::StateVector { channel, state_vector: &state_vector }, out);
        }
    }
}
