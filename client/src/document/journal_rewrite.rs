//! PURE: rewrites the journal: for compaction, after a failure of the store, and for another history. Part of [`Core`].

use bytes::Bytes;
use syncline_protocol::ids::Seq;
use syncline_protocol::native::Cursor;

use super::core::{Core, Origin, Outputs, Update, Write};
use super::journal::{Note, Snapshot};
use super::queue::Queue;

/// Size of the updates after the base, in bytes, at which the journal is compacted, unless the base is larger.
const COMPACT_BYTES: usize = 256 * 1024;

impl Core {
    /// Merges the updates that are on the server's disk into the base, if there are enough of them, and replaces the
    /// journal by a snapshot.
    pub(crate) fn compact(&mut self, out: &mut Outputs) {
        if self.updates.len() < self.compact_updates && self.update_bytes < COMPACT_BYTES.max(self.base.len()) {
            return;
        }
        // Mostly unsaved edits, for example while offline: compaction would not shorten the journal.
        if self.updates.len() < 2 * self.queue.len() {
            return;
        }
        let in_queue = self.queue.ids();
        let is_unsaved = |update: &&Update| !self.is_on_server_disk(update, &in_queue);
        let unsaved: Vec<Update> = self.updates.iter().filter(is_unsaved).cloned().collect();
        let Ok(base) = self.base_replica() else { return };
        let Ok(encoded) = base.encode() else { return };
        // Remote changes depend on an edit of ours that is not acknowledged yet: compact later.
        if base.pending().len() > 0 {
            return;
        }
        self.base = encoded;
        self.update_bytes = unsaved.iter().map(|update| update.bytes.len()).sum();
        self.updates = unsaved;
        out.writes.push(Write::Snapshot(self.snapshot()));
    }

    /// Returns the complete state, to replace all notes so far.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let in_queue = self.queue.ids();
        let mut notes = vec![self.clock.note()];
        notes.extend(self.queue.notes());
        notes.extend(self.updates.iter().filter_map(|update| match update.of {
            Origin::Edit(id) if in_queue.contains(&id) => None,
            Origin::Edit(_) => Some(Note::Remote { seq: Seq::ZERO, update: update.bytes.clone() }),
            Origin::Remote(seq) | Origin::SentAgain(seq) => Some(Note::Remote { seq, update: update.bytes.clone() }),
        }));
        Snapshot { in_step: self.in_step, base: self.base.clone(), notes }
    }

    /// Writes everything to a new journal whose newest note is `last`. Queued entries may be sent when that is stored.
    pub(crate) fn rewrite(&mut self, last: Seq, out: &mut Outputs) {
        let end = self.write_all(last, out);
        self.queue.store_all_in(end);
    }

    /// Writes everything to the journal after it was reopened; its newest note is `last`. Pending entries are in the
    /// journal already, and may be sent whether the write succeeds or not. Returns the note that completes the write.
    pub(crate) fn storage_is_back(&mut self, last: Seq, out: &mut Outputs) -> Seq {
        let end = self.write_all(last, out);
        self.queue.move_storing_to(end);
        self.pump(out);
        end
    }

    /// Returns the sequence number of the note after the snapshot: only notes are reported as stored, not snapshots.
    fn write_all(&mut self, last: Seq, out: &mut Outputs) -> Seq {
        self.written = last;
        self.note(Note::StartOver, out);
        out.writes.push(Write::Snapshot(self.snapshot()));
        self.note(Note::StartOver, out)
    }

    /// Replaces the whole state by another base and queue. The base equals the server's state at `in_step`, or is empty.
    pub(super) fn start_over(
        &mut self,
        base: Bytes,
        in_step: Option<(Cursor, u64)>,
        notes: &[Note],
        out: &mut Outputs,
    ) {
        self.queue = Queue::default();
        self.updates.clear();
        self.update_bytes = 0;
        self.base = base;
        (self.in_step, self.noted) = (in_step, in_step.map(|(cursor, _)| cursor));
        for note in notes {
            self.queue.replay(note);
            if let Note::Edit { id, update, .. } = note {
                self.append_update(update.clone(), Origin::Edit(*id));
            }
        }
        self.rebuild();
        self.rewrite(self.written, out);
    }
}
