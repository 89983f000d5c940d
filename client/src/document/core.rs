//! PURE: one document on one device: its CRDT, its queue, its journal. No clock, no I/O, no runtime.
//!
//! Inputs are methods; their results are added to [`Outputs`]: notes for the journal, frames for the socket, events for
//! the app. The sync protocol is in `sync.rs`.
//!
//! Architecture invariants:
//! - A local change is accepted, and may be sent, only when its note is on the device's disk ([`Core::stored`]).
//! - When the device cannot write, changes that were not stored are undone: the CRDT is rebuilt without them.
//! - `base` and the updates after it equal the content of the journal: the CRDT can always be rebuilt from them.

use std::collections::HashSet;

use bytes::Bytes;
use syncline_protocol::ids::Seq;
use syncline_protocol::limits::DEFAULT_MAX_MESSAGE_BYTES;
use syncline_protocol::native::{Cursor, Version};
use syncline_protocol::update::{EMPTY_UPDATE, ScanLimits, scan_update};
use syncline_replica::{CrdtError, Replica};
use thiserror::Error;
use yrs::TransactionMut;

use super::clock::Clock;
use super::journal::{Note, Proposed, Snapshot};
use super::queue::{Queue, Queued, State, What};
use super::registers;
use super::status::{Event, SyncReport, SyncState};
use super::sync::Link;

/// Number of updates after the base at which the journal is compacted into a new base.
const COMPACT_UPDATES: usize = if cfg!(test) { 8 } else { 500 };

/// Upper bound of the bytes that a message adds to a change.
const MESSAGE_OVERHEAD_BYTES: usize = 32;

/// Why a change was not made. The document is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Rejected {
    #[error("the change failed and was undone: {0}")]
    Failed(String),
    #[error("the change is too large to be sent to a server; split it: {0}")]
    TooMuch(String),
    #[error(
        "the history of the document changed on the server and a rebase is running; try again when it has finished"
    )]
    HistoryChanged,
}

/// A write to the journal.
#[derive(Debug)]
pub(crate) enum Write {
    Note(Note),
    /// Replaces every note before it.
    Snapshot(Snapshot),
}

/// The results of inputs. The caller takes them out, and carries out writes before frames.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    pub(crate) writes: Vec<Write>,
    pub(crate) frames: Vec<Bytes>,
    pub(crate) events: Vec<Event>,
}

/// One update, as in the journal.
#[derive(Debug, Clone)]
pub(super) struct Update {
    pub(super) bytes: Bytes,
    pub(super) of: Origin,
}

/// The origin of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Made on this device, with the id of its queue entry.
    Edit(u128),
    /// A remote change, with its sequence number in the document. Until a `Durable` covers it, a crash of the server
    /// may lose it, and this device may have the only copy.
    Remote(Seq),
    /// A remote change that was sent again on this connection.
    SentAgain(Seq),
}

pub(crate) struct Core {
    pub(super) replica: Replica,
    /// The state that the server is known to have on its disk, as one update.
    pub(super) base: Bytes,
    /// All updates after the base, in order.
    pub(super) updates: Vec<Update>,
    pub(super) update_bytes: usize,
    pub(super) queue: Queue,
    /// Sequence number of the newest note handed to the journal.
    pub(super) written: Seq,
    /// Position up to which this device and the server's disk agree, and the time when they last did.
    pub(super) in_step: Option<(Cursor, u64)>,
    /// The position of `in_step` recorded in the journal.
    pub(super) noted: Option<Cursor>,
    pub(super) link: Link,
    pub(super) sync: SyncState,
    pub(super) saved: u64,
    pub(super) remote_changes: u64,
    pub(super) report: Option<SyncReport>,
    /// Size limit of messages to the server; the default until the server's `Welcome`.
    pub(super) max_message_bytes: usize,
    pub(super) clock: Clock,
    /// Number of updates after the base at which the journal is compacted into a new base.
    pub(super) compact_updates: usize,
}

