//! Backups: a directory of plain files with every document of a store, taken while the store is in use.
//!
//! ```text
//! pack.rs      PURE: encodes one document with a checksum
//! manifest.rs  the list of a backup's documents; renaming this file into place completes a backup
//! write.rs     takes a backup: writes changed documents into new packs, then replaces the manifest
//! read.rs      opens, verifies and restores a backup
//! ```
//!
//! The file format is described in `docs/backup.md`. Invariants:
//!
//! - A document in a backup is a prefix of its log: the result of one load, verified against its checksums and digest. It
//!   contains everything acknowledged before the backup began, because acknowledged records are committed.
//! - Until the new manifest replaces the old one, every file that the old one references exists unchanged. A crash at any
//!   point leaves the old backup or the new one, and possibly unreferenced files, which the next backup removes.
//! - Changes are detected by a document's [`Mark`](crate::store::Mark), which contains a digest. A document that lost
//!   records in a power cut and then got different ones has a different mark, even if its last Seq is the same.
//! - A damaged document does not stop the backup: its copy from an earlier backup is kept, and the manifest records the
//!   damage.

mod manifest;
mod pack;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::io;
use std::path::{Path, PathBuf};

use syncline_protocol::ids::DocumentName;
use thiserror::Error;

use super::store::StoreError;

pub use manifest::{Entry, PackLocation};
pub use read::{Backup, Restored, make_empty, new_history, restore_all, restore_document};
pub use write::{Cancel, CompletedBackup, Pace, Progress, take};

/// Why a backup could not be taken, read or restored.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The operating system returned an error.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        error: io::Error,
    },
    /// The directory does not contain a usable backup, or cannot be used for one.
    #[error("{}: {what}", dir.display())]
    Unusable {
        /// The backup's directory.
        dir: PathBuf,
        /// The reason, and what to do.
        what: String,
    },
    /// The content of a file is not what was written.
    #[error("{} is damaged: {what}", file.display())]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// A description of the damage, with the document if it is known.
        what: String,
    },
    /// The directory to restore into is not empty.
    #[error("{} is not empty: restore into a directory that is empty or does not exist", .0.display())]
    NotEmpty(PathBuf),
    /// The backup does not contain this document.
    #[error("there is no document {document:?} in the backup in {}", dir.display())]
    NoDocument {
        /// The backup's directory.
        dir: PathBuf,
        /// The missing document.
        document: DocumentName,
    },
    /// The document exists, and the caller did not ask to replace it.
    #[error(
        "document {0:?} already exists: use --replace to replace it, or --as NAME to restore the backup under another name"
    )]
    Exists(DocumentName),
    /// The backup was cancelled. An earlier backup in the directory is unchanged.
    #[error("the backup was stopped before it was complete; an earlier backup is unchanged")]
    Cancelled,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Adds the path to an [`io::Error`].
fn at(path: &Path) -> impl Fn(io::Error) -> BackupError + '_ {
    |error| BackupError::Io { path: path.to_owned(), error }
}

/// For fuzzing: see `manifest.rs`.
pub(super) fn fuzz_manifest(text: &str) {
    manifest::fuzz(text);
}
