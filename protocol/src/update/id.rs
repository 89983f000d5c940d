//! The id of an element.

/// The id of one element of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// The client that created the element.
    pub client: u64,
    /// The element's number among the elements of that client.
    pub clock: u64,
}
