//! What an app can see of a document: its queue, its sync, what happened. Plain values: any language can hold them.

use syncline_protocol::native::Cursor;
use ulid::Ulid;

use crate::types::apart::Overlap;
use crate::types::rebase::RebaseReport;
use crate::types::register::RegisterState;
use crate::types::value::Value;

/// How a document stands with its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncState {
    /// No connection. Editing goes on.
    Offline,
    /// Connected, and not yet in step.
    Syncing,
    /// Everything the server had is here; changes come as they are made.
    Synced,
    /// The server has another history of this document than the one known here (it was purged, or restored from a
    /// backup). Nothing is exchanged until [`super::Document::rebase`] or [`super::Document::discard`].
    HistoryChanged,
    /// The document was deleted at the server. What is here stays and can be exported.
    Deleted,
    /// The server will not let us in, with its reason. Tried again after [`crate::device::Device::set_token`].
    Refused(String),
}

/// A document at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentStatus {
    /// How it stands with the server.
    pub sync: SyncState,
    /// We may look, not change: edits are refused by the server.
    pub read_only: bool,
    /// Stored on this device, waiting for a connection.
    pub pending: u64,
    /// Sent, not yet confirmed.
    pub sent: u64,
    /// Confirmed by the server as being on its disk, since this document was opened.
    pub saved: u64,
    /// Refused by the server; see [`super::Document::queue`].
    pub refused: u64,
    /// Counts changes by others.
    pub remote_changes: u64,
    /// How far in which history: everything up to here is on the server's disk and here.
    pub cursor: Option<Cursor>,
}

/// Something this device did and the server has not confirmed.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its id, on every device.
    pub id: Ulid,
    /// When, in milliseconds since the Unix epoch by this device's clock.
    pub at_ms: u64,
    /// Which device.
    pub device: Ulid,
    /// What.
    pub what: EntryKind,
    /// How far it has come.
    pub state: EntryState,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq)]
pub enum EntryKind {
    /// A change of the document.
    Edit {
        /// Its size as an update.
        bytes: u64,
    },
    /// A write to a versioned register.
    Proposal {
        /// Which register.
        register: String,
        /// The new value.
        value: Value,
    },
}

/// How far an entry has come. A saved one leaves the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryState {
    /// On this device's disk.
    Pending,
    /// On its way.
    Sent,
    /// The server will not have it; it stays here.
    Refused {
        /// From the table of close codes.
        code: u16,
        /// In words.
        reason: String,
    },
}

/// What one sync did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SyncReport {
    /// Since the device was last in step, in milliseconds; 0 for a document that never was.
    pub offline_ms: u64,
    /// Entries of the queue that were sent.
    pub sent_entries: u64,
    /// Bytes of messages about this document, to the server.
    pub sent_bytes: u64,
    /// Bytes of messages about this document, from the server.
    pub received_bytes: u64,
    /// What sending the whole document both ways would have cost.
    pub full_bytes: u64,
    /// Which keys, ranges and registers both sides changed while apart.
    pub both_changed: Vec<Overlap>,
}

impl SyncReport {
    /// Bytes not sent because only differences were.
    pub fn saved_bytes(&self) -> u64 {
        self.full_bytes.saturating_sub(self.sent_bytes + self.received_bytes)
    }
}

/// Something happened to a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A sync is complete.
    Synced(SyncReport),
    /// Others changed the document.
    Changed,
    /// These entries are on the server's disk.
    Saved {
        /// Oldest first.
        entries: Vec<Ulid>,
    },
    /// The server will not have this entry; it stays in the queue.
    Refused {
        /// Which.
        entry: Ulid,
        /// From the table of close codes.
        code: u16,
        /// In words.
        reason: String,
    },
    /// The server decided on a write to a versioned register.
    Decided {
        /// Which.
        entry: Ulid,
        /// Whether the register took it.
        accepted: bool,
        /// Which register.
        register: String,
        /// The register now: when refused, the other's value, author, time and version.
        current: Option<RegisterState>,
        /// What was proposed.
        mine: Value,
    },
    /// The server has another history than the one known here.
    HistoryChanged {
        /// Known here.
        was: Cursor,
        /// At the server.
        now: Cursor,
    },
    /// What was not saved was put upon the server's history.
    Rebased(RebaseReport),
    /// The document was deleted at the server.
    Deleted,
    /// The device learned that its clock is off by more than [`crate::types::clock::MAX_DRIFT_MS`], and goes by the
    /// server's from now on. What was written to latest-wins maps and is not saved was moved to the right time.
    ClockCorrected {
        /// True time minus what was taken for it, in milliseconds.
        offset_ms: i64,
    },
    /// The device cannot write: edits are refused until it can, the document is as it was.
    StorageFailed(String),
    /// The device can write again, and everything is on its disk.
    StorageBack,
    /// The stream was read too slowly: this many events were left out.
    Lagged(u64),
}

/// A document to take elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Everything, as one v1 update.
    pub update: Vec<u8>,
    /// What the server has not confirmed, as one v1 update on top of the rest.
    pub unsaved: Vec<u8>,
}
