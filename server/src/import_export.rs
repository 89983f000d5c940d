//! Documents as files: one stored document out, one update in. The same for a running server and a stopped one.

use bytes::Bytes;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use syncline_log::store::Stored;
use syncline_protocol::update::{ScanError, ScanLimits, scan_update};
use syncline_protocol::varint::MAX_SAFE_INTEGER;
use syncline_replica::{Entered, HubDocument, JsonError, Refused, from_json, to_json};

/// The largest file that is imported.
pub const MAX_IMPORT_BYTES: u64 = 256 << 20;

/// How a document is written in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One Yjs v1 update: all of the document, and it can be merged
    Update,
    /// The content as plain JSON, for people and programs
    Json,
}

/// A document in a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// What the file holds.
    pub bytes: Vec<u8>,
    /// Updates that wait for others which never came. They are not in it.
    pub waiting: u64,
}

/// What importing an update would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing: all of it is there.
    Nothing,
    /// It brings something.
    Something,
}

/// Why a document cannot be written to a file, or a file not be taken.
#[derive(Debug, thiserror::Error)]
pub enum PortableError {
    /// There is nothing under this name but its end.
    #[error("it was deleted; `syncline purge` makes its name free")]
    Deleted,
    /// A stored update cannot be read, or the new one can be shown by nobody.
    #[error("{0}")]
    Unreadable(#[from] Refused),
    /// There is no JSON of it, or no document of the JSON.
    #[error("{0}")]
    Json(#[from] JsonError),
    /// It is not JSON at all.
    #[error("the file is no JSON: {0}")]
    NotJson(serde_json::Error),
    /// It looks like the other encoding.
    #[error(
        "this is a Yjs v2 update, and only v1 is read. In JavaScript: \
         Y.convertUpdateFormatV2ToV1(update) makes a v1 update of it"
    )]
    Version2,
    /// The scanner refuses it.
    #[error("the file is no Yjs v1 update that can be taken: {0}")]
    Refused(ScanError),
    /// It builds on what is not there.
    #[error("it builds on edits that this document does not have; import what it builds on first")]
    Waits,
}

/// Writes a stored document as one update.
pub fn export(stored: Stored) -> Result<Exported, PortableError> {
    let mut document = build(Some(stored))?;
    Ok(Exported { bytes: document.compact().to_vec(), waiting: document.pending().len() as u64 })
}

impl Exported {
    /// An update in another format. JSON needs a tree of the document, which may take much time and memory: only for a process
    /// that does nothing else.
    pub fn into_format(mut self, format: Format) -> Result<Self, PortableError> {
        if format == Format::Json {
            self.bytes = serde_json::to_vec_pretty(&to_json(&self.bytes)?).map_err(PortableError::NotJson)?;
            self.bytes.push(b'\n');
        }
        Ok(self)
    }
}

/// Reads a file as one scanned v1 update. JSON becomes a new document's.
pub fn read(file: Bytes, format: Format) -> Result<Bytes, PortableError> {
    let update = match format {
        Format::Update => file,
        Format::Json => {
            let json = serde_json::from_slice(&file).map_err(|error| {
                // serde_json has no kind for it.
                let is_too_deep = error.to_string().starts_with("recursion limit exceeded");
                if is_too_deep { JsonError::TooDeep.into() } else { PortableError::NotJson(error) }
            })?;
            from_json(&json, rand::random::<u64>() & MAX_SAFE_INTEGER)?
        }
    };
    match scan_update(&update, &ScanLimits::default()) {
        Ok(_) => Ok(update),
        // A v2 update begins with a zero, kept for later use; a v1 update that does has deletions only.
        Err(_) if update.first() == Some(&0) && update.len() > 2 => Err(PortableError::Version2),
        Err(error) => Err(PortableError::Refused(error)),
    }
}

/// Tries a scanned update on a copy of the document. `None`: there is no such document yet.
pub fn try_on(stored: Option<Stored>, update: &Bytes) -> Result<Change, PortableError> {
    let mut document = build(stored)?;
    match document.take(update)? {
        Entered::Known => Ok(Change::Nothing),
        Entered::Changed => Ok(Change::Something),
        Entered::Waits | Entered::NoRoom | Entered::Full(_) => Err(PortableError::Waits),
    }
}

fn build(stored: Option<Stored>) -> Result<HubDocument, PortableError> {
    let Some(stored) = stored else { return Ok(HubDocument::default()) };
    if stored.is_tombstone() {
        return Err(PortableError::Deleted);
    }
    let snapshot = stored.snapshot.into_iter().map(|snapshot| snapshot.update);
    let updates: Vec<Bytes> = snapshot.chain(stored.records.into_iter().map(|record| record.update)).collect();
    Ok(HubDocument::load(0, &updates)?)
}
