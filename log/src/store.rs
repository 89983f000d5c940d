//! What the log needs from a storage engine. Nothing here knows which engine it is.

use std::path::PathBuf;

use bytes::Bytes;
use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use thiserror::Error;
use xxhash_rust::xxh3::Xxh3;

/// One update in a document's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number in the document, from 1, without gaps.
    pub seq: Seq,
    /// When the server took it, in milliseconds since the Unix epoch. For people; nothing depends on it.
    pub time_ms: u64,
    /// The v1 update, as received.
    pub update: Bytes,
}

/// The state of a document up to a record, in place of the records before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The last record it contains.
    pub upto: Seq,
    /// The state as one v1 update.
    pub update: Bytes,
}

/// One step of a commit. Steps of one document are in order.
#[derive(Debug, Clone)]
pub enum Write {
    /// Adds records. The first append of a document creates it with `epoch`. No records: no change.
    Append {
        /// Whose log.
        document: DocumentName,
        /// The identity of this history; ignored when the document already has one.
        epoch: Epoch,
        /// Consecutive, beginning one after the last.
        records: Vec<Record>,
    },
    /// Replaces the records up to `snapshot.upto`, and any older snapshot, by `snapshot`. One that is not newer
    /// than the stored snapshot changes nothing.
    Compact {
        /// Whose log.
        document: DocumentName,
        /// What replaces them.
        snapshot: Snapshot,
    },
    /// Forgets the document. Forgetting one that is not there changes nothing.
    Delete {
        /// Whose log.
        document: DocumentName,
    },
}

impl Write {
    /// The steps that put a [`TOMBSTONE`] in a document's place, with a history of its own. A crash between the two leaves
    /// nothing of the document.
    pub fn bury(document: &DocumentName, epoch: Epoch, time_ms: u64) -> [Self; 2] {
        let tombstone = Record { seq: Seq::ZERO.next(), time_ms, update: TOMBSTONE };
        let append = Write::Append { document: document.clone(), epoch, records: vec![tombstone] };
        [Write::Delete { document: document.clone() }, append]
    }
}

/// A document as it lies on disk, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The identity of its history.
    pub epoch: Epoch,
    /// The newest snapshot, if there is one.
    pub snapshot: Option<Snapshot>,
    /// The records after it, in order.
    pub records: Vec<Record>,
}

/// The one record of a deleted document. It is no update: the shortest has two bytes.
pub const TOMBSTONE: Bytes = Bytes::new();

impl Stored {
    /// True for a document that was deleted: its history is one [`TOMBSTONE`].
    pub fn is_tombstone(&self) -> bool {
        self.snapshot.is_none() && matches!(&self.records[..], [only] if only.update == TOMBSTONE)
    }

    /// A mark for engines that keep none.
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

    /// The last record's number.
    pub fn last(&self) -> Seq {
        let before = self.snapshot.as_ref().map_or(Seq::ZERO, |snapshot| snapshot.upto);
        self.records.last().map_or(before, |record| record.seq)
    }
}

/// What tells one state of a document's log from another without reading it. A change of how the same records are
/// stored (a compaction) may change it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The identity of its history.
    pub epoch: Epoch,
    /// The last record's number.
    pub last: Seq,
    /// Over all that is stored.
    pub digest: u64,
}

/// What can still be read of a damaged document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvaged {
    /// What there is: the records may have gaps. `None`: nothing.
    pub stored: Option<Stored>,
    /// What is missing, in words.
    pub lost: Vec<String>,
}

/// Why the store could not do what was asked.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// The engine or the operating system refused.
    #[error("the store failed: {0}")]
    Io(String),
    /// What lies on disk is not what was written.
    #[error("document {document:?} is damaged at record {seq}: {what}")]
    Damaged {
        /// Which document.
        document: DocumentName,
        /// The first record that is missing or wrong.
        seq: Seq,
        /// What is wrong with it.
        what: String,
    },
    /// The directory does not exist or holds no store. It was not changed.
    #[error("there is no Syncline store in {}", dir.display())]
    NoStore {
        /// The data directory.
        dir: PathBuf,
    },
    /// The store cannot be opened. Nothing in it was changed by us.
    #[error("the store in {} cannot be opened: {what}", dir.display())]
    Open {
        /// The data directory.
        dir: PathBuf,
        /// What happened, and a way out.
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
    /// A step does not follow what is stored: a fault of the caller.
    #[error("document {document:?}: expected record {expected}, was given {found}")]
    OutOfOrder {
        /// Which document.
        document: DocumentName,
        /// What would have fitted.
        expected: Seq,
        /// What came.
        found: Seq,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// A storage engine. Calls block; the log's thread and Tokio's blocking pool make them.
pub trait Store: Send + Sync + 'static {
    /// Applies all steps and returns once every byte of them is on disk.
    ///
    /// Each step is atomic. After a crash inside the call every document has its state from before the call plus
    /// some number of its own steps, in order: never half a step. There is no promise between documents.
    /// After an error the outcome is unknown, and the caller believes no later call.
    fn commit(&self, writes: &[Write]) -> Result<(), StoreError>;

    /// Reads a document and checks it. `None`: there is no such document.
    fn load(&self, document: &DocumentName) -> Result<Option<Stored>, StoreError>;

    /// Reads what can be read of a document that [`Store::load`] calls damaged.
    fn salvage(&self, document: &DocumentName) -> Result<Salvaged, StoreError> {
        self.load(document).map(|stored| Salvaged { stored, lost: Vec::new() })
    }

    /// What tells the document's state from others. `None`: there is no such document.
    fn mark(&self, document: &DocumentName) -> Result<Option<Mark>, StoreError> {
        Ok(self.load(document)?.map(|stored| stored.mark()))
    }

    /// The store's own random identity, drawn when it was made. Engines that keep nothing have none: 0.
    fn identity(&self) -> Result<u128, StoreError> {
        Ok(0)
    }

    /// Every document's name.
    fn list(&self) -> Result<Vec<DocumentName>, StoreError>;

    /// Writes what a clean end needs and lets go of the files. Later calls answer [`StoreError::Closed`].
    fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
