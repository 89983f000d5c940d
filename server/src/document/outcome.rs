//! What a client is sent about its updates: when, and with which result.

use syncline_protocol::close::Close;
use syncline_replica::Full;

/// How a client is informed that its updates are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// One acknowledgement or echo per update.
    Each,
    /// By status messages that lower a counter in the client: see `core/unsynced.rs`.
    Counted,
    /// One acknowledgement per batch number, in the native dialect. Such a session resumes by cursor.
    Batches,
}

/// Result of an update, for its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Accepted and on disk.
    Saved,
    /// Refused: storage has failed.
    Refused,
    /// Refused: the sender has read access only.
    Forbidden,
    /// Refused: a part of it has missing dependencies, and too much is pending in the document. The other part was
    /// accepted.
    TooManyPending,
    /// Refused: it would exceed a size limit of the document.
    Full(Full),
    /// Not applied, but it inserts nothing new: a read-only client's reply to our step 1. It is not a promise
    /// that anything is on disk.
    Unneeded,
}

impl Outcome {
    /// The close reason for an edit that was not accepted; `None` if it was, or need not be.
    pub fn refusal(&self) -> Option<Close> {
        match self {
            Outcome::Saved | Outcome::Unneeded => None,
            Outcome::Refused => Some(Close::StorageFailed),
            Outcome::Forbidden => Some(Close::read_only()),
            Outcome::TooManyPending => {
                Some(Close::TooMany("too many pending updates with missing dependencies".into()))
            }
            Outcome::Full(full) => Some(Close::DocumentFull(match full {
                Full::Bytes => "document size limit reached; it can still be read, and content can be deleted".into(),
                Full::Clients => {
                    "limit on clients that wrote to this document reached; copy it to a new document".into()
                }
                Full::Registers => "limit on registers in this document reached; use another document".into(),
            })),
        }
    }
}
