//! Backups: a directory of plain files that holds every document of a store, taken while the store is in use.
//!
//! ```text
//! pack.rs      PURE: one document as bytes, with a checksum
//! manifest.rs  the list of what a backup holds, and the one file whose rename makes a backup
//! write.rs     taking a backup: what changed since the last goes into new packs, then the manifest is replaced
//! read.rs      opening, verifying and restoring one
//! ```
//!
//! The bytes are described in `docs/formats.md`. What holds:
//!
//! - A document in a backup is a prefix of its log: one load, with its checksums and digest checked. It holds
//!   everything acknowledged before the backup began, for what is acknowledged was committed.
//! - Until the new manifest is in the old one's place, every file that the old one names is there, unchanged. A crash
//!   at any point leaves the old backup or the new one, and files of neither, which the next backup removes.
//! - What changed is told by a document's [`Mark`](crate::store::Mark), which holds a digest: a document that came back
//!   older after a power cut, and went on otherwise, has another mark although its last Seq may be the same.
//! - A damaged document ends no backup: what an earlier backup holds of it stays, and the manifest says so.

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

pub use manifest::{Entry, Place};
pub use read::{Backup, Restored, make_empty, new_history, restore_all, restore_document};
pub use write::{Cancel, Pace, Progress, Taken, take};

/// Why a backup could not be taken, read or restored.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The operating system refused.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// There is no backup, or what there is cannot be used as one.
    #[error("{}: {what}", dir.display())]
    Unusable {
        /// The backup's directory.
        dir: PathBuf,
        /// Why, and a way out.
        what: String,
    },
    /// A file is not what was written.
    #[error("{} is damaged: {what}", file.display())]
    Damaged {
        /// Which file.
        file: PathBuf,
        /// What is wrong, with the document if one is known.
        what: String,
    },
    /// The directory to restore into holds something.
    #[error("{} is not empty: a backup is restored into a directory that is empty or not there yet", .0.display())]
    NotEmpty(PathBuf),
    /// The backup does not hold this document.
    #[error("there is no document {document:?} in the backup in {}", dir.display())]
    NoDocument {
        /// The backup's directory.
        dir: PathBuf,
        /// Which document.
        document: DocumentName,
    },
    /// The document is there and may not be replaced.
    #[error("document {0:?} exists: --replace puts the backup's in its place, --as NAME restores beside it")]
    Exists(DocumentName),
    /// It was told to stop. An earlier backup is as it was.
    #[error("the backup was stopped before it was complete; an earlier one is as it was")]
    Cancelled,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An [`io::Error`] with its path.
fn at(path: &Path) -> impl Fn(io::Error) -> BackupError + '_ {
    |error| BackupError::Io { path: path.to_owned(), error }
}

/// For fuzzers: see `manifest.rs`.
pub(super) fn fuzz_manifest(text: &str) {
    manifest::fuzz(text);
}
