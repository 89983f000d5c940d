//! The invariants at the end of a scenario: every accepted edit is in the document exactly once and at its place, no failed
//! edit is in it, and all replicas are equal.
//!
//! ```text
//! edit    an edit, and how it writes its id into the document
//! view    a replica's content, parsed into ids
//! check   compares the ledger of edits with a view
//! chain   compares the ledger's proposals with the server's decisions
//! ```
//!
//! Pure: the runner fills the [`Ledger`] during the scenario and checks it at the end.

pub(super) mod chain;
mod check;
pub(super) mod edit;
#[cfg(test)]
mod tests;
pub(super) mod view;

pub(super) use check::{check, differences};
pub(super) use edit::{Edit, EditContext, EditKind, Id};
pub(super) use view::View;

/// Outcome of an edit on its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The device stored it. Holds the ids that it replaced: of the deleted token or the superseded writes.
    Accepted(Vec<Id>),
    /// The device reported an error and changed nothing.
    Failed,
    /// The process was killed before it reported an outcome.
    Unknown,
}

/// One edit and its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The edit.
    pub edit: Edit,
    /// Its outcome on the device.
    pub outcome: Outcome,
}

/// Every edit of one document, in the order of each device.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger {
    /// One entry per edit.
    pub entries: Vec<Entry>,
}

impl Ledger {
    /// Adds an edit with its outcome.
    pub(super) fn add(&mut self, edit: Edit, outcome: Outcome) {
        self.entries.push(Entry { edit, outcome });
    }

    /// Number of accepted edits.
    pub(super) fn accepted(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry.outcome, Outcome::Accepted(_))).count()
    }

    fn of(&self, kind: EditKind) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.edit.kind == kind)
    }
}
