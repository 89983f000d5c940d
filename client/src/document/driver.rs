//! PURE: one document on one device, for programs that bring their own store, socket and time: what a
//! [`crate::Device`]'s task does with a document, without the task. The simulation drives it.
//!
//! Inputs are methods. After each, [`Machine::take`] gives what follows: writes for the journal, in order, and frames
//! for the socket, which may leave at once. [`Machine::stored`] tells when the journal has come how far.

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

/// One document. See the module's words.
pub struct Machine {
    core: Core,
    out: Outputs,
    /// The newest note given out.
    handed: Seq,
}

/// Something for the journal: a log of its own.
#[derive(Debug, Clone)]
pub enum JournalWrite {
    /// Follows what is there.
    Append(Record),
    /// In place of everything up to its number.
    Compact(Snapshot),
}

/// What follows from an input.
#[derive(Debug, Default)]
pub struct Follows {
    /// For the journal.
    pub writes: Vec<JournalWrite>,
    /// For the socket.
    pub frames: Vec<Bytes>,
    /// For the app.
    pub events: Vec<Event>,
}

impl Machine {
    /// A document as its journal tells it. Notes that cannot be used are told in words, and left out.
    pub fn load(stored: Option<&Stored>) -> (Self, Vec<String>) {
        let (core, problems) = read(stored);
        let handed = core.written();
        (Self { core, out: Outputs::default(), handed }, problems)
    }

    /// Makes a new base of its journal after so many updates.
    pub fn compact_after(&mut self, updates: usize) {
        self.core.compact_updates = updates;
    }

    /// What followed since this was asked last.
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

    /// Changes the document. It is accepted when the journal has come to the returned number; `None`: nothing was changed.
    ///
    /// # Errors
    /// When the change cannot be; the document is as it was.
    pub fn edit(
        &mut self,
        id: Ulid,
        at_ms: u64,
        change: impl FnOnce(&mut TransactionMut<'_>),
    ) -> Result<Option<Seq>, EditError> {
        let edited = self.core.edit(id.0, at_ms, change, &mut self.out);
        edited.map(|((), seq)| seq).map_err(|error| EditError::Rejected(error.to_string()))
    }

    /// Queues a write to a versioned register. It is accepted when the journal has come to the returned number.
    ///
    /// # Errors
    /// When name or value are too large.
    pub fn propose(&mut self, id: Ulid, at_ms: u64, register: &str, value: &Any) -> Result<Seq, EditError> {
        let (register, author) = (register.to_owned(), String::new());
        let proposed = self.core.propose(id.0, at_ms, register, author, registers::encode(value), &mut self.out);
        proposed.map_err(|error| EditError::Rejected(error.to_string()))
    }

    /// A connection is there: opens the document on it. False when that cannot help.
    pub fn connected(&mut self, channel: Channel, name: &str, now_ms: u64) -> bool {
        self.core.connected(channel, name, "", now_ms, &mut self.out)
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, now_ms: u64) {
        self.core.disconnected(now_ms, &mut self.out);
        self.out.frames.clear();
    }

    /// The server said something about this document; `frame_bytes` is the frame's length.
    ///
    /// # Errors
    /// What it said cannot be used: the document was left, and is to be opened again.
    pub fn received(&mut self, message: &ToClient<'_>, frame_bytes: usize, now_ms: u64) -> Result<(), String> {
        let received = self.core.received(message, frame_bytes, now_ms, &mut self.out);
        received.map_err(|error| {
            self.core.leave(now_ms, &mut self.out);
            error.to_string()
        })
    }

    /// True after the server closed the document: to be opened again in a while.
    pub fn wants_reopening(&self) -> bool {
        self.core.wants_reopening()
    }

    /// What was refused is tried again, on another channel: the caller opens it.
    pub fn retry_refused(&mut self, now_ms: u64) {
        self.core.retry_refused(now_ms, &mut self.out);
    }

    /// Fetches the new history, onto which the queue is put. False when there is nothing to do.
    pub fn begin_rebase(&mut self, channel: Channel, name: &str) -> bool {
        self.core.begin_rebase(channel, name, "", &mut self.out)
    }

    /// The journal has come this far.
    pub fn stored(&mut self, upto: Seq) {
        self.core.stored(upto, &mut self.out);
        self.core.compact(&mut self.out);
    }

    /// The journal takes no more: what was not stored is taken back. Until [`Machine::storage_is_back`] writes are of no
    /// use.
    pub fn storage_failed(&mut self) {
        self.core.storage_failed();
    }

    /// The journal takes writes again, and its newest note is this one: everything is written anew.
    pub fn storage_is_back(&mut self, last: Seq) {
        self.handed = last;
        self.out.writes.clear();
        self.core.storage_is_back(last, &mut self.out);
    }

    /// The document at a glance.
    pub fn status(&self) -> DocumentStatus {
        self.core.status()
    }

    /// Looks at the document.
    pub fn read<R>(&self, look: impl FnOnce(&Transaction<'_>) -> R) -> R {
        self.core.read(look)
    }
}
