//! Finds what two replicas both changed since their common base: the places where a user may want to check the merge.
//!
//! The CRDT merges everything in any case; this reports where it had to choose.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use yrs::{Doc, Transact};

use super::choice;
use super::lww_map::{LwwMapRoot, is_log};
use super::register::REGISTERS_ROOT;
use super::sequence::{Hunk, hunks};
use super::text_merge::{trim, utf16};
use super::tree::{Items, Kind, Node, Shared, Token, element_keys, empty_shared, read};
use super::value::Value;

/// One step of a path from the document down to a place in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathStep {
    /// A key of a map or an attribute of an XML node; as the first step, the name of a root type.
    Key(String),
    /// The index of an array element or of an XML child, in the base.
    Index(u32),
}

/// The kind of place that both sides changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The map entry at the end of the path, also of a latest-wins map.
    Key,
    /// The versioned register at the end of the path.
    Register,
    /// A choice register that both wrote to: both versions are kept.
    Choice,
    /// A range of elements of the array at the end of the path, in indices of the base; empty for insertions at one place.
    Elements(Range<u32>),
    /// A range of the text at the end of the path, in UTF-16 units of the base; empty for insertions at one place.
    Text(Range<u32>),
}

/// A place that both sides changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// The path from the root type to the place.
    pub path: Vec<PathStep>,
    /// The kind of place, with its range if it has one.
    pub place: Place,
    /// True if both sides made the same change. Always false for ranges of elements and texts, which are not compared.
    pub alike: bool,
}

/// Returns every place that `mine` and `theirs` both changed relative to their common `base`, in the order of the
/// paths. Ranges of texts and arrays are reported when they intersect or touch.
///
/// Opens a read transaction on each document: none may have an open write transaction.
pub fn both_changed(base: &Doc, mine: &Doc, theirs: &Doc) -> Vec<Overlap> {
    let (base_txn, mine_txn, theirs_txn) = (base.transact(), mine.transact(), theirs.transact());
    let (base_tree, mine_tree, theirs_tree) = (read(&base_txn), read(&mine_txn), read(&theirs_txn));
    let mut finder = OverlapFinder { path: Vec::new(), overlaps: Vec::new() };
    for name in names([&base_tree, &mine_tree, &theirs_tree]) {
        let empty = empty_shared(Kind::Unknown);
        let [base_root, mine_root, theirs_root] = [&base_tree, &mine_tree, &theirs_tree]
            .map(|tree| tree.keys.get(name).and_then(Node::shared).unwrap_or(&empty));
        let roots = [base_root, mine_root, theirs_root];
        finder.path.push(PathStep::Key(name.to_owned()));
        if name == REGISTERS_ROOT {
            finder.entries(roots, &Place::Register);
        } else if roots.iter().any(|root| is_lww_map(root)) {
            let map = LwwMapRoot::new(name);
            finder.winners([map.winners(&base_txn), map.winners(&mine_txn), map.winners(&theirs_txn)]);
        } else if roots.iter().any(|root| is_choice(root)) {
            if [mine_root, theirs_root].iter().all(|root| root.fingerprint() != base_root.fingerprint()) {
                finder.push(Place::Choice, same_content(mine_root, theirs_root));
            }
        } else {
            finder.shared(roots);
        }
        finder.path.pop();
    }
    finder.overlaps
}

/// True for a root that is the log of a latest-wins map.
pub(super) fn is_lww_map(root: &Shared) -> bool {
    let values: Vec<Value> = root.elements().iter().map(Node::to_value).collect();
    root.keys.is_empty() && is_log(&values)
}

/// True for a root that is a choice register.
pub(super) fn is_choice(root: &Shared) -> bool {
    let version = |(id, node): (&String, &Node)| match node {
        Node::Value(value) => value.to_any().is_ok_and(|any| choice::from_any(id, &any).is_some()),
        _ => false,
    };
    !root.keys.is_empty() && root.keys.iter().all(version)
}

fn names(trees: [&Shared; 3]) -> BTreeSet<&str> {
    trees.into_iter().flat_map(|tree| tree.keys.keys().map(String::as_str)).collect()
}

fn same_content(one: &Shared, other: &Shared) -> bool {
    one.fingerprint() == other.fingerprint()
}

struct OverlapFinder {
    path: Vec<PathStep>,
    overlaps: Vec<Overlap>,
}

impl OverlapFinder {
    fn push(&mut self, place: Place, alike: bool) {
        self.overlaps.push(Overlap { path: self.path.clone(), place, alike });
    }

    fn shared(&mut self, [base, mine, theirs]: [&Shared; 3]) {
        self.entries([base, mine, theirs], &Place::Key);
        if [base, mine, theirs].iter().any(|shared| matches!(shared.items, Items::Text(_))) {
            let text = BaseText::new(base.tokens());
            let (ours, others) = (text.changed(mine.tokens()), text.changed(theirs.tokens()));
            for range in overlapping_ranges(ours, others) {
                self.push(Place::Text(range), false);
            }
        } else {
            self.elements([base.elements(), mine.elements(), theirs.elements()]);
        }
    }

    fn entries(&mut self, shared: [&Shared; 3], place: &Place) {
        for key in names(shared) {
            let [base, mine, theirs] = shared.map(|shared| shared.keys.get(key));
            let [base_text, mine_text, theirs_text] = [base, mine, theirs].map(|node| node.map(Node::fingerprint));
            if base_text == mine_text || base_text == theirs_text {
                continue;
            }
            self.path.push(PathStep::Key(key.to_owned()));
            match [base, mine, theirs].map(|node| node.and_then(Node::shared)) {
                [Some(base), Some(mine), Some(theirs)] if base.id == mine.id && base.id == theirs.id => {
                    self.shared([base, mine, theirs]);
                }
                _ => self.push(place.clone(), mine_text == theirs_text),
            }
            self.path.pop();
        }
    }

