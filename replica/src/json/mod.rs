//! PURE: a document as JSON and back. What becomes what stands in `docs/backup.md`, section JSON.
//!
//! ```text
//! write.rs   a document to JSON
//! read.rs    JSON to a new document, as one v1 update
//! ```

mod read;
#[cfg(test)]
mod tests;
mod write;

use thiserror::Error;

pub use read::from_json;
pub(crate) use write::to_json;

use super::crdt::CrdtError;

/// Types and values within each other, at most. serde_json reads no deeper.
pub const MAX_JSON_DEPTH: usize = 120;

/// Why there is no JSON of a document, or no document of a JSON.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JsonError {
    /// It is nested too deep.
    #[error("it is nested more than {MAX_JSON_DEPTH} levels deep; use the update format")]
    TooDeep,
    /// The top is no object.
    #[error("the JSON must be an object: one key for each text, list or map of the document")]
    NotAnObject,
    /// Something that no document holds there.
    #[error("{path}: {what}")]
    Unusable {
        /// Where, as keys with points between.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// The CRDT failed.
    #[error(transparent)]
    Crdt(#[from] CrdtError),
}
