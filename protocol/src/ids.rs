//! Names and numbers with rules: parsing is validation, so a value of these types is always a good one.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::limits::MAX_DOCUMENT_NAME_BYTES;

/// The number of a record in its document's log, from 1. Zero means "nothing yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first record.
    pub const ZERO: Seq = Seq(0);

    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The random 128-bit identity of a document's history, written at its creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub u128);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Why a document name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// There is no name.
    #[error("the document name is empty")]
    Empty,
    /// The name is over [`MAX_DOCUMENT_NAME_BYTES`].
    #[error("the document name is longer than {MAX_DOCUMENT_NAME_BYTES} bytes")]
    TooLong,
    /// The name holds a control character.
    #[error("the document name holds a control character")]
    ControlCharacter,
}

/// A valid document name: 1 to 512 bytes of UTF-8 without control characters. Cheap to clone.
///
/// For y-websocket it is the path as sent, percent-encoding kept: decoding would merge `a%2Fb` with `a/b`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentName(Arc<str>);

impl DocumentName {
    /// Checks and takes a name.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > MAX_DOCUMENT_NAME_BYTES {
            return Err(NameError::TooLong);
        }
        if name.chars().any(char::is_control) {
            return Err(NameError::ControlCharacter);
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DocumentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for DocumentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_where_they_are_made() {
        assert_eq!(DocumentName::parse(""), Err(NameError::Empty));
        assert_eq!(DocumentName::parse("a\nb"), Err(NameError::ControlCharacter));
        assert_eq!(DocumentName::parse("a\0b"), Err(NameError::ControlCharacter));
        assert!(DocumentName::parse(&"x".repeat(512)).is_ok());
        assert_eq!(DocumentName::parse(&"x".repeat(513)), Err(NameError::TooLong));
    }

    #[test]
    fn percent_encoding_is_part_of_the_name() {
        assert_ne!(DocumentName::parse("a%2Fb"), DocumentName::parse("a/b"));
    }
}
