//! Document names, sequence numbers and epochs. Parsing validates, so a value of these types is always valid.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::limits::{MAX_DOCUMENT_NAME_CHARS, MAX_ENCODED_NAME_BYTES};
use crate::names::canonical;

/// The sequence number of a record in its document's log, from 1. Zero means that the log is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

impl Seq {
    /// The position before the first record.
    pub const ZERO: Seq = Seq(0);

    /// The sequence number after this one.
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

/// The random 128-bit id of a document's history, assigned at its creation.
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
    /// The name has no characters.
    #[error("the document name is empty")]
    Empty,
    /// The name is only white space.
    #[error("the document name is blank")]
    Blank,
    /// The name is longer than [`MAX_DOCUMENT_NAME_CHARS`].
    #[error("the document name is longer than {MAX_DOCUMENT_NAME_CHARS} characters")]
    TooLong,
    /// The name contains a control character.
    #[error("the document name contains a control character")]
    ControlCharacter,
}

/// A valid document name: 1 to 512 characters, none of them a control character. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentName(Arc<str>);

impl DocumentName {
    /// Validates a name from a client, a command line or another server and converts it to its [`canonical`] form, so
    /// that every spelling of a name gives the same document.
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

    /// Validates a name without decoding it, for names from a store or a backup: older versions stored names in their
    /// URL-encoded form.
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

    /// The canonical name under which [`DocumentName::parse`] finds this document; `None` if this one is canonical.
    pub fn renamed(&self) -> Option<Self> {
        let name = canonical(&self.0);
        (*name != *self.0).then(|| Self(name.into()))
    }

    /// The name as a string slice.
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
    fn parse_refuses_invalid_names() {
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
        // Written with escapes only, the longest name takes twelve times its number of characters.
        let spelled = "%F0%9F%98%80".repeat(512);
        assert_eq!(DocumentName::parse(&spelled).unwrap().as_str(), "\u{1f600}".repeat(512));
        assert_eq!(DocumentName::parse(&"%F0%9F%98%80".repeat(513)), Err(NameError::TooLong));
    }

    #[test]
    fn encoded_and_decoded_name_give_the_same_document() {
        assert_eq!(DocumentName::parse("a%20b"), DocumentName::parse("a b"));
        assert_ne!(DocumentName::parse("a%2Fb"), DocumentName::parse("a/b"));
        let stored = DocumentName::exact("a%20b").unwrap();
        assert_eq!(stored.as_str(), "a%20b");
        assert_eq!(stored.renamed(), DocumentName::parse("a%20b").ok());
        assert_eq!(DocumentName::exact("a%2Fb").unwrap().renamed(), None);
    }
}
