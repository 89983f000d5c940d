//! PURE: the edits that authors sent, which of them were acknowledged, and the comparison with a document.
//!
//! Every edit has a unique marker. It pushes one element, `marker|filling`, onto the list of its document, or deletes an
//! element that the same author pushed before. The filling is derived from the marker, so that a changed byte is detected.

use std::collections::HashMap;
use std::fmt;
use std::time::Instant;

use bytes::Bytes;

use crate::faults::judgement::{Expected, judge};

/// Kind of an author's edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AuthorEditKind {
    /// Pushed an element.
    Push,
    /// Deleted the element with this marker.
    Delete(String),
}

/// One edit as it was sent.
#[derive(Debug, Clone)]
pub(super) struct AuthorEdit {
    /// Marker, unique in the run.
    pub marker: String,
    /// Kind of the edit.
    pub kind: AuthorEditKind,
    /// The v1 update, to send it again.
    pub update: Bytes,
    /// Time at which it was made, just before it was sent.
    pub made: Instant,
    /// Time at which its author received the acknowledgement.
    pub acked: Option<Instant>,
    /// Whether the server refused it.
    pub refused: bool,
}

/// The edits of one author in one document.
#[derive(Debug, Clone)]
pub(super) struct AuthorRecord {
    /// Name of the document.
    pub document: String,
    /// Name of the author's dialect.
    pub dialect: &'static str,
    /// The edits, in the order in which they were made.
    pub edits: Vec<AuthorEdit>,
}

/// The faults of a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Markers of acknowledged edits that are missing.
    pub lost: Vec<String>,
    /// Markers of edits that are present more than once.
    pub doubled: Vec<String>,
    /// Markers of elements that no author wrote, or not with this content.
    pub strange: Vec<String>,
}

impl Findings {
    /// Whether there are no faults.
    pub(super) fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.doubled.is_empty() && self.strange.is_empty()
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("LOST", &self.lost), ("DOUBLED", &self.doubled), ("STRANGE", &self.strange)];
        for (what, found) in parts.into_iter().filter(|(_, found)| !found.is_empty()) {
            let some: Vec<_> = found.iter().take(5).map(String::as_str).collect();
            write!(f, "{what} {}: {}{} ", found.len(), some.join(" "), if found.len() > 5 { " ..." } else { "" })?;
        }
        Ok(())
    }
}

/// The element of an edit: its marker, then `bytes` bytes of filling.
pub(super) fn element(marker: &str, bytes: usize) -> String {
    let mut element = String::with_capacity(marker.len() + 1 + bytes);
    element.push_str(marker);
    element.push('|');
    let seed = marker.bytes().fold(7_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    element.extend((0..bytes).map(|at| char::from(b'a' + (seed.wrapping_add(at * at) % 26) as u8)));
    element
}

/// Compares the elements of a document with the records of its authors. Acknowledgements received at or after `cut` do not
/// count: they may have been in transit when the power was cut.
pub(super) fn compare(records: &[&AuthorRecord], elements: &[String], cut: Option<Instant>) -> Findings {
    let mut found = Findings::default();
    let marker_bytes = |text: &str| text.find('|').unwrap_or(text.len());
    for text in elements {
        let marker = &text[..marker_bytes(text)];
        if *text != element(marker, text.len().saturating_sub(marker.len() + 1)) {
            found.strange.push(format!("{marker} (changed)"));
        }
    }
    let is_durable = |edit: &AuthorEdit| edit.acked.is_some_and(|acked| cut.is_none_or(|cut| acked < cut));
    // For each marker with a deletion: whether the deletion counts as acknowledged.
    let mut deletions: HashMap<&str, bool> = HashMap::new();
    for edit in records.iter().flat_map(|record| &record.edits) {
        if let AuthorEditKind::Delete(of) = &edit.kind {
            deletions.insert(of, is_durable(edit));
        }
    }
    let pushes = records.iter().flat_map(|record| &record.edits).filter(|edit| edit.kind == AuthorEditKind::Push);
    let expected = pushes.map(|edit| {
        let expected = match deletions.get(edit.marker.as_str()) {
            Some(true) => Expected::Never,
            None if is_durable(edit) => Expected::Once,
            None | Some(false) => Expected::AtMostOnce,
        };
        (edit.marker.as_str(), expected)
    });
    let judgement = judge(expected, elements.iter().map(|text| &text[..marker_bytes(text)]));
    found.lost.extend(judgement.lost.into_iter().map(str::to_owned));
    found.lost.extend(judgement.unwanted.into_iter().map(|marker| format!("{marker} (its deletion)")));
    found.doubled.extend(judgement.doubled.into_iter().map(str::to_owned));
    found.strange.extend(judgement.unknown.into_iter().map(|marker| format!("{marker} (never written)")));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(marker: &str, kind: AuthorEditKind, acked: Option<Instant>) -> AuthorEdit {
        AuthorEdit { marker: marker.into(), kind, update: Bytes::new(), made: Instant::now(), acked, refused: false }
    }

    fn record(edits: Vec<AuthorEdit>) -> AuthorRecord {
        AuthorRecord { document: "doc".into(), dialect: "native", edits }
    }

    #[test]
    fn compare_names_faults_and_allows_unacknowledged_edits_to_be_missing() {
        let now = Instant::now();
        let record = record(vec![
            edit("a", AuthorEditKind::Push, Some(now)),
            edit("b", AuthorEditKind::Push, Some(now)),
            edit("c", AuthorEditKind::Push, None),
            edit("d", AuthorEditKind::Push, Some(now)),
            edit("e", AuthorEditKind::Delete("d".into()), Some(now)),
            edit("f", AuthorEditKind::Push, Some(now)),
            edit("g", AuthorEditKind::Delete("f".into()), None),
        ]);
        let findings = |elements: &[&str]| {
            let elements: Vec<_> = elements.iter().map(|marker| element(marker, 9)).collect();
            compare(&[&record], &elements, None)
        };
        assert!(findings(&["a", "b"]).is_empty() && findings(&["a", "b", "c", "f"]).is_empty());
        assert_eq!(findings(&["a"]).lost, ["b"]);
        assert_eq!(findings(&["a", "b", "d"]).lost, ["d (its deletion)"]);
        assert_eq!(findings(&["a", "a", "b"]).doubled, ["a"]);
        assert_eq!(findings(&["a", "b", "z"]).strange, ["z (never written)"]);
        let changed = element("a", 9).replace('|', "|-");
        assert_eq!(compare(&[&record], &[changed, element("b", 0)], None).strange, ["a (changed)"]);
    }

    #[test]
    fn acknowledgement_after_the_cut_does_not_count() {
        let cut = Instant::now();
        let record = record(vec![edit("a", AuthorEditKind::Push, Some(cut))]);
        assert!(compare(&[&record], &[], Some(cut)).is_empty());
        assert_eq!(compare(&[&record], &[], None).lost, ["a"]);
    }
}
