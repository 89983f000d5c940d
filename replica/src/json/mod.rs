//! PURE: JSON export and import. The mapping is described in `docs/backup.md`, section JSON.
//!
//! ```text
//! write.rs   a document to JSON; needs a tree
//! read.rs    JSON to a new document, as one v1 update
//! ```

mod read;
#[cfg(test)]
mod tests;
mod write;

use syncline_protocol::update::type_depth;
use thiserror::Error;
use yrs::Transact;

pub use read::from_json;

use super::crdt::{Crdt, CrdtError, catch_panic};
use super::yrs_input::UpdatePreparer;

type JsonObject = serde_json::Map<String, serde_json::Value>;

/// Largest nesting depth of types and values. serde_json does not parse deeper JSON.
pub const MAX_JSON_DEPTH: usize = 120;

/// Why a document cannot be exported as JSON, or JSON cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JsonError {
    /// The document or the JSON is nested deeper than [`MAX_JSON_DEPTH`].
    #[error("the document is nested more than {MAX_JSON_DEPTH} levels deep; export and import it in the update format")]
    TooDeep,
    /// The top-level value is not an object.
    #[error("the JSON must be an object: one key for each text, list or map of the document")]
    NotAnObject,
    /// A value that cannot be imported at this place.
    #[error("{path}: {what}")]
    Unusable {
        /// Path of the value: keys and list indexes, separated by dots.
        path: String,
        /// The cause.
        what: String,
    },
    /// The CRDT failed.
    #[error(transparent)]
    Crdt(#[from] CrdtError),
}

/// Stack of the thread that builds a tree: yrs uses some hundred bytes of stack for each level of nested types. Only
/// touched pages take memory.
const TREE_STACK_BYTES: usize = 64 * 1024 * 1024;
/// Largest nesting depth of types in a document that is exported.
const MAX_TREE_DEPTH: u32 = 10_000;

/// Exports every root type of a document as JSON. `state`: the whole document as one v1 update. The mapping is described
/// in `docs/backup.md`.
///
/// # Errors
/// When the document is nested too deep, or yrs cannot build its tree.
pub fn to_json(state: &[u8]) -> Result<serde_json::Value, JsonError> {
    if type_depth(state).map_err(|error| CrdtError::Undecodable(error.to_string()))? > MAX_TREE_DEPTH {
        return Err(JsonError::TooDeep);
    }
    let build = || {
        let mut tree = Crdt::default();
        tree.apply(&UpdatePreparer::default().prepare(state))?;
        catch_panic(|| write::to_json(&tree.doc.transact()))?
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(TREE_STACK_BYTES).spawn_scoped(scope, build);
        let thread =
            thread.map_err(|error| CrdtError::Broken(format!("cannot start a thread to build the tree: {error}")))?;
        thread.join().map_err(|_| CrdtError::Broken("the thread that builds the tree panicked".into()))?
    })
}
