//! PURE: the queue of edits and register writes of this device that the server has not confirmed, oldest first.
//!
//! The states of an entry are `Storing` (not on the device's disk yet) -> `Pending` -> `Sent` -> removed. An edit is
//! removed only when the server confirms that it is on its disk, a proposal when the server has decided. When the
//! connection is lost, `Sent` entries become `Pending` again.
//!
//! Invariant: entries are sent in the order of the queue, so every edit before a saved edit is saved, except refused
//! ones.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;

use bytes::Bytes;
use syncline_protocol::ids::Seq;

use super::journal::{Note, Proposed};

/// The content of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Edit { update: Bytes },
    Proposal(Proposed),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// Being written to the device's disk, in this record of the journal.
    Storing(Seq),
    Pending,
    /// Sent in this batch of the current connection.
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
    /// It was reported as stored to its author: only the server's answer removes it.
    pub(crate) accepted: bool,
    /// It was sent at least once, so others may have seen it.
    pub(crate) sent: bool,
    /// Entries that followed it were removed before it. Merged with the entries that follow it now, it could depend on
    /// edits that depend on it, and the batch would stay pending on the server.
    pub(crate) ends_batch: bool,
}

impl Queued {
    /// Creates an entry for a new edit; `seq` is the sequence number of its note.
    pub(crate) fn new(id: u128, at_ms: u64, what: What, seq: Seq) -> Self {
        Self { id, at_ms, what, state: State::Storing(seq), accepted: false, sent: false, ends_batch: false }
    }

    /// Creates an entry read from the journal.
    fn stored(id: u128, at_ms: u64, what: What) -> Self {
        Self { id, at_ms, what, state: State::Pending, accepted: true, sent: false, ends_batch: false }
    }

    pub(crate) fn is_edit(&self) -> bool {
        matches!(self.what, What::Edit { .. })
    }

    fn is_refused(&self) -> bool {
        matches!(self.state, State::Refused { .. })
    }

    /// Returns the note that restores the entry.
    fn note(&self) -> Note {
        match &self.what {
            What::Edit { update } => Note::Edit { id: self.id, at_ms: self.at_ms, update: update.clone() },
            What::Proposal(proposed) => Note::Proposal(proposed.clone()),
        }
    }
}

/// Number of entries in each state; maintained, so that a long queue is not counted on every edit.
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

    /// Marks these entries as sent in this batch.
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

    /// True while an entry may still be undone because it is not stored.
    pub(crate) fn has_unaccepted(&self) -> bool {
        self.counts.storing > 0 && self.entries.iter().any(|entry| !entry.accepted)
    }

    /// All records of the journal up to this one are on the device's disk.
    pub(crate) fn stored(&mut self, upto: Seq) {
        let mut left = self.counts.storing;
        // Entries being stored are usually the newest.
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

    /// Removes and returns the entries that were never stored. Entries that are only being rewritten are kept.
    pub(crate) fn take_unstored(&mut self) -> Vec<Queued> {
        let (lost, kept) = std::mem::take(&mut self.entries).into_iter().partition(|entry| !entry.accepted);
        self.entries = kept;
        self.recount();
        Vec::from_iter::<VecDeque<_>>(lost)
    }

    /// The queue is rewritten: pending entries are sent only when this note is on the device's disk.
    pub(crate) fn store_all_in(&mut self, seq: Seq) {
        for entry in &mut self.entries {
            if entry.state == State::Pending {
                entry.state = State::Storing(seq);
            }
        }
        self.move_storing_to(seq);
    }

    /// Entries being stored are now stored by this note. Entries that were stored before may be sent meanwhile.
    pub(crate) fn move_storing_to(&mut self, seq: Seq) {
        for entry in &mut self.entries {
            if matches!(entry.state, State::Storing(_)) {
                entry.state = State::Storing(seq);
            }
        }
        self.recount();
    }

    /// Returns the pending edits that may be sent ahead of their turn, together with remote changes that may depend on
    /// them. Without `all`, only those that were sent before.
    pub(crate) fn resendable_edits(&self, all: bool) -> HashSet<u128> {
        let is_resendable = |entry: &&Queued| entry.is_edit() && entry.state == State::Pending && (all || entry.sent);
        self.entries.iter().filter(is_resendable).map(|entry| entry.id).collect()
    }

    /// Marks entries as sent at least once; they stay pending.
    pub(crate) fn mark_sent(&mut self, ids: &HashSet<u128>) {
        self.entries.iter_mut().filter(|entry| ids.contains(&entry.id)).for_each(|entry| entry.sent = true);
    }

    /// Returns the ids of the entries that were sent at least once.
    pub(crate) fn sent_ids(&self) -> HashSet<u128> {
        self.entries.iter().filter(|entry| entry.sent).map(|entry| entry.id).collect()
    }

    /// Returns the id of the newest entry in state `Sent`.
    pub(crate) fn newest_sent(&self) -> Option<u128> {
        let is_sent = |entry: &&Queued| matches!(entry.state, State::Sent(_));
        self.entries.iter().rev().find(is_sent).map(|entry| entry.id)
    }

    pub(crate) fn connection_lost(&mut self) {
        for entry in &mut self.entries {
            if matches!(entry.state, State::Sent(_)) {
                entry.state = State::Pending;
            }
        }
        self.recount();
    }

    /// Returns the id of the newest edit in this connection's batches up to `batch`.
    pub(crate) fn last_edit_of(&self, batch: u64) -> Option<u128> {
        let sent = |entry: &&Queued| entry.is_edit() && matches!(entry.state, State::Sent(of) if of <= batch);
        self.entries.iter().rev().find(sent).map(|entry| entry.id)
    }

    /// Removes every edit up to this one, except refused ones, and returns their ids.
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

    /// Makes refused entries pending again, at their position. Call it only while no entry is `Sent`, or an
    /// acknowledgement of a later entry would count for them. Returns true if there were any.
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

    /// Applies a note that was read from the journal.
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

    /// Returns the notes from which [`Queue::replay`] restores this queue.
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
