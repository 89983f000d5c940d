//! Names and numbers with rules: parsing is validation, so a value of these types is always a good one.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::limits::{MAX_DOCUMENT_NAME_CHARS, MAX_ENCODED_NAME_BYTES};
use crate::names::canonical;

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
    /// The name is only white space.
    #[error("the document name is blank")]
    Blank,
    /// The name is over [`MAX_DOCUMENT_NAME_CHARS`].
    #[error("the document name is longer than {MAX_DOCUMENT_NAME_CHARS} characters")]
    TooLong,
    /// The name holds a control character.
    #[error("the document name holds a control character")]
    ControlCharacter,
}

/// A valid document name: 1 to 512 characters, none of them a control character. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentName(Arc<str>);

impl DocumentName {
    /// The document that a client, a person or another server calls `name`: its [`canonical`] form, so that every
    /// spelling of a name is the same document.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        if name.len() > MAX_ENCODED_NAME_BYTES {
            return Err(NameError::TooLong);
        }
        let name = canonical(name);
        if !name.is_empty() && name.trim().is_empty() {
            return Err(NameError::Blank);
        }
        Self::exact(&name)
    }

    /// The name as it is, for names that a store or a backup holds: older versions stored names as URLs spell them.
    pub fn exact(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.chars().count() > MAX_DOCUMENT_NAME_CHARS {
            return Err(NameError::TooLong);
        }
        if name.chars().any(char::is_control) {
            return Err(NameError::ControlCharacter);
        }
        Ok(Self(name.into()))
    }

    /// The name under which [`DocumentName::parse`] finds this document; `None`: this one.
    pub fn renamed(&self) -> Option<Self> {
        let name = canonical(&self.0);
        (*name != *self.0).then(|| Self(name.into()))
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
        for blank in [" ", "%20", "\u{3000}\u{2003}"] {
            assert_eq!(DocumentName::parse(blank), Err(NameError::Blank), "{blank:?}");
        }
        assert_eq!(DocumentName::parse("a\nb"), Err(NameError::ControlCharacter));
        assert_eq!(DocumentName::parse("a\0b"), Err(NameError::ControlCharacter));
        for char in ["x", "文", "\u{1f600}"] {
            let (longest, longer) = (char.repeat(512), char.repeat(513));
            assert_eq!(DocumentName::parse(&longest).unwrap().as_str(), longest);
            assert_eq!(DocumentName::parse(&longer), Err(NameError::TooLong));
        }
        // Spelled with escapes only, the longest name is twelve times as long.
        let spelled = "%F0%9F%98%80".repeat(512);
        assert_eq!(DocumentName::parse(&spelled).unwrap().as_str(), "\u{1f600}".repeat(512));
        assert_eq!(DocumentName::parse(&"%F0%9F%98%80".repeat(513)), Err(NameError::TooLong));
    }

    #[test]
    fn spellings_of_a_name_are_one_document() {
        assert_eq!(DocumentName::parse("a%20b"), DocumentName::parse("a b"));
        assert_ne!(DocumentName::parse("a%2Fb"), DocumentName::parse("a/b"));
        let stored = DocumentName::exact("a%20b").unwrap();
        assert_eq!(stored.as_str(), "a%20b");
        assert_eq!(stored.renamed(), DocumentName::parse("a%20b").ok());
        assert_eq!(DocumentName::exact("a%2Fb").unwrap().renamed(), None);
    }
}
