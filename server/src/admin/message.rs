//! Messages of the admin socket. Client and server are the same binary, so messages have no version.
//!
//! A connection carries one request: a line of JSON, then the bytes that it announces. The answers are lines of
//! JSON: any number of [`Answer::Progress`], then a final one, then the bytes that it announces.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use syncline_log::backup;

use crate::import_export::Format;

/// A request of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Take a backup.
    Backup {
        /// Directory of the backup, an absolute path.
        dir: PathBuf,
    },
    /// Export one document; its bytes follow the answer.
    Export {
        /// The document's name, exactly as stored.
        document: String,
    },
    /// Import a file into a document; its bytes follow the request.
    Import {
        /// The document's name, exactly as stored.
        document: String,
        /// The file's format.
        format: Format,
        /// Number of bytes that follow.
        bytes: u64,
        /// Do not change a document that exists.
        only_new: bool,
    },
}

/// An answer of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A backup is in progress.
    Progress {
        /// Documents processed so far.
        done: u64,
        /// Documents in total.
        documents: u64,
        /// Bytes written so far.
        bytes: u64,
    },
    /// The backup is complete and on disk.
    BackedUp {
        /// Documents in the backup.
        documents: u64,
        /// Documents written by this request: those that had changed.
        written: u64,
        /// Bytes written by this request.
        bytes: u64,
        /// Names of documents that could not be read, each with the reason.
        damaged: Vec<(String, String)>,
    },
    /// The document was exported; its bytes follow.
    Exported {
        /// Number of bytes that follow.
        bytes: u64,
        /// Number of pending updates, which are not in the bytes because they depend on missing updates.
        waiting: u64,
    },
    /// The file was merged and is on disk.
    Imported {
        /// False if the document already had everything in the file.
        changed: bool,
    },
    /// The document exists and was not changed (`only_new`).
    Exists,
    /// The request failed.
    Failed {
        /// The reason, for people.
        reason: String,
    },
}

impl From<backup::Taken> for Answer {
    fn from(taken: backup::Taken) -> Self {
        let damaged = taken.damaged.into_iter().map(|(document, why)| (document.to_string(), why)).collect();
        Self::BackedUp { documents: taken.documents, written: taken.written, bytes: taken.bytes, damaged }
    }
}
