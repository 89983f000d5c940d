//! The gate before a document: every Yjs update and state vector is walked here before anything is made of it.
//!
//! The walk checks every length against the bytes that are there, that numbers and texts can be read, that clocks follow each
//! other, and that the few limits of [`ScanLimits`] hold. It borrows everything, never recurses, and allocates nothing for
//! ordinary messages; clients that come unsorted take one vector of them. What it accepts, every Yjs client can read, and
//! costs a hub memory and time in proportion to its bytes. What it does not look at, and what Yjs does with that, is said in
//! SPEC.md, "What an update must be".
//!
//! ```text
//! parse         sections, structs and delete set, one pass, told to a visitor
//! content       what an item holds: text, values, types, subdocuments
//! json          is this text JSON, and how deep
//! client_ids    order and duplicates of client ids
//! raw           structs as they are encoded
//! cut           one struct cut into parts
//! edit          small updates that a server creates itself
//! cycles        parts that wait for each other
//! nesting       how deep types lie in types within one update
//! merge         several updates as one, by their bytes
//! verdict       what an update would do to a document known by its clocks
//! dependencies  what it waits for
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
pub(crate) mod json;
mod merge;
mod nesting;
mod parse;
pub mod raw;
mod state_vector;
mod verdict;

use thiserror::Error;

use crate::limits;
use crate::varint::ReadError;

pub use cut::Cutter;
pub use cycles::is_circular;
pub use dependencies::needs;
pub use json::json_for_yrs;
pub use merge::{Merged, Updates};
pub use nesting::type_depth;
pub use parse::{ClientRange, ClientRanges, delete_set, update_ranges};
pub use state_vector::{StateVectorEntries, StateVectorSummary, scan_state_vector, state_vector_entries};
pub use verdict::{StateClock, Structs, Verdict, verdict};

/// The deepest value that can be allowed at all: the walk keeps one counter per level on the stack.
pub const VALUE_DEPTH_CEILING: usize = 127;

/// An update that changes nothing: no structs, no deletions.
pub const EMPTY_UPDATE: [u8; 2] = [0, 0];

/// What one message may hold besides its bytes, which the session limits. The defaults are in [`limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanLimits {
    /// Clients in a list: sections, state vector or delete set.
    pub clients: u64,
    /// Levels of arrays and maps in one value, at most [`VALUE_DEPTH_CEILING`].
    pub value_depth: usize,
    /// The end of the last clock of any client.
    pub clock: u64,
}

impl ScanLimits {
    /// For what was accepted before, under limits that may have been others: only what bounds the scanner's own
    /// memory and what no reader could take stays.
    pub const STORED: Self = Self { clients: u64::MAX, value_depth: VALUE_DEPTH_CEILING, clock: limits::MAX_CLOCK };
}

impl Default for ScanLimits {
    fn default() -> Self {
        Self { clients: limits::MAX_CLIENTS, value_depth: limits::MAX_VALUE_DEPTH, clock: limits::MAX_CLOCK }
    }
}

/// Why bytes are refused. Small, and written for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ScanError {
    /// The bytes are cut short, or a number or string is malformed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Bytes follow the end.
    #[error("{0} bytes follow the end of the data")]
    TrailingBytes(usize),
    /// More of something than its limit.
    #[error("{found} {what}, more than the limit of {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// As many as the message holds or claims, or at least this many.
        found: u64,
        /// The limit in force.
        limit: u64,
    },
    /// A count claims more than the bytes left can hold.
    #[error("a count of {0} is larger than the bytes that follow can hold")]
    CountBeyondBytes(u64),
    /// A clock passes the limit.
    #[error("client {client} reaches clock {clock}, beyond the limit")]
    ClockTooLarge {
        /// The client.
        client: u64,
        /// The clock it would reach.
        clock: u64,
    },
    /// A client appears twice where it must appear once.
    #[error("client {0} appears twice")]
    DuplicateClient(u64),
    /// A client section, a struct or a delete range without length.
    #[error("client {0} has an empty section, struct or range")]
    Empty(u64),
    /// The first byte of a struct has bits that Yjs does not write.
    #[error("unknown kind of struct {0:#04x}")]
    UnknownStruct(u8),
    /// A type tag that Yjs does not know.
    #[error("unknown type {0}")]
    UnknownType(u64),
    /// A tag that is no lib0 `Any`.
    #[error("unknown kind of value {0}")]
    UnknownValue(u8),
    /// Whether the parent is a root is said by 0 or 1.
    #[error("parent information {0} is neither 0 nor 1")]
    BadParentInfo(u64),
    /// A subdocument's options are no map.
    #[error("the options of a subdocument are no map")]
    BadSubdocument,
    /// A struct refers to itself or to a later one of its own client.
    #[error("client {client} refers at clock {clock} to itself or to its own future")]
    SelfReference {
        /// The client.
        client: u64,
        /// The clock of the struct that does it.
        clock: u64,
    },
    /// A text that must be JSON is not.
    #[error("a value is not valid JSON")]
    BadJson,
    /// A value has too many levels.
    #[error("a value has more than {0} levels")]
    ValueTooDeep(usize),
    /// The ranges of a delete set are unsorted or overlap.
    #[error("the deleted ranges of client {0} are unsorted or overlap")]
    UnsortedRanges(u64),
}

/// What an accepted update holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Client sections.
    pub clients: u64,
    /// Structs of any kind, skips included.
    pub structs: u64,
    /// Skips: holes left by a merge.
    pub skips: u64,
    /// Clients in the delete set.
    pub delete_clients: u64,
    /// Ranges in the delete set.
    pub delete_ranges: u64,
    /// Values in `ContentAny` and in subdocument options.
    pub values: u64,
    /// Subdocuments.
    pub subdocuments: u64,
    /// The deepest value, `Any` or JSON.
    pub value_depth: usize,
    /// Items that name another item as their parent. With none, no type is nested.
    pub nested: u64,
}

impl Summary {
    /// True when the update holds nothing at all, like [`EMPTY_UPDATE`].
    pub fn is_empty(&self) -> bool {
        self.structs == 0 && self.delete_ranges == 0
    }

    /// True when something is deleted.
    pub fn has_deletes(&self) -> bool {
        self.delete_ranges > 0
    }
}

/// Checks that `update` is a v1 update that every Yjs client can read.
///
/// # Errors
/// The first rule it breaks.
pub fn scan_update(update: &[u8], limits: &ScanLimits) -> Result<Summary, ScanError> {
    parse::walk(update, limits, &mut parse::Ignore)
}

/// Checks that `bytes` are one lib0 `Any` value and nothing else.
///
/// # Errors
/// The first rule it breaks.
pub fn scan_value(bytes: &[u8], limits: &ScanLimits) -> Result<(), ScanError> {
    content::read_value(bytes, limits)
}

pub(crate) fn at_most(what: &'static str, found: u64, limit: u64) -> Result<(), ScanError> {
    if found > limit {
        return Err(ScanError::TooMany { what, found, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
