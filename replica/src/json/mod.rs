//! PURE: a document as JSON and back. What becomes what stands in `docs/formats.md`, section JSON.
//!
//! ```text
//! write.rs   a document to JSON: the one thing here that needs a tree
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

use super::crdt::{Crdt, CrdtError, contain};
use super::yrs_input::Intake;

/// Types and values within each other, at most. serde_json reads no deeper.
pub const MAX_JSON_DEPTH: usize = 120;

/// Why there is no JSON of a document, or no document of a JSON.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JsonError {
    /// It is nested too deep.
    #[error("it is nested more than {MAX_JSON_DEPTH} levels deep; export and import it in the update format")]
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

/// Stack of the thread that builds a tree: yrs takes some hundred bytes of it for each type within a type. Only touched pages
/// cost memory.
const TREE_STACK_BYTES: usize = 64 * 1024 * 1024;
/// Types within types of a document that is built there, at most.
const MAX_TREE_DEPTH: u32 = 10_000;

/// Every root type of a document as JSON. `state`: all of it as one v1 update. `docs/formats.md` says what becomes what.
///
/// # Errors
/// When it is nested too deep, or yrs cannot build it; the document itself is none the worse.
pub fn to_json(state: &[u8]) -> Result<serde_json::Value, JsonError> {
    if type_depth(state).map_err(|error| CrdtError::Undecodable(error.to_string()))? > MAX_TREE_DEPTH {
        return Err(JsonError::TooDeep);
    }
    let build = || {
        let mut tree = Crdt::default();
        tree.apply(&Intake::default().prepare(state))?;
        contain(|| write::to_json(&tree.doc.transact()))?
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(TREE_STACK_BYTES).spawn_scoped(scope, build);
        let thread = thread.map_err(|error| CrdtError::Broken(format!("no thread to build its tree in: {error}")))?;
        thread.join().map_err(|_| CrdtError::Broken("building its tree failed".into()))?
    })
}
