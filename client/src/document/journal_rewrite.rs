//! PURE: the journal written anew: to make it shorter, after a fault of the store, and for another history. Part of
//! [`Core`].

use bytes::Bytes;
use syncline_protocol::ids::Seq;
use syncline_protocol::native::Cursor;

use super::core::{Core, Origin, Outputs, Update, Write};
use super::journal::{Note, Snapshot};
use super::queue::Queue;

/// Bytes of updates that make a new base worth while, when the base is not larger itself.
const COMPACT_BYTES: usize = 256 * 1024;

impl Core {
    /// Folds what the server has into the base, when there is enough of it, and replaces the journal by a snapshot.
    pub(crate) fn compact(&mut self, out: &mut Outputs) {
        if self.updates.len() < self.compact_updates && self.update_bytes < COMPACT_BYTES.max(self.base.len()) {
            return;
        }
        // Offline nothing is saved: the queue is what it is.
        if self.updates.len() < 2 * self.queue.len() {
            return;
        }
        let in_queue = self.queue.ids();
        let is_unsaved = |update: &&Update| !self.is_at_the_server(update, &in_queue);
        let unsaved: Vec<Update> = self.updates.iter().filter(is_unsaved).cloned().collect();
        let Ok(base) = self.base_replica() else { return };
        let Ok(encoded) = base.encode() else { return };
        // Others built on an edit of ours whose acknowledgement is still on its way: later.
        if base.held().len() > 0 {
            return;
        }
        self.base = encoded;
        self.update_bytes = unsaved.iter().map(|update| update.bytes.len()).sum();
        self.updates = unsaved;
        out.writes.push(Write::Snapshot(self.snapshot()));
    }

    /// Everything as one value, to replace the notes so far.
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

    /// The journal lies elsewhere now, and its newest note is this one: writes everything into it. What was queued may
    /// be sent when that is stored.
    pub(crate) fn rewrite(&mut self, last: Seq, out: &mut Outputs) {
        let behind = self.write_all(last, out);
        self.queue.store_anew(behind);
    }

    /// The journal was opened again after a fault, and its newest note is this one: writes everything into it. What is
    /// pending lies in it already, and may be sent whether that succeeds or not.
    pub(crate) fn storage_is_back(&mut self, last: Seq, out: &mut Outputs) -> Seq {
        let behind = self.write_all(last, out);
        self.queue.store_later(behind);
        self.pump(out);
        behind
    }

    /// Returns the note behind everything: a snapshot is not reported as stored, a note is.
    fn write_all(&mut self, last: Seq, out: &mut Outputs) -> Seq {
        self.written = last;
        self.note(Note::StartOver, out);
        out.writes.push(Write::Snapshot(self.snapshot()));
        self.note(Note::StartOver, out)
    }

    /// Puts another base and queue in place of everything; the base is in step with the server, or nothing.
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
                self.keep(update.clone(), Origin::Edit(*id));
            }
        }
        self.rebuild();
        self.rewrite(self.written, out);
    }
}
