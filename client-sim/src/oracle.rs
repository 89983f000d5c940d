//! What must be true after everybody met again: every accepted edit is there exactly once and in its place, no refused
//! one is anywhere, and all replicas are equal.
//!
//! ```text
//! edit    what an edit is, and what carries its id into the document
//! view    a replica's content, taken apart into ids
//! check   the ledger of edits against a view
//! chain   the ledger's proposals against what the server decided
//! ```
//!
//! Pure: the runner writes the [`Ledger`] while the scenario runs, and asks at its end.

pub mod chain;
mod check;
pub mod edit;
#[cfg(test)]
mod tests;
pub mod view;

pub use check::{check, differences};
pub use edit::{Edit, Id, Kind, Pen};
pub use view::View;

/// What became of an edit on its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The device said that it is stored. What it replaced: the deleted token, the superseded writes.
    Accepted(Vec<Id>),
    /// The device said that nothing was changed.
    Failed,
    /// The process was killed before it could say.
    Unknown,
}

/// One edit and its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The edit.
    pub edit: Edit,
    /// What became of it.
    pub outcome: Outcome,
}

/// Every edit of one document, in the order of each device.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// The entries.
    pub entries: Vec<Entry>,
}

impl Ledger {
    /// Writes down an edit.
    pub fn add(&mut self, edit: Edit, outcome: Outcome) {
        self.entries.push(Entry { edit, outcome });
    }

    /// How many edits were accepted.
    pub fn accepted(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry.outcome, Outcome::Accepted(_))).count()
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.edit.kind == kind)
    }
}