impl Core {
    /// Loads a document from its journal; `last` is the sequence number of the newest note. Updates that cannot be
    /// applied are skipped and reported as texts.
    pub(crate) fn load(snapshot: Snapshot, notes: Vec<Note>, last: Seq) -> (Self, Vec<String>) {
        let mut core = Self {
            replica: Replica::default(),
            base: snapshot.base,
            updates: Vec::new(),
            update_bytes: 0,
            queue: Queue::default(),
            written: last,
            in_step: snapshot.in_step,
            noted: snapshot.in_step.map(|(cursor, _)| cursor),
            link: Link::Down,
            sync: SyncState::Offline,
            saved: 0,
            remote_changes: 0,
            report: None,
            max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
            clock: Clock::default(),
            compact_updates: COMPACT_UPDATES,
        };
        for note in snapshot.notes.into_iter().chain(notes) {
            core.queue.replay(&note);
            match note {
                Note::Edit { id, update, .. } => core.append_update(update, Origin::Edit(id)),
                Note::Restamp { id, update, offset_ms, .. } => {
                    core.append_update(update, Origin::Edit(id));
                    core.clock = Clock::noted(offset_ms);
                }
                Note::Clock { offset_ms } => core.clock = Clock::noted(offset_ms),
                Note::Remote { seq, update } => core.append_update(update, Origin::Remote(seq)),
                Note::InStep { cursor, at_ms } => {
                    core.in_step = Some((cursor, at_ms));
                    core.noted = Some(cursor);
                }
                _ => {}
            }
        }
        let problems = core.rebuild();
        (core, problems)
    }

    /// Returns the sequence number of the newest note handed to the journal.
    pub(crate) fn written(&self) -> Seq {
        self.written
    }

    /// Returns the greatest id in the queue; ids of later entries must be greater.
    pub(crate) fn newest_id(&self) -> u128 {
        self.queue.iter().map(|entry| entry.id).max().unwrap_or(0)
    }

    /// Forgets the position: the next sync uses state vectors.
    pub(crate) fn forget_cursor(&mut self) {
        (self.in_step, self.noted) = (None, None);
    }

