//! PURE: what this device has done to a document and the server has not confirmed, oldest first.
//!
//! An entry goes `Storing` (not on the device's disk yet) -> `Pending` -> `Sent` -> gone. It leaves only when the server
//! says that it is on its disk, or when a proposal was decided. A lost connection makes `Sent` `Pending` again.
//!
//! Invariant: entries are sent in the order of the queue, so what lies before a saved edit and was not refused is saved.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;

use bytes::Bytes;
use syncline_protocol::ids::Seq;

use super::journal::{Note, Proposed};

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Edit { update: Bytes },
    Proposal(Proposed),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// On its way to the device's disk, in this record of the journal.
    Storing(Seq),
    Pending,
    /// In this batch of this connection.
    Sent(u64),
    Refused {
        code: u16,
        reason: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) id: u128,
    pub(crate) at_ms: u64,
    pub(crate) what: What,
    pub(crate) state: State,
    /// Its author was told that it is stored: only the server's answer takes it out.
    pub(crate) accepted: bool,
    /// It has left this device once: whatever became of it, others may have seen it.
    pub(crate) sent: bool,
    /// What followed it has left the queue before it. Merged with what comes now it would wait, at the server, for what
    /// waits for it.
    pub(crate) ends_batch: bool,
}

impl Queued {
    /// Made just now: `seq` is its note.
    pub(crate) fn new(id: u128, at_ms: u64, what: What, seq: Seq) -> Self {
        Self { id, at_ms, what, state: State::Storing(seq), accepted: false, sent: false, ends_batch: false }
    }

    /// Read from the journal.
    fn stored(id: u128, at_ms: u64, what: What) -> Self {
        Self { id, at_ms, what, state: State::Pending, accepted: true, sent: false, ends_batch: false }
    }

    pub(crate) fn is_edit(&self) -> bool {
        matches!(self.what, What::Edit { .. })
    }

    fn is_refused(&self) -> bool {
        matches!(self.state, State::Refused { .. })
    }

    /// The note that puts it into a queue.
    fn note(&self) -> Note {
        match &self.what {
            What::Edit { update } => Note::Edit { id: self.id, at_ms: self.at_ms, update: update.clone() },
            What::Proposal(proposed) => Note::Proposal(proposed.clone()),
        }
    }
}

/// How many entries are in which state; kept, because a long queue is not to be counted at every edit.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) storing: u64,
    pub(crate) pending: u64,
    pub(crate) sent: u64,
    pub(crate) refused: u64,
}

