//! The scanner: validates every Yjs update and state vector before it reaches a document.
//!
//! The scan checks every length against the remaining bytes, that numbers and strings can be read, that the clocks of a
//! client are consecutive, and the limits in [`ScanLimits`]. It borrows everything, never recurses, and allocates nothing
//! for ordinary messages; unsorted clients take one vector. Every Yjs client can read an accepted update, which costs a
//! hub memory and time in proportion to its bytes. SPEC.md, "What an update must be", lists what is not checked and what
//! Yjs does with it.
//!
//! ```text
//! parse         the parser: reports sections, structs and delete set to a visitor, in one pass
//! content       the content of an item: text, values, types, subdocuments
//! json          whether a text is JSON, and how deep
//! client_ids    order and duplicates of client ids
//! id            the id of an element
//! raw           structs with all their fields, as encoded
//! cut           splits one struct into parts
//! edit          small updates that a server creates itself
//! cycles        structs that depend on each other in a cycle
//! nesting       nesting depth of types within one update
//! merge         merges several updates into one by copying their bytes
//! verdict       classifies an update against a document of which only the clocks are known
//! dependencies  missing dependencies of an update
//! split         the part of an update that a document can take now, and the rest
//! state_vector  validates and reads state vectors
//! ```
//!
//! Sources: npm yjs 13.6.33 `src/utils/encoding.js`, `src/utils/UpdateDecoder.js`, `src/structs/*`; lib0 0.2.120
//! `decoding.js`; yrs 0.28.1 `src/update.rs`, `src/block.rs`, `src/any.rs`, `src/id_set.rs`.

mod client_ids;
mod content;
mod cut;
mod cycles;
mod dependencies;
pub mod edit;
mod id;
pub(crate) mod json;
mod merge;
mod nesting;
mod parse;
pub mod raw;
pub mod split;
mod state_vector;
mod verdict;

use thiserror::Error;

use crate::limits;
use crate::varint::ReadError;

pub use cut::Cutter;
pub use cycles::is_circular;
pub use dependencies::needs;
pub use id::Id;
pub use json::json_for_yrs;
pub use merge::{Merged, Updates};
pub use nesting::type_depth;
pub use parse::{ClientRange, ClientRanges, delete_set, update_ranges};
pub use state_vector::{StateVectorEntries, StateVectorSummary, scan_state_vector, state_vector_entries};
pub use verdict::{StateClock, Structs, Verdict, verdict};

/// Upper bound for [`ScanLimits::value_depth`]: the scan keeps one counter per level on the stack.
pub const VALUE_DEPTH_CEILING: usize = 127;

/// An update without structs and deletions.
pub const EMPTY_UPDATE: [u8; 2] = [0, 0];

/// A state vector without clients.
pub const EMPTY_STATE_VECTOR: [u8; 1] = [0];

/// Limits for one message. Its size in bytes is limited by the session. The defaults are in [`limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanLimits {
    /// Clients in one list: sections, state vector or delete set.
    pub clients: u64,
    /// Nesting depth of arrays and maps in one value, at most [`VALUE_DEPTH_CEILING`].
    pub value_depth: usize,
    /// Largest clock that the structs of a client may end at.
    pub clock: u64,
}

impl ScanLimits {
    /// For updates that were accepted before, perhaps under other limits: keeps only the limits that bound the scanner's
    /// own memory and those that readers depend on.
    pub const STORED: Self = Self { clients: u64::MAX, value_depth: VALUE_DEPTH_CEILING, clock: limits::MAX_CLOCK };
}

impl Default for ScanLimits {
    fn default() -> Self {
        Self { clients: limits::MAX_CLIENTS, value_depth: limits::MAX_VALUE_DEPTH, clock: limits::MAX_CLOCK }
    }
}