    fn winners<E: PartialEq>(&mut self, [base, mine, theirs]: [BTreeMap<String, E>; 3]) {
        for (key, ours) in &mine {
            let (before, others) = (base.get(key), theirs.get(key));
            if before != Some(ours) && others.is_some() && before != others {
                self.path.push(PathStep::Key(key.clone()));
                self.push(Place::Key, Some(ours) == others);
                self.path.pop();
            }
        }
    }

    fn elements(&mut self, [base, mine, theirs]: [&[Node]; 3]) {
        let keys = element_keys(base, base);
        let changed = |side: &[Node]| -> Vec<Range<u32>> {
            hunks(&keys, &element_keys(base, side)).into_iter().map(|hunk| span(&hunk.old)).collect()
        };
        for range in overlapping_ranges(changed(mine), changed(theirs)) {
            self.push(Place::Elements(range), false);
        }
        let (ours, others) = (by_id(mine), by_id(theirs));
        for (index, shared) in base.iter().enumerate() {
            let Some(shared) = shared.shared() else { continue };
            let id = shared.id.as_str();
            let (Some(ours), Some(others)) = (ours.get(id), others.get(id)) else { continue };
            if !same_content(shared, ours) && !same_content(shared, others) {
                self.path.push(PathStep::Index(index as u32));
                self.shared([shared, ours, others]);
                self.path.pop();
            }
        }
    }
}

fn by_id(nodes: &[Node]) -> HashMap<&str, &Shared> {
    nodes.iter().filter_map(Node::shared).map(|shared| (shared.id.as_str(), shared)).collect()
}

fn span(range: &Range<usize>) -> Range<u32> {
    range.start as u32..range.end as u32
}

/// Finds changed words and formats of a text, in UTF-16 units of the base.
struct BaseText<'a> {
    tokens: &'a [Token],
    keys: Vec<&'a str>,
    /// The start of each token, and the end of the text.
    starts: Vec<u32>,
}

impl<'a> BaseText<'a> {
    fn new(tokens: &'a [Token]) -> Self {
        let mut starts = vec![0];
        for token in tokens {
            starts.push(starts.last().copied().unwrap_or(0) + token.utf16());
        }
        Self { tokens, keys: tokens.iter().map(|token| token.key.as_str()).collect(), starts }
    }

    fn changed(&self, other: &[Token]) -> Vec<Range<u32>> {
        let other_keys: Vec<&str> = other.iter().map(|token| token.key.as_str()).collect();
        let mut ranges = Vec::new();
        let (mut at, mut at_other) = (0, 0);
        let (len, other_len) = (self.keys.len(), other_keys.len());
        let end = Hunk { old: len..len, new: other_len..other_len };
        for hunk in hunks(&self.keys, &other_keys).into_iter().chain([end]) {
            for (index, theirs) in (at..hunk.old.start).zip(&other[at_other..]) {
                self.formats_changed(index, theirs, &mut ranges);
            }
            (at, at_other) = (hunk.old.end, hunk.new.end);
            if !(hunk.old.is_empty() && hunk.new.is_empty()) {
                ranges.push(self.trimmed(&hunk.old, &other[hunk.new.clone()]));
            }
        }
        ranges
    }

    fn formats_changed(&self, index: usize, other: &Token, ranges: &mut Vec<Range<u32>>) {
        let mut start = self.starts[index];
        let token = &self.tokens[index];
        let lens: Vec<u32> = match token.word() {
            "" => vec![1],
            word => word.chars().map(|letter| letter.len_utf16() as u32).collect(),
        };
        for (len, (ours, theirs)) in lens.into_iter().zip(token.formats.iter().zip(&other.formats)) {
            if ours != theirs {
                match ranges.last_mut() {
                    Some(last) if last.end == start => last.end += len,
                    _ => ranges.push(start..start + len),
                }
            }
            start += len;
        }
    }

    /// Returns the range of a replacement without the common prefix and suffix of the old and new text.
    fn trimmed(&self, old: &Range<usize>, new: &[Token]) -> Range<u32> {
        let (start, end) = (self.starts[old.start], self.starts[old.end]);
        let tokens = &self.tokens[old.clone()];
        if tokens.iter().chain(new).any(|token| token.word().is_empty()) {
            return start..end;
        }
        let text = |tokens: &[Token]| tokens.iter().map(Token::word).collect::<String>();
        let (old, new) = (text(tokens), text(new));
        let (head, gone, _) = trim(&old, &new);
        let start = start + utf16(head);
        start..start + utf16(gone)
    }
}

/// Returns the ranges that intersect or touch a range of the other side, each joined with all ranges it touches.
fn overlapping_ranges(ours: Vec<Range<u32>>, theirs: Vec<Range<u32>>) -> Vec<Range<u32>> {
    let mut all: Vec<(Range<u32>, usize)> =
        ours.into_iter().map(|range| (range, 1)).chain(theirs.into_iter().map(|range| (range, 2))).collect();
    all.sort_by_key(|(range, side)| (range.start, range.end, *side));
    let mut joined: Vec<(Range<u32>, usize)> = Vec::new();
    for (range, side) in all {
        match joined.last_mut() {
            Some((last, sides)) if range.start <= last.end => {
                last.end = last.end.max(range.end);
                *sides |= side;
            }
            _ => joined.push((range, side)),
        }
    }
    joined.into_iter().filter(|(_, sides)| *sides == 3).map(|(range, _)| range).collect()
}

#[cfg(test)]
mod tests;
