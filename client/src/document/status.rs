//! Status, queue entries, events and reports of a document, as plain values for bindings of any language.

use syncline_protocol::native::Cursor;
use ulid::Ulid;

use crate::types::apart::Overlap;
use crate::types::rebase::RebaseReport;
use crate::types::register::RegisterState;
use crate::types::value::Value;

/// The sync state of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncState {
    /// There is no connection. The document can still be edited.
    Offline,
    /// Connected; changes of the server are still missing.
    Syncing,
    /// The document contains every change that the server had; further changes arrive as they are made.
    Synced,
    /// The server has another history of this document than this device: the document was purged, or restored from a
    /// backup. Nothing is exchanged until [`super::Document::rebase`] or [`super::Document::discard`].
    HistoryChanged,
    /// The document was deleted on the server. The local copy is kept and can be exported.
    Deleted,
    /// The server denied access, with its reason. Retried after [`crate::device::Device::set_token`].
    Refused(String),
}

/// A snapshot of a document's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentStatus {
    /// The sync state.
    pub sync: SyncState,
    /// True if the server grants read access only: it refuses edits.
    pub read_only: bool,
    /// Number of entries not sent yet: stored on this device or being stored.
    pub pending: u64,
    /// Number of entries sent and not confirmed yet.
    pub sent: u64,
    /// Number of entries confirmed to be on the server's disk since this document was opened.
    pub saved: u64,
    /// Number of entries that the server refused; see [`super::Document::queue`].
    pub refused: u64,
    /// Number of remote changes applied since this document was opened.
    pub remote_changes: u64,
    /// The server's history and a position in it: every change up to there is both on the server's disk and on this
    /// device. `None` before the first sync.
    pub cursor: Option<Cursor>,
}

/// An edit or register write of this device that the server has not confirmed.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Id of the entry, unique across devices.
    pub id: Ulid,
    /// Time of the edit, in milliseconds since the Unix epoch, by this device's clock as corrected by the server.
    pub at_ms: u64,
    /// Id of the device that made the edit.
    pub device: Ulid,
    /// An edit or a register write.
    pub what: EntryKind,
    /// Progress of the entry.
    pub state: EntryState,
}

/// The kind of a queue entry.
#[derive(Debug, Clone, PartialEq)]
pub enum EntryKind {
    /// A change of the document.
    Edit {
        /// Size of the v1 update, in bytes.
        bytes: u64,
    },
    /// A write to a versioned register.
    Proposal {
        /// Name of the register.
        register: String,
        /// The proposed value.
        value: Value,
    },
}

/// Progress of a queue entry. Saved and decided entries leave the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryState {
    /// On this device's disk, or being written to it; not sent.
    Pending,
    /// Sent on the current connection, not confirmed.
    Sent,
    /// Refused by the server. The entry stays in the queue and is sent again after
    /// [`crate::device::Device::set_token`].
    Refused {
        /// Close code, see the table in `protocol/SPEC.md`.
        code: u16,
        /// The server's reason, as text.
        reason: String,
    },
}

/// The result of one sync.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SyncReport {
    /// Time since the document was last synced, in milliseconds; 0 if it never was.
    pub offline_ms: u64,
    /// Number of queue entries sent.
    pub sent_entries: u64,
    /// Bytes of this document's messages to the server.
    pub sent_bytes: u64,
    /// Bytes of this document's messages from the server.
    pub received_bytes: u64,
    /// Bytes that sending the whole document in both directions would have taken.
    pub full_bytes: u64,
    /// Keys, ranges and registers that both sides changed since the last sync.
    pub both_changed: Vec<Overlap>,
}

impl SyncReport {
    /// Returns the bytes saved by exchanging differences instead of the whole document.
    pub fn saved_bytes(&self) -> u64 {
        self.full_bytes.saturating_sub(self.sent_bytes + self.received_bytes)
    }
}

/// An event of a document. The status that belongs to an event is published before the event.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A sync is complete: sent once per connection, when the document first becomes [`SyncState::Synced`].
    Synced(SyncReport),
    /// A remote change was applied to the document.
    Changed,
    /// Entries are on the server's disk and have left the queue.
    Saved {
        /// Ids of the entries, oldest first.
        entries: Vec<Ulid>,
    },
    /// The server refused an entry; it stays in the queue.
    Refused {
        /// Id of the entry.
        entry: Ulid,
        /// Close code, see the table in `protocol/SPEC.md`.
        code: u16,
        /// The server's reason, as text.
        reason: String,
    },
    /// The server decided on a write to a versioned register; the entry has left the queue.
    Decided {
        /// Id of the entry.
        entry: Ulid,
        /// True if the server accepted the write.
        accepted: bool,
        /// Name of the register.
        register: String,
        /// State of the register after the decision; after a rejection, the write that won. `None` if it was never
        /// written.
        current: Option<RegisterState>,
        /// The proposed value.
        mine: Value,
    },
    /// The server has another history of the document than this device; see [`SyncState::HistoryChanged`].
    HistoryChanged {
        /// Position in the history known on this device.
        was: Cursor,
        /// Position in the server's history.
        now: Cursor,
    },
    /// Unsaved edits were applied to the server's history after [`super::Document::rebase`].
    Rebased(RebaseReport),
    /// The document was deleted on the server.
    Deleted,
    /// The server's time shows that the device's clock is off by more than [`crate::types::clock::MAX_DRIFT_MS`]. The
    /// device uses the server's time from now on, and corrects the stamps of unsaved writes to latest-wins maps.
    ClockCorrected {
        /// The server's time minus the time used so far, in milliseconds.
        offset_ms: i64,
    },
    /// The device's store failed, with the reason. Edits fail until [`Event::StorageBack`]; edits that were not stored
    /// were undone.
    StorageFailed(String),
    /// The device's store works again, and everything is on the device's disk.
    StorageBack,
    /// The stream was read too slowly: this many events were dropped.
    Lagged(u64),
}

/// An exported document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The whole document, as one Yjs v1 update.
    pub update: Vec<u8>,
    /// The edits that the server has not confirmed, as one Yjs v1 update that depends on the rest of the document.
    pub unsaved: Vec<u8>,
}
