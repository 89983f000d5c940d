//! Import and export: turns one stored document into a file, and a file into one update. Used by a running
//! server and, when the server is stopped, by the commands.

use bytes::Bytes;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use syncline_log::store::Stored;
use syncline_protocol::update::{ScanError, ScanLimits, scan_update};
use syncline_protocol::varint::MAX_SAFE_INTEGER;
use syncline_replica::{HubDocument, JsonError, Refused, WeighOutcome, from_json, to_json};

/// Maximum size of an imported file.
pub const MAX_IMPORT_BYTES: u64 = 256 << 20;

/// Format of a document in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One Yjs v1 update: the complete document, which can be merged
    #[default]
    Update,
    /// The content as plain JSON, for people and programs
    Json,
}

impl Format {
    /// Its name in a URL, as it is deserialized.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Json => "json",
        }
    }
}

/// An exported document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Contents of the file.
    pub bytes: Vec<u8>,
    /// Number of pending updates, which depend on missing updates. Readers of `bytes` keep them until those arrive.
    pub pending: u64,
}

/// The effect of importing an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportEffect {
    /// The document already has everything in the update.
    Nothing,
    /// The update changes the document.
    Something,
}

/// Why a document cannot be exported, or a file cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportExportError {
    /// The document was deleted: only a tombstone is stored.
    #[error("it was deleted; run `syncline purge` to free its name")]
    Deleted,
    /// A stored update cannot be decoded, or the new one has circular dependencies.
    #[error("{0}")]
    Unreadable(#[from] Refused),
    /// The document cannot be represented as JSON, or the JSON does not describe a document.
    #[error("{0}")]
    Json(#[from] JsonError),
    /// The file cannot be parsed as JSON.
    #[error("not valid JSON: {0}")]
    NotJson(serde_json::Error),
    /// The file looks like a v2 update.
    #[error(
        "looks like a Yjs v2 update, but only v1 is supported; convert it in JavaScript with \
         Y.convertUpdateFormatV2ToV1(update)"
    )]
    Version2,
    /// The scanner rejects the update.
    #[error("not a valid Yjs v1 update: {0}")]
    Refused(ScanError),
    /// The update depends on updates that the document does not have.
    #[error("the update depends on edits that this document does not have; import those edits first")]
    MissingDependencies,
}

/// The error text for a file over [`MAX_IMPORT_BYTES`].
pub(crate) fn too_large() -> String {
    format!("too large: an imported file may have at most {MAX_IMPORT_BYTES} bytes")
}

/// Encodes a stored document as one update.
pub(crate) fn export(stored: Stored) -> Result<Exported, ImportExportError> {
    let mut document = build(Some(stored))?;
    Ok(Exported { pending: document.pending_len() as u64, bytes: document.encode_all().to_vec() })
}

impl Exported {
    /// Converts an exported update to another format. JSON needs a tree of the document, which may take much
    /// time and memory: for command processes only, not for the server.
    pub fn into_format(mut self, format: Format) -> Result<Self, ImportExportError> {
        if format == Format::Json {
            // What is pending has no place in the tree yet.
            let state = HubDocument::load(0, &[self.bytes.into()])?.encode();
            self.bytes = serde_json::to_vec_pretty(&to_json(&state)?).map_err(ImportExportError::NotJson)?;
            self.bytes.push(b'\n');
        }
        Ok(self)
    }
}

/// Parses a file as one scanned v1 update. JSON becomes the update of a new document.
pub fn parse(file: Bytes, format: Format) -> Result<Bytes, ImportExportError> {
    let update = match format {
        Format::Update => file,
        Format::Json => {
            let json = serde_json::from_slice(&file).map_err(|error| {
                // serde_json has no error category for it.
                let is_too_deep = error.to_string().starts_with("recursion limit exceeded");
                if is_too_deep { JsonError::TooDeep.into() } else { ImportExportError::NotJson(error) }
            })?;
            from_json(&json, rand::random::<u64>() & MAX_SAFE_INTEGER)?
        }
    };
    match scan_update(&update, &ScanLimits::default()) {
        Ok(_) => Ok(update),
        // A v2 update begins with a zero (a reserved feature flag); a v1 update that does holds only deletions.
        Err(_) if update.first() == Some(&0) && update.len() > 2 => Err(ImportExportError::Version2),
        Err(error) => Err(ImportExportError::Refused(error)),
    }
}

/// Applies a scanned update to a copy of the document. `None`: the document does not exist yet.
pub fn check(stored: Option<Stored>, update: &Bytes) -> Result<ImportEffect, ImportExportError> {
    let mut document = build(stored)?;
    match document.take(update)? {
        WeighOutcome::Known => Ok(ImportEffect::Nothing),
        WeighOutcome::Changed => Ok(ImportEffect::Something),
        WeighOutcome::Pending | WeighOutcome::NoRoom | WeighOutcome::Full(_) => {
            Err(ImportExportError::MissingDependencies)
        }
    }
}

fn build(stored: Option<Stored>) -> Result<HubDocument, ImportExportError> {
    let Some(stored) = stored else { return Ok(HubDocument::default()) };
    if stored.is_tombstone() {
        return Err(ImportExportError::Deleted);
    }
    let snapshot = stored.snapshot.into_iter().map(|snapshot| snapshot.update);
    let updates: Vec<Bytes> = snapshot.chain(stored.records.into_iter().map(|record| record.update)).collect();
    Ok(HubDocument::load(0, &updates)?)
}
