//! The interface between the log and a storage engine, independent of the engine.

use std::path::PathBuf;

use bytes::Bytes;
use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use thiserror::Error;
use xxhash_rust::xxh3::Xxh3;

/// One update in a document's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its sequence number in the document: from 1, without gaps.
    pub seq: Seq,
    /// When the server accepted it, in milliseconds since the Unix epoch. Only shown to people; no logic depends on it.
    pub time_ms: u64,
    /// The v1 update, as received.
    pub update: Bytes,
}

/// The state of a document up to a record. It replaces the records before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The last record it contains.
    pub upto: Seq,
    /// The state as one v1 update.
    pub update: Bytes,
}

/// One step of a commit. Steps of one document apply in order.
#[derive(Debug, Clone)]
pub enum Write {
    /// Appends records. The first append to a document creates it with `epoch`. Without records it changes nothing.
    Append {
        /// The document to append to.
        document: DocumentName,
        /// The identity of the document's history. Ignored when the document already has one.
        epoch: Epoch,
        /// Consecutive records; the first follows the document's last record.
        records: Vec<Record>,
    },
    /// Replaces the records up to `snapshot.upto`, and any older snapshot, by `snapshot`. A snapshot that is not newer
    /// than the stored one changes nothing.
    Compact {
        /// The document to compact.
        document: DocumentName,
        /// The state that replaces the records.
        snapshot: Snapshot,
    },
    /// Removes the document. Removing a document that does not exist changes nothing.
    Delete {
        /// The document to remove.
        document: DocumentName,
    },
    /// Replaces the document by a [`TOMBSTONE`]. Its name is never free in between.
    Bury {
        /// The document to replace.
        document: DocumentName,
        /// The identity of the history that begins with the tombstone.
        epoch: Epoch,
        /// The time of the tombstone's record, see [`Record::time_ms`].
        time_ms: u64,
    },
}

impl Write {
    /// The document that the step changes.
    pub fn document(&self) -> &DocumentName {
        match self {
            Self::Append { document, .. }
            | Self::Compact { document, .. }
            | Self::Delete { document }
            | Self::Bury { document, .. } => document,
        }
    }
}

/// A document as it is stored, verified against its checksums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The identity of its history.
    pub epoch: Epoch,
    /// The newest snapshot; `None` if the document was never compacted.
    pub snapshot: Option<Snapshot>,
    /// The records after the snapshot, in order.
    pub records: Vec<Record>,
}

/// The update of the single record that a deleted document keeps. It is not a valid update: the shortest has two bytes.
pub const TOMBSTONE: Bytes = Bytes::new();

impl Stored {
    /// What [`Write::Bury`] stores.
    pub fn tombstone(epoch: Epoch, time_ms: u64) -> Self {
        let record = Record { seq: Seq::ZERO.next(), time_ms, update: TOMBSTONE };
        Self { epoch, snapshot: None, records: vec![record] }
    }

    /// Whether the document was deleted: its only record is a [`TOMBSTONE`].
    pub fn is_tombstone(&self) -> bool {
        self.snapshot.is_none() && matches!(&self.records[..], [only] if only.update == TOMBSTONE)
    }

    /// Computes a mark, for engines that do not store one.
    fn mark(&self) -> Mark {
        let mut digest = Xxh3::new();
        if let Some(snapshot) = &self.snapshot {
            digest.update(&snapshot.upto.0.to_le_bytes());
            digest.update(&snapshot.update);
        }
        for record in &self.records {
            digest.update(&record.seq.0.to_le_bytes());
            digest.update(&record.update);
        }
        Mark { epoch: self.epoch, last: self.last(), digest: digest.digest() }
    }

    /// The sequence number of the last record.
    pub fn last(&self) -> Seq {
        let before = self.snapshot.as_ref().map_or(Seq::ZERO, |snapshot| snapshot.upto);
        self.records.last().map_or(before, |record| record.seq)
    }
}

/// A fingerprint of a document's stored state, to detect changes without reading the document. A compaction, which
/// stores the same state in another form, may change it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The identity of its history.
    pub epoch: Epoch,
    /// The sequence number of the last record.
    pub last: Seq,
    /// A digest of everything that is stored for the document.
    pub digest: u64,
}

/// The readable remains of a damaged document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvaged {
    /// The readable parts; the records may have gaps. `None`: nothing is readable.
    pub stored: Option<Stored>,
    /// Descriptions of the missing parts.
    pub lost: Vec<String>,
}

/// Why a store operation failed.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// The engine or the operating system returned an error.
    #[error("the store failed: {0}")]
    Io(String),
    /// The data on disk is not what was written.
    #[error("document {document:?} is damaged at record {seq}: {what}")]
    Damaged {
        /// The damaged document.
        document: DocumentName,
        /// The first record that is missing or damaged.
        seq: Seq,
        /// A description of the damage.
        what: String,
    },
    /// The directory does not exist or does not contain a store. It was not changed.
    #[error("there is no Syncline store in {}", dir.display())]
    NoStore {
        /// The data directory.
        dir: PathBuf,
    },
    /// The store cannot be opened. Syncline did not change anything in it.
    #[error("the store in {} cannot be opened: {what}", dir.display())]
    Open {
        /// The data directory.
        dir: PathBuf,
        /// The cause, and what the operator can do.
        what: String,
    },
    /// Another process has the store open.
    #[error("data directory {} is in use by process {holder}", dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// The process id, or "unknown".
        holder: String,
    },
    /// A step does not continue the stored records: a bug in the caller.
    #[error("document {document:?}: expected record {expected}, got record {found}")]
    OutOfOrder {
        /// The document of the step.
        document: DocumentName,
        /// The sequence number that would continue the stored records.
        expected: Seq,
        /// The sequence number of the step.
        found: Seq,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// A storage engine. Calls block; they run on the log's thread and on Tokio's blocking pool.
pub trait Store: Send + Sync + 'static {
    /// Applies all steps and returns once all of them are durable.
    ///
    /// Each step is atomic. After a crash during the call, every document has its state from before the call plus the
    /// first few of its own steps, in order, never part of a step. There is no guarantee across documents. After an
    /// error the outcome is unknown, and the caller must not rely on any later call.
    fn commit(&self, writes: &[Write]) -> Result<(), StoreError>;

    /// Reads a document and verifies it. `None`: there is no such document.
    fn load(&self, document: &DocumentName) -> Result<Option<Stored>, StoreError>;

    /// Reads the readable parts of a document for which [`Store::load`] returns [`StoreError::Damaged`].
    fn salvage(&self, document: &DocumentName) -> Result<Salvaged, StoreError> {
        self.load(document).map(|stored| Salvaged { stored, lost: Vec::new() })
    }

    /// The fingerprint of the document's stored state. `None`: there is no such document.
    fn mark(&self, document: &DocumentName) -> Result<Option<Mark>, StoreError> {
        Ok(self.load(document)?.map(|stored| stored.mark()))
    }

    /// The store's random identity, drawn when it was created. 0 for engines that do not persist anything.
    fn identity(&self) -> Result<u128, StoreError> {
        Ok(0)
    }

    /// The names of all documents, in no particular order.
    fn list(&self) -> Result<Vec<DocumentName>, StoreError>;

    /// Writes everything that a clean shutdown needs and closes the files. Later calls return [`StoreError::Closed`].
    fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
