//! PURE: what this device has done to a document and the server has not confirmed, oldest first.
//!
//! An entry goes `Storing` (not on the device's disk yet) -> `Pending` -> `Sent` -> gone. It leaves only when the server
//! says that it is on its disk, or when a proposal was decided. A lost connection makes `Sent` `Pending` again.

use std::collections::{HashSet, VecDeque};

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
}

impl Queued {
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

#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: VecDeque<Queued>,
}

impl Queue {
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Queued> {
        self.entries.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Queued> {
        self.entries.iter_mut()
    }

    pub(crate) fn ids(&self) -> HashSet<u128> {
        self.entries.iter().map(|entry| entry.id).collect()
    }

    pub(crate) fn push(&mut self, entry: Queued) {
        self.entries.push_back(entry);
    }

    pub(crate) fn count(&self, is: impl Fn(&State) -> bool) -> u64 {
        self.entries.iter().filter(|entry| is(&entry.state)).count() as u64
    }

    pub(crate) fn has_edits(&self) -> bool {
        self.entries.iter().any(Queued::is_edit)
    }

    /// Everything up to this record of the journal is on the device's disk.
    pub(crate) fn stored(&mut self, upto: Seq) {
        for entry in &mut self.entries {
            if matches!(entry.state, State::Storing(seq) if seq <= upto) {
                entry.state = State::Pending;
            }
        }
    }

    /// Takes out what never reached the device's disk.
    pub(crate) fn take_unstored(&mut self) -> Vec<Queued> {
        let (lost, kept) =
            std::mem::take(&mut self.entries).into_iter().partition(|entry| matches!(entry.state, State::Storing(_)));
        self.entries = kept;
        Vec::from_iter::<VecDeque<_>>(lost)
    }

    pub(crate) fn connection_lost(&mut self) {
        for entry in &mut self.entries {
            if matches!(entry.state, State::Sent(_)) {
                entry.state = State::Pending;
            }
        }
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
        let mut at = 0;
        self.entries.retain(|entry| {
            let gone = at <= last && entry.is_edit() && !entry.is_refused();
            at += 1;
            if gone {
                saved.push(entry.id);
            }
            !gone
        });
        saved
    }

    pub(crate) fn refuse(&mut self, id: u128, code: u16, reason: &str) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) {
            entry.state = State::Refused { code, reason: reason.to_owned() };
        }
    }

    /// What was refused waits again, behind the rest: an ack of what follows must not be taken for theirs. True when
    /// there was something.
    pub(crate) fn retry(&mut self) -> bool {
        let (refused, mut rest): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.entries).into_iter().partition(Queued::is_refused);
        let any = !refused.is_empty();
        rest.extend(refused.into_iter().map(|entry| Queued { state: State::Pending, ..entry }));
        self.entries = rest;
        any
    }

    pub(crate) fn remove(&mut self, id: u128) -> Option<Queued> {
        let at = self.entries.iter().position(|entry| entry.id == id)?;
        self.entries.remove(at)
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
                self.push(Queued { id: *id, at_ms: *at_ms, what, state: State::Pending });
            }
            Note::Proposal(proposed) => {
                let what = What::Proposal(proposed.clone());
                self.push(Queued { id: proposed.id, at_ms: proposed.at_ms, what, state: State::Pending });
            }
            Note::Saved { through } => _ = self.save(*through),
            Note::Refused { id, code, reason } => self.refuse(*id, *code, reason),
            Note::Retry => _ = self.retry(),
            Note::Decided { id } => _ = self.remove(*id),
            Note::Remote { .. } | Note::InStep { .. } | Note::StartOver | Note::Clock { .. } => {}
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
        }
        notes
    }
}