impl Counts {
    fn add(&mut self, state: &State) {
        match state {
            State::Storing(_) => self.storing += 1,
            State::Pending => self.pending += 1,
            State::Sent(_) => self.sent += 1,
            State::Refused { .. } => self.refused += 1,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: VecDeque<Queued>,
    counts: Counts,
}

impl Queue {
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Queued> {
        self.entries.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// These are on their way, in this batch.
    pub(crate) fn send(&mut self, entries: Range<usize>, batch: u64) {
        for entry in self.entries.range_mut(entries) {
            (entry.state, entry.sent) = (State::Sent(batch), true);
        }
        self.recount();
    }

    fn recount(&mut self) {
        self.counts = Counts::default();
        for entry in &self.entries {
            self.counts.add(&entry.state);
        }
    }

    pub(crate) fn ids(&self) -> HashSet<u128> {
        self.entries.iter().map(|entry| entry.id).collect()
    }

    pub(crate) fn push(&mut self, entry: Queued) {
        self.counts.add(&entry.state);
        self.entries.push_back(entry);
    }

    pub(crate) fn has_edits(&self) -> bool {
        self.entries.iter().any(Queued::is_edit)
    }

    /// True while some of it may still be taken back.
    pub(crate) fn has_unaccepted(&self) -> bool {
        self.counts.storing > 0 && self.entries.iter().any(|entry| !entry.accepted)
    }

    /// Everything up to this record of the journal is on the device's disk.
    pub(crate) fn stored(&mut self, upto: Seq) {
        let mut left = self.counts.storing;
        // Mostly the newest.
        for entry in self.entries.iter_mut().rev() {
            if left == 0 {
                break;
            }
            let State::Storing(seq) = entry.state else { continue };
            left -= 1;
            if seq <= upto {
                (entry.state, entry.accepted) = (State::Pending, true);
                self.counts.storing -= 1;
                self.counts.pending += 1;
            }
        }
    }

    /// Takes out what never reached the device's disk. What did, and was only to be written anew, stays.
    pub(crate) fn take_unstored(&mut self) -> Vec<Queued> {
        let (lost, kept) = std::mem::take(&mut self.entries).into_iter().partition(|entry| !entry.accepted);
        self.entries = kept;
        self.recount();
        Vec::from_iter::<VecDeque<_>>(lost)
    }

    /// Nothing is sent, or sent again, before this note is on the device's disk.
    pub(crate) fn store_anew(&mut self, seq: Seq) {
        for entry in &mut self.entries {
            if entry.state == State::Pending {
                entry.state = State::Storing(seq);
            }
        }
        self.store_later(seq);
    }

    /// What was to be stored lies in this note now. What had been stored may be sent all the while.
    pub(crate) fn store_later(&mut self, seq: Seq) {
        for entry in &mut self.entries {
            if matches!(entry.state, State::Storing(_)) {
                entry.state = State::Storing(seq);
            }
        }
        self.recount();
    }

    /// The edits that may leave this device ahead of their turn, because what others did may depend on them; `all`: also those
    /// that have not left it yet.
    pub(crate) fn may_go_along(&self, all: bool) -> HashSet<u128> {
        let may_go = |entry: &&Queued| entry.is_edit() && entry.state == State::Pending && (all || entry.sent);
        self.entries.iter().filter(may_go).map(|entry| entry.id).collect()
    }

    /// These have left it, though they wait for their turn.
    pub(crate) fn have_left(&mut self, ids: &HashSet<u128>) {
        self.entries.iter_mut().filter(|entry| ids.contains(&entry.id)).for_each(|entry| entry.sent = true);
    }

    /// Those that have left this device once.
    pub(crate) fn sent_ids(&self) -> HashSet<u128> {
        self.entries.iter().filter(|entry| entry.sent).map(|entry| entry.id).collect()
    }

    /// The newest that is on its way, if any is.
    pub(crate) fn newest_on_its_way(&self) -> Option<u128> {
        let on_its_way = |entry: &&Queued| matches!(entry.state, State::Sent(_));
        self.entries.iter().rev().find(on_its_way).map(|entry| entry.id)
    }

    pub(crate) fn connection_lost(&mut self) {
        for entry in &mut self.entries {
            if matches!(entry.state, State::Sent(_)) {
                entry.state = State::Pending;
            }
        }
        self.recount();
    }

    /// The newest edit of this connection's batches up to `batch`.
    pub(crate) fn last_edit_of(&self, batch: u64) -> Option<u128> {
        let sent = |entry: &&Queued| entry.is_edit() && matches!(entry.state, State::Sent(of) if of <= batch);
        self.entries.iter().rev().find(sent).map(|entry| entry.id)
    }

    /// Takes out every edit up to this one that was not refused.
    pub(crate) fn save(&mut self, through: u128) -> Vec<u128> {
        let Some(last) = self.entries.iter().position(|entry| entry.id == through) else { return Vec::new() };
        let mut saved = Vec::new();
        let mut kept: VecDeque<Queued> = VecDeque::with_capacity(self.entries.len() - last);
        for (at, entry) in std::mem::take(&mut self.entries).into_iter().enumerate() {
            if at > last || !entry.is_edit() || entry.is_refused() {
                kept.push_back(entry);
            } else {
                saved.push(entry.id);
                if let Some(before) = kept.back_mut() {
                    before.ends_batch = true;
                }
            }
        }
        self.entries = kept;
        self.recount();
        saved
    }

    pub(crate) fn refuse(&mut self, id: u128, code: u16, reason: &str) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) {
            entry.state = State::Refused { code, reason: reason.to_owned() };
        }
        self.recount();
    }

    /// What was refused waits again, in its place: only while nothing is on its way, or an ack of what follows would be
    /// taken for theirs. True when there was something.
    pub(crate) fn retry(&mut self) -> bool {
        let mut any = false;
        for entry in self.entries.iter_mut().filter(|entry| entry.is_refused()) {
            entry.state = State::Pending;
            any = true;
        }
        self.recount();
        any
    }

    pub(crate) fn remove(&mut self, id: u128) -> Option<Queued> {
        let at = self.entries.iter().position(|entry| entry.id == id)?;
        let removed = self.entries.remove(at);
        self.recount();
        removed
    }

    pub(crate) fn find_batch(&self, batch: u64) -> Vec<u128> {
        let of_batch = |entry: &&Queued| matches!(entry.state, State::Sent(of) if of == batch);
        self.entries.iter().filter(of_batch).map(|entry| entry.id).collect()
    }

    /// Takes a note that was read from the journal.
    pub(crate) fn replay(&mut self, note: &Note) {
        match note {
            Note::Edit { id, at_ms, update } | Note::Restamp { id, at_ms, update, .. } => {
                let what = What::Edit { update: update.clone() };
                self.push(Queued::stored(*id, *at_ms, what));
            }
            Note::Proposal(proposed) => {
                let what = What::Proposal(proposed.clone());
                let (id, at_ms) = (proposed.id, proposed.at_ms);
                self.push(Queued::stored(id, at_ms, what));
            }
            Note::Saved { through } => _ = self.save(*through),
            Note::Refused { id, code, reason } => self.refuse(*id, *code, reason),
            Note::Retry => _ = self.retry(),
            Note::Sent { through } => {
                let sent = self.entries.iter().position(|entry| entry.id == *through).map_or(0, |last| last + 1);
                self.entries.range_mut(..sent).for_each(|entry| entry.sent = true);
            }
            Note::Decided { id } => _ = self.remove(*id),
            Note::StartOver => {
                if let Some(last) = self.entries.back_mut() {
                    last.ends_batch = true;
                }
            }
            Note::Remote { .. } | Note::InStep { .. } | Note::Clock { .. } => {}
        }
    }

    /// The notes from which [`Queue::replay`] makes this queue again.
    pub(crate) fn notes(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        for entry in &self.entries {
            notes.push(entry.note());
            if let State::Refused { code, reason } = &entry.state {
                notes.push(Note::Refused { id: entry.id, code: *code, reason: reason.clone() });
            }
            if entry.ends_batch {
                notes.push(Note::StartOver);
            }
        }
        notes.extend(self.entries.iter().rev().find(|entry| entry.sent).map(|entry| Note::Sent { through: entry.id }));
        notes
    }
}
