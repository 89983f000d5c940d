//! PURE: one document on one device, for programs with their own store, socket and clock: what the task of a
//! [`crate::Device`] does with a document, without the task. Used by the simulation.
//!
//! Inputs are methods. After each input, [`Machine::take`] returns its results: writes for the journal, in order, and
//! frames for the socket, which can be sent immediately. Report stored journal writes with [`Machine::stored`].

use bytes::Bytes;
use syncline_log::{Record, Snapshot, Stored};
use syncline_protocol::ids::Seq;
use syncline_protocol::native::{Channel, ToClient};
use ulid::Ulid;
use yrs::{Any, Transaction, TransactionMut};

use super::core::{Core, Outputs, Write};
use super::status::{DocumentStatus, Event};
use super::{EditError, registers};
use crate::device::read;

/// The state machine of one document. See the module documentation.
pub struct Machine {
    core: Core,
    out: Outputs,
    /// Sequence number of the newest note returned by [`Machine::take`].
    handed: Seq,
}

/// A write to the journal.
#[derive(Debug, Clone)]
pub enum JournalWrite {
    /// Append a record.
    Append(Record),
    /// Replace all records up to the snapshot's sequence number.
    Compact(Snapshot),
}

/// The results of inputs.
#[derive(Debug, Default)]
pub struct Follows {
    /// Writes for the journal, in order.
    pub writes: Vec<JournalWrite>,
    /// Frames for the socket, in order.
    pub frames: Vec<Bytes>,
    /// Events for the app, in order.
    pub events: Vec<Event>,
}

impl Machine {
    /// Loads a document from its journal. Notes that cannot be used are skipped and reported as texts.
    pub fn load(stored: Option<&Stored>) -> (Self, Vec<String>) {
        let (core, problems) = read(stored);
        let handed = core.written();
        (Self { core, out: Outputs::default(), handed }, problems)
    }

    /// Sets the number of updates after which the journal is compacted.
    pub fn compact_after(&mut self, updates: usize) {
        self.core.compact_updates = updates;
    }

    /// Takes the results of all inputs since the last call.
    pub fn take(&mut self, now_ms: u64) -> Follows {
        let mut follows = Follows { frames: std::mem::take(&mut self.out.frames), ..Follows::default() };
        for write in std::mem::take(&mut self.out.writes) {
            follows.writes.push(match write {
                Write::Note(note) => {
                    self.handed = self.handed.next();
                    JournalWrite::Append(Record { seq: self.handed, time_ms: now_ms, update: note.encode() })
                }
                Write::Snapshot(snapshot) => {
                    JournalWrite::Compact(Snapshot { upto: self.handed, update: snapshot.encode() })
                }
            });
        }
        follows.events = std::mem::take(&mut self.out.events);
        follows
    }

    /// Changes the document. The change is accepted when the journal is stored up to the returned sequence number; `None`
    /// if nothing was changed.
    ///
    /// # Errors
    /// [`EditError::Rejected`] if the change is invalid; the document is unchanged then.
    pub fn edit(
        &mut self,
        id: Ulid,
        at_ms: u64,
        change: impl FnOnce(&mut TransactionMut<'_>),
    ) -> Result<Option<Seq>, EditError> {
        let edited = self.core.edit(id.0, at_ms, change, &mut self.out);
        edited.map(|((), seq)| seq).map_err(|error| EditError::Rejected(error.to_string()))
    }

    /// Queues a write to a versioned register. It is accepted when the journal is stored up to the returned sequence
    /// number.
    ///
    /// # Errors
    /// [`EditError::Rejected`] if the name or the value is too large.
    pub fn propose(&mut self, id: Ulid, at_ms: u64, register: &str, value: &Any) -> Result<Seq, EditError> {
        let (register, author) = (register.to_owned(), String::new());
        let proposed = self.core.propose(id.0, at_ms, register, author, registers::encode(value), &mut self.out);
        proposed.map_err(|error| EditError::Rejected(error.to_string()))
    }

    /// A connection is up: opens the document on it. Returns false if the document is open already, or if its history
    /// changed or it was deleted.
    pub fn connected(&mut self, channel: Channel, name: &str, now_ms: u64) -> bool {
        self.core.connected(channel, name, "", now_ms, &mut self.out)
    }

    /// The connection was lost.
    pub fn disconnected(&mut self, now_ms: u64) {
        self.core.disconnected(now_ms, &mut self.out);
        self.out.frames.clear();
    }

    /// Handles a message of the server for this document; `frame_bytes` is the length of its frame.
    ///
    /// # Errors
    /// The message is invalid. The document was closed on this connection and must be opened again.
    pub fn received(&mut self, message: &ToClient<'_>, frame_bytes: usize, now_ms: u64) -> Result<(), String> {
        let received = self.core.received(message, frame_bytes, now_ms, &mut self.out);
        received.map_err(|error| {
            self.core.leave(now_ms, &mut self.out);
            error.to_string()
        })
    }

    /// True if the caller must open the document again after a delay: the server closed it.
    pub fn wants_reopening(&self) -> bool {
        self.core.wants_reopening()
    }

    /// Makes refused entries pending again. The caller opens the document on another channel.
    pub fn retry_refused(&mut self, now_ms: u64) {
        self.core.retry_refused(now_ms, &mut self.out);
    }

    /// Starts to fetch the new history, onto which the queue is rebased. Returns false if the history has not changed.
    pub fn begin_rebase(&mut self, channel: Channel, name: &str) -> bool {
        self.core.begin_rebase(channel, name, "", &mut self.out)
    }

    /// The journal is stored up to this sequence number.
    pub fn stored(&mut self, upto: Seq) {
        self.core.stored(upto, &mut self.out);
        self.core.compact(&mut self.out);
    }

    /// The journal failed: changes that were not stored are undone. Writes are ignored until
    /// [`Machine::storage_is_back`].
    pub fn storage_failed(&mut self) {
        self.core.storage_failed();
    }

    /// The journal works again, and its newest note is `last`: everything is written to it again.
    pub fn storage_is_back(&mut self, last: Seq) {
        self.handed = last;
        self.out.writes.clear();
        self.core.storage_is_back(last, &mut self.out);
    }

    /// Returns a snapshot of the sync state and of the queue's counters.
    pub fn status(&self) -> DocumentStatus {
        self.core.status()
    }

    /// Reads the document in one transaction.
    pub fn read<R>(&self, look: impl FnOnce(&Transaction<'_>) -> R) -> R {
        self.core.read(look)
    }
}
