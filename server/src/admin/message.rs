//! The admin socket's words. Both ends are one binary, so there are no versions.
//!
//! A connection carries one request: a line of JSON, then as many bytes as it says. It is answered by lines of JSON, any
//! number of [`Answer::Progress`] before the one that ends it, and bytes behind that if it says so.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use syncline_log::backup;

use crate::import_export::Format;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Take a backup.
    Backup {
        /// Where to, an absolute path.
        dir: PathBuf,
    },
    /// Write one document; its bytes follow the answer.
    Export {
        /// Its name, exactly as stored.
        document: String,
    },
    /// Merge a file into a document; its bytes follow.
    Import {
        /// The document's name, exactly as stored.
        document: String,
        /// How the file is written.
        format: Format,
        /// How many bytes follow.
        bytes: u64,
        /// Leave a document alone that is there.
        only_new: bool,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A backup goes on.
    Progress {
        /// Documents looked at.
        done: u64,
        /// Documents in all.
        documents: u64,
        /// Bytes written.
        bytes: u64,
    },
    /// The backup is complete and on disk.
    BackedUp {
        /// Documents in it.
        documents: u64,
        /// Those that were written now.
        written: u64,
        /// Bytes written now.
        bytes: u64,
        /// Documents that could not be read, and why.
        damaged: Vec<(String, String)>,
    },
    /// A document follows.
    Exported {
        /// How many bytes follow.
        bytes: u64,
        /// Updates that are not in it: they wait for others.
        waiting: u64,
    },
    /// The file is in the document, and on disk.
    Imported {
        /// It brought something.
        changed: bool,
    },
    /// The document is there, and was left alone.
    Exists,
    /// It was not done.
    Failed {
        /// Why.
        reason: String,
    },
}

impl From<backup::Taken> for Answer {
    fn from(taken: backup::Taken) -> Self {
        let damaged = taken.damaged.into_iter().map(|(document, why)| (document.to_string(), why)).collect();
        Self::BackedUp { documents: taken.documents, written: taken.written, bytes: taken.bytes, damaged }
    }
}
