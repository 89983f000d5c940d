//! PURE: which edits are lost, doubled or not undone, given how often each must be in a document and how often it is there.
//! Every suite of this wing judges by this: devices' edits (`oracle`) and authors' edits (`durability`).

use std::collections::HashMap;
use std::fmt::Display;

/// How often an edit must be in its document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// It was accepted or acknowledged.
    Once,
    /// It failed, or a later edit that counts removed it.
    Never,
    /// Its outcome, or that of its removal, is not known.
    AtMostOnce,
}

/// The faults of a document, each list in the order of the edits.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judgement<I> {
    /// Edits that must be there and are not.
    pub lost: Vec<I>,
    /// Edits that are there more than once.
    pub doubled: Vec<I>,
    /// Edits that are there and must not be.
    pub unwanted: Vec<I>,
    /// What is there and no edit wrote.
    pub unknown: Vec<String>,
}

/// Compares the edits with the ids found in their document.
pub(super) fn judge<'a, I: Copy + Display>(
    edits: impl IntoIterator<Item = (I, Expected)>,
    found: impl IntoIterator<Item = &'a str>,
) -> Judgement<I> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for id in found {
        *counts.entry(id).or_default() += 1;
    }
    let (mut lost, mut doubled, mut unwanted) = (Vec::new(), Vec::new(), Vec::new());
    for (id, expected) in edits {
        let count = counts.remove(id.to_string().as_str()).unwrap_or(0);
        match expected {
            Expected::Once if count == 0 => lost.push(id),
            Expected::Never if count > 0 => unwanted.push(id),
            _ => {}
        }
        if count > 1 {
            doubled.push(id);
        }
    }
    let unknown = counts.into_keys().map(str::to_owned).collect();
    Judgement { lost, doubled, unwanted, unknown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_named_and_an_edit_of_unknown_outcome_may_be_absent() {
        let edits = [("a", Expected::Once), ("b", Expected::Never), ("c", Expected::AtMostOnce), ("d", Expected::Once)];
        let right = Judgement { lost: vec![], doubled: vec![], unwanted: vec![], unknown: vec![] };
        assert_eq!(judge(edits, ["a", "d"]), right);
        assert_eq!(judge(edits, ["d", "c", "a"]), right);
        let wrong = judge(edits, ["b", "c", "c", "d", "e"]);
        let names = |names: &[&'static str]| names.to_vec();
        assert_eq!((wrong.lost, wrong.doubled), (names(&["a"]), names(&["c"])));
        assert_eq!((wrong.unwanted, wrong.unknown), (names(&["b"]), vec!["e".to_owned()]));
    }
}