/// Why the scanner refuses an update, state vector or value. Shown to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ScanError {
    /// The bytes are truncated, or a number or string is malformed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// This number of bytes follows the end.
    #[error("{0} bytes follow the end of the data")]
    TrailingBytes(usize),
    /// A count exceeds its limit.
    #[error("{found} {what} exceed the limit of {limit}")]
    TooMany {
        /// What is counted, in the plural.
        what: &'static str,
        /// The count that the message claims.
        found: u64,
        /// The limit in force.
        limit: u64,
    },
    /// A count is larger than the remaining bytes can hold.
    #[error("a count of {0} is larger than the bytes that follow can hold")]
    CountBeyondBytes(u64),
    /// A clock exceeds [`ScanLimits::clock`].
    #[error("clock {clock} of client {client} exceeds the limit")]
    ClockTooLarge {
        /// Client id.
        client: u64,
        /// The clock that was found.
        clock: u64,
    },
    /// A client appears twice in a list.
    #[error("client {0} appears twice")]
    DuplicateClient(u64),
    /// A section, struct or delete range of this client has length zero.
    #[error("client {0} has an empty section, struct or range")]
    Empty(u64),
    /// The first byte of a struct has bits that Yjs does not write.
    #[error("unknown struct kind {0:#04x}")]
    UnknownStruct(u8),
    /// Yjs has no such shared type.
    #[error("unknown shared type {0}")]
    UnknownType(u64),
    /// lib0 `Any` has no such tag.
    #[error("unknown value kind {0}")]
    UnknownValue(u8),
    /// The flag for the kind of parent is neither 1 (root type) nor 0 (item).
    #[error("parent info {0} is neither 0 nor 1")]
    BadParentInfo(u64),
    /// The options of a subdocument are not a map.
    #[error("the options of a subdocument are not a map")]
    BadSubdocument,
    /// A struct refers to itself or to a later struct of its own client.
    #[error("the struct of client {client} at clock {clock} refers to itself or to a later struct of that client")]
    SelfReference {
        /// Client id.
        client: u64,
        /// The clock of the referring struct.
        clock: u64,
    },
    /// A string that must be JSON is not.
    #[error("a value is not valid JSON")]
    BadJson,
    /// A value is nested deeper than this limit.
    #[error("a value is nested more than {0} levels deep")]
    ValueTooDeep(usize),
    /// The ranges of a delete set are unsorted or overlap.
    #[error("the deleted ranges of client {0} are unsorted or overlap")]
    UnsortedRanges(u64),
}

/// Counts of what an accepted update holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Client sections.
    pub clients: u64,
    /// Structs of any kind, skips included.
    pub structs: u64,
    /// Skips: gaps left by a merge.
    pub skips: u64,
    /// Clients in the delete set.
    pub delete_clients: u64,
    /// Ranges in the delete set.
    pub delete_ranges: u64,
    /// Values in `ContentAny` and in subdocument options.
    pub values: u64,
    /// Subdocuments.
    pub subdocuments: u64,
    /// Nesting depth of the deepest value, `Any` or JSON.
    pub value_depth: usize,
    /// Items whose parent is another item. If 0, no type is nested.
    pub nested: u64,
}

impl Summary {
    /// True when the update has neither structs nor deletions, like [`EMPTY_UPDATE`].
    pub fn is_empty(&self) -> bool {
        self.structs == 0 && self.delete_ranges == 0
    }

    /// True when the delete set is not empty.
    pub fn has_deletes(&self) -> bool {
        self.delete_ranges > 0
    }
}

/// Checks that `update` is a v1 update that every Yjs client can read.
///
/// # Errors
/// The first rule that the update breaks.
pub fn scan_update(update: &[u8], limits: &ScanLimits) -> Result<Summary, ScanError> {
    parse::walk(update, limits, &mut parse::NoVisitor)
}

/// Checks that `bytes` are one lib0 `Any` value and nothing else.
///
/// # Errors
/// The first rule that the value breaks.
pub fn scan_value(bytes: &[u8], limits: &ScanLimits) -> Result<(), ScanError> {
    content::read_value(bytes, limits)
}

pub(crate) fn check_limit(what: &'static str, found: u64, limit: u64) -> Result<(), ScanError> {
    if found > limit {
        return Err(ScanError::TooMany { what, found, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