    /// Changes the document. The change is accepted when the returned note is stored; `None` if nothing was changed.
    pub(crate) fn edit<R>(
        &mut self,
        id: u128,
        at_ms: u64,
        change: impl FnOnce(&mut TransactionMut<'_>) -> R,
        out: &mut Outputs,
    ) -> Result<(R, Option<Seq>), Rejected> {
        if self.sync == SyncState::HistoryChanged && self.link.is_rebasing() {
            return Err(Rejected::HistoryChanged);
        }
        let (result, update) = self.change(change)?;
        let Some(update) = update else { return Ok((result, None)) };
        self.note_clock(out);
        let note = Note::Edit { id, at_ms, update: update.clone() };
        Ok((result, Some(self.enqueue(id, at_ms, update, note, out))))
    }

    /// Changes the CRDT only, and returns the update; `None` if nothing was changed.
    pub(super) fn change<R>(
        &mut self,
        change: impl FnOnce(&mut TransactionMut<'_>) -> R,
    ) -> Result<(R, Option<Bytes>), Rejected> {
        let (result, update) = match self.replica.edit(change) {
            Ok(done) => done,
            Err(error) => {
                self.rebuild();
                return Err(Rejected::Failed(error.to_string()));
            }
        };
        if update[..] == EMPTY_UPDATE {
            return Ok((result, None));
        }
        let limit = self.max_message_bytes.saturating_sub(MESSAGE_OVERHEAD_BYTES);
        let scanned = match scan_update(&update, &ScanLimits::default()) {
            Ok(_) if update.len() > limit => Err(format!("it has {} bytes, the limit is {limit}", update.len())),
            scanned => scanned.map(drop).map_err(|error| error.to_string()),
        };
        if let Err(error) = scanned {
            self.rebuild();
            return Err(Rejected::TooMuch(error));
        }
        Ok((result, Some(update)))
    }

    /// Adds a change that was made to the queue, with this note.
    pub(super) fn enqueue(&mut self, id: u128, at_ms: u64, update: Bytes, note: Note, out: &mut Outputs) -> Seq {
        let seq = self.note(note, out);
        self.append_update(update.clone(), Origin::Edit(id));
        self.queue.push(Queued::new(id, at_ms, What::Edit { update }, seq));
        seq
    }

    /// Queues a write to a versioned register. It is based on the newest proposal for that register in the queue, or else
    /// on the version that the server decided last.
    pub(crate) fn propose(
        &mut self,
        id: u128,
        at_ms: u64,
        register: String,
        author: String,
        value: Bytes,
        out: &mut Outputs,
    ) -> Result<Seq, Rejected> {
        registers::check(&register, &author, &value).map_err(Rejected::TooMuch)?;
        let queued = self.queue.iter().rev().find_map(|entry| match &entry.what {
            What::Proposal(before) if before.register == register && !matches!(entry.state, State::Refused { .. }) => {
                Some(Version { number: before.based_on.map_or(1, |version| version.number + 1), id: before.id })
            }
            _ => None,
        });
        let based_on = queued.or_else(|| self.replica.read(|txn| registers::version(txn, &register)));
        let proposed = Proposed { id, at_ms, register, based_on, author, value };
        let seq = self.note(Note::Proposal(proposed.clone()), out);
        self.queue.push(Queued::new(id, at_ms, What::Proposal(proposed), seq));
        Ok(seq)
    }

    /// All notes up to this one are on the device's disk.
    pub(crate) fn stored(&mut self, upto: Seq, out: &mut Outputs) {
        self.queue.stored(upto);
        self.pump(out);
    }

    /// The device cannot write: undoes changes that were not stored. Returns true if there were any.
    pub(crate) fn storage_failed(&mut self) -> bool {
        let lost: Vec<u128> = self.queue.take_unstored().into_iter().map(|entry| entry.id).collect();
        if lost.is_empty() {
            return false;
        }
        self.clock.entries_lost(&lost);
        self.updates.retain(|update| !matches!(update.of, Origin::Edit(id) if lost.contains(&id)));
        self.update_bytes = self.updates.iter().map(|update| update.bytes.len()).sum();
        self.rebuild();
        true
    }

    /// Returns the state that the server is known to have on its disk.
    pub(super) fn base_replica(&self) -> Result<Replica, CrdtError> {
        self.replica_of(|_| false)
    }

    /// Returns the state that the server is known to have on its disk, plus the updates for which `has` is true.
    pub(super) fn replica_of(&self, has: impl Fn(&Update) -> bool) -> Result<Replica, CrdtError> {
        let in_queue = self.queue.ids();
        let saved = self
            .updates
            .iter()
            .filter(|update| self.is_on_server_disk(update, &in_queue) || has(update))
            .map(|update| update.bytes.clone());
        Replica::load(std::iter::once(self.base.clone()).filter(|base| !base.is_empty()).chain(saved))
    }

    /// True if a part of this document is known to be on the server's disk.
    pub(super) fn has_something_saved(&self) -> bool {
        let in_queue = self.queue.ids();
        let is_empty = self.base.is_empty() || self.base[..] == EMPTY_UPDATE;
        !is_empty || self.updates.iter().any(|update| self.is_on_server_disk(update, &in_queue))
    }

    /// True if the server has confirmed that this update is on its disk.
    pub(super) fn is_on_server_disk(&self, update: &Update, in_queue: &HashSet<u128>) -> bool {
        match update.of {
            Origin::Edit(id) => !in_queue.contains(&id),
            Origin::SentAgain(_) => false,
            Origin::Remote(seq) => seq <= self.in_step.map_or(Seq::ZERO, |(cursor, _)| cursor.seq),
        }
    }

    /// Hands a note to the journal and returns its sequence number.
    pub(super) fn note(&mut self, note: Note, out: &mut Outputs) -> Seq {
        self.written = self.written.next();
        out.writes.push(Write::Note(note));
        self.written
    }

    pub(super) fn append_update(&mut self, bytes: Bytes, of: Origin) {
        self.update_bytes += bytes.len();
        self.updates.push(Update { bytes, of });
    }
}

#[cfg(test)]
mod tests;
