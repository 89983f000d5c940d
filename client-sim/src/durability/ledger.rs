//! PURE: what authors sent, what they were told is saved, and what must follow from that.
//!
//! Every edit carries a marker of its own. It pushes one element, `marker|filling`, onto the list of its document, or
//! deletes one that the same author pushed before. The filling follows from the marker, so that a changed byte shows.

use std::collections::HashMap;
use std::fmt;
use std::time::Instant;

use bytes::Bytes;

/// What an edit did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Pushed an element.
    Push,
    /// Deleted the element with this marker.
    Delete(String),
}

/// One edit as it was sent.
#[derive(Debug, Clone)]
pub struct Edit {
    /// Unique in the run.
    pub marker: String,
    /// What it did.
    pub kind: Kind,
    /// The v1 update, to send it again.
    pub update: Bytes,
    /// When it was made, just before it was sent.
    pub made: Instant,
    /// When its author heard that it is saved.
    pub acked: Option<Instant>,
    /// Its author heard that it was not taken.
    pub refused: bool,
}

/// What one author did to one document, in order.
#[derive(Debug, Clone)]
pub struct Page {
    /// The document.
    pub document: String,
    /// The dialect, for figures.
    pub dialect: &'static str,
    /// The edits.
    pub edits: Vec<Edit>,
}

/// What is wrong with a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Acknowledged, and not there.
    pub lost: Vec<String>,
    /// There more than once.
    pub doubled: Vec<String>,
    /// Nobody wrote this, or not so.
    pub strange: Vec<String>,
}

impl Findings {
    /// Nothing is wrong.
    pub fn is_empty(&self) -> bool {
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

/// The element of an edit: its marker, then `bytes` of filling.
pub fn element(marker: &str, bytes: usize) -> String {
    let mut element = String::with_capacity(marker.len() + 1 + bytes);
    element.push_str(marker);
    element.push('|');
    let seed = marker.bytes().fold(7_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    element.extend((0..bytes).map(|at| char::from(b'a' + (seed.wrapping_add(at * at) % 26) as u8)));
    element
}

/// Holds the elements of a document against the pages of its authors. What was acknowledged from `cut` on does not count:
/// its acknowledgement may have been on its way when the power went.
pub fn judge(pages: &[&Page], elements: &[String], cut: Option<Instant>) -> Findings {
    let mut found = Findings::default();
    let mut counts: HashMap<&str, u32> = HashMap::new();
    for text in elements {
        let marker = text.split_once('|').map_or(text.as_str(), |(marker, _)| marker);
        if *text != element(marker, text.len().saturating_sub(marker.len() + 1)) {
            found.strange.push(format!("{marker} (changed)"));
        }
        *counts.entry(marker).or_default() += 1;
    }
    let holds = |edit: &Edit| edit.acked.is_some_and(|acked| cut.is_none_or(|cut| acked < cut));
    // The deletion of a marker: tried, and acknowledged.
    let mut deletions: HashMap<&str, bool> = HashMap::new();
    for edit in pages.iter().flat_map(|page| &page.edits) {
        if let Kind::Delete(of) = &edit.kind {
            deletions.insert(of, holds(edit));
        }
    }
    for edit in pages.iter().flat_map(|page| &page.edits).filter(|edit| edit.kind == Kind::Push) {
        let count = counts.remove(edit.marker.as_str()).unwrap_or(0);
        let deletion = deletions.get(edit.marker.as_str());
        if count > 1 {
            found.doubled.push(edit.marker.clone());
        }
        if count == 0 && holds(edit) && deletion.is_none() {
            found.lost.push(edit.marker.clone());
        }
        if count > 0 && deletion == Some(&true) {
            found.lost.push(format!("{} (its deletion)", edit.marker));
        }
    }
    found.strange.extend(counts.into_keys().map(|marker| format!("{marker} (nobody's)")));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(marker: &str, kind: Kind, acked: Option<Instant>) -> Edit {
        Edit { marker: marker.into(), kind, update: Bytes::new(), made: Instant::now(), acked, refused: false }
    }

    fn page(edits: Vec<Edit>) -> Page {
        Page { document: "doc".into(), dialect: "native", edits }
    }

    #[test]
    fn what_is_lost_doubled_or_strange_is_named_and_the_unknown_may_be_either() {
        let now = Instant::now();
        let page = page(vec![
            edit("a", Kind::Push, Some(now)),
            edit("b", Kind::Push, Some(now)),
            edit("c", Kind::Push, None),
            edit("d", Kind::Push, Some(now)),
            edit("e", Kind::Delete("d".into()), Some(now)),
            edit("f", Kind::Push, Some(now)),
            edit("g", Kind::Delete("f".into()), None),
        ]);
        let is = |elements: &[&str]| {
            let elements: Vec<_> = elements.iter().map(|marker| element(marker, 9)).collect();
            judge(&[&page], &elements, None)
        };
        assert!(is(&["a", "b"]).is_empty() && is(&["a", "b", "c", "f"]).is_empty());
        assert_eq!(is(&["a"]).lost, ["b"]);
        assert_eq!(is(&["a", "b", "d"]).lost, ["d (its deletion)"]);
        assert_eq!(is(&["a", "a", "b"]).doubled, ["a"]);
        assert_eq!(is(&["a", "b", "z"]).strange, ["z (nobody's)"]);
        let changed = element("a", 9).replace('|', "|-");
        assert_eq!(judge(&[&page], &[changed, element("b", 0)], None).strange, ["a (changed)"]);
    }

    #[test]
    fn what_was_acknowledged_after_the_cut_does_not_count() {
        let cut = Instant::now();
        let page = page(vec![edit("a", Kind::Push, Some(cut))]);
        assert!(judge(&[&page], &[], Some(cut)).is_empty());
        assert_eq!(judge(&[&page], &[], None).lost, ["a"]);
    }
}
