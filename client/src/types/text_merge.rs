//! Diffs and three-way merges of texts by words (UAX #29): a change never splits a grapheme, and a rewritten sentence
//! does not become many changes of single letters. The diff is Myers' algorithm of `similar` 3.2.
//!
//! Positions count UTF-16 code units, as Yjs does.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

use super::sequence::{ChangedBy, hunks, merge_conflict, regions};

/// A replacement in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextChange {
    /// Start of the replaced range, in UTF-16 units of the old text.
    pub start: u32,
    /// Number of UTF-16 units removed from the old text.
    pub deleted: u32,
    /// The text inserted in their place.
    pub inserted: String,
}

/// The result of a three-way merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The merged text. In a conflict it contains both sides, theirs first, without markers; a space is inserted where
    /// a word of each side would otherwise join into one.
    pub text: String,
    /// The places that both sides changed in different ways, in ascending order.
    pub conflicts: Vec<TextConflict>,
}

/// A place that both sides changed in different ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextConflict {
    /// The range in UTF-16 units of the base text.
    pub base: Range<u32>,
    /// The range in UTF-16 units of the merged text.
    pub merged: Range<u32>,
    /// Our text for this range; empty if we deleted it.
    pub mine: String,
    /// The other side's text for this range; empty if they deleted it.
    pub theirs: String,
}

/// Returns a small set of changes that turns `old` into `new`, in ascending order. All positions refer to the unchanged
/// `old`: apply the changes from last to first, or with [`apply`].
pub fn diff(old: &str, new: &str) -> Vec<TextChange> {
    let (old_words, new_words) = (words(old), words(new));
    let (mut changes, mut at, mut start) = (Vec::new(), 0, 0);
    for hunk in hunks(&old_words, &new_words) {
        start += utf16_of(&old_words[at..hunk.old.start]);
        let (old, new) = (old_words[hunk.old.clone()].concat(), new_words[hunk.new].concat());
        let (head, gone, inserted) = trim(&old, &new);
        changes.push(TextChange { start: start + utf16(head), deleted: utf16(gone), inserted: inserted.to_owned() });
        start += utf16(&old);
        at = hunk.old.end;
    }
    changes
}

/// Applies the changes of a [`diff`] to `old`. Positions past the end of the text are clamped to its end.
pub fn apply(old: &str, changes: &[TextChange]) -> String {
    let units: Vec<u16> = old.encode_utf16().collect();
    let (mut result, mut at) = (Vec::with_capacity(units.len()), 0);
    for change in changes {
        let start = (change.start as usize).clamp(at, units.len());
        result.extend_from_slice(&units[at..start]);
        result.extend(change.inserted.encode_utf16());
        at = (start + change.deleted as usize).min(units.len());
    }
    result.extend_from_slice(&units[at..]);
    String::from_utf16_lossy(&result)
}

/// Merges two edited versions of `base`. Where both changed the same words, or inserted at the same position, both
/// versions are kept and the conflict is reported; a common prefix or suffix of the two is kept once.
///
/// ```
/// use syncline_client::types::text_merge::merge3;
///
/// let merged = merge3("the cat sat", "the cat sat down", "the dog sat");
/// assert_eq!(merged.text, "the dog sat down");
/// assert!(merged.conflicts.is_empty());
/// ```
pub fn merge3(base: &str, mine: &str, theirs: &str) -> Merged {
    let (base, mine, theirs) = (words(base), words(mine), words(theirs));
    let mut merged = Merged { text: String::new(), conflicts: Vec::new() };
    let (mut at_base, mut at_merged) = (0, 0);
    for region in regions(&base, &mine, &theirs) {
        let (ours, others) = (&mine[region.mine], &theirs[region.theirs]);
        let part = match region.changed_by {
            ChangedBy::Neither | ChangedBy::Theirs | ChangedBy::Alike => others.concat(),
            ChangedBy::Mine => ours.concat(),
            ChangedBy::Conflict => keep_both(ours, others),
        };
        let (base_len, merged_len) = (utf16_of(&base[region.base]), utf16(&part));
        if region.changed_by == ChangedBy::Conflict {
            merged.conflicts.push(TextConflict {
                base: at_base..at_base + base_len,
                merged: at_merged..at_merged + merged_len,
                mine: ours.concat(),
                theirs: others.concat(),
            });
        }
        merged.text.push_str(&part);
        (at_base, at_merged) = (at_base + base_len, at_merged + merged_len);
    }
    merged
}

fn keep_both(mine: &[&str], theirs: &[&str]) -> String {
    let kept = merge_conflict(mine, theirs, |word| is_word(word));
    let (head, inserted, tail) = (&theirs[..kept.old.start], &mine[kept.new], &theirs[kept.old.end..]);
    let mut text = head.concat();
    if would_join(head.last(), inserted.first()) {
        text.push(' ');
    }
    text.push_str(&inserted.concat());
    if would_join(inserted.last(), tail.first()) {
        text.push(' ');
    }
    text.push_str(&tail.concat());
    text
}

/// True if the two words, written next to each other, would be read as one word.
pub(super) fn would_join(one: Option<&&str>, other: Option<&&str>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => is_word(one) && is_word(other) && words(&[*one, *other].concat()).len() == 1,
        _ => false,
    }
}

/// Splits a text into words and the separators between them.
pub(super) fn words(text: &str) -> Vec<&str> {
    text.split_word_bounds().collect()
}

/// True for a word, false for a separator.
pub(super) fn is_word(word: &str) -> bool {
    word.chars().any(char::is_alphanumeric)
}

/// Length in UTF-16 units.
pub(super) fn utf16(text: &str) -> u32 {
    // A document is far smaller than 4 Gi characters.
    text.encode_utf16().count() as u32
}

fn utf16_of(words: &[&str]) -> u32 {
    words.iter().map(|word| utf16(word)).sum()
}

/// Strips the common leading and trailing graphemes of a replacement. Returns the common prefix, the removed text and
/// the inserted text.
pub(super) fn trim<'a>(old: &'a str, new: &'a str) -> (&'a str, &'a str, &'a str) {
    let both_heads = old.graphemes(true).zip(new.graphemes(true));
    let head: usize = both_heads.take_while(|(one, other)| one == other).map(|(one, _)| one.len()).sum();
    let (old_rest, new_rest) = (&old[head..], &new[head..]);
    let both_tails = old_rest.graphemes(true).rev().zip(new_rest.graphemes(true).rev());
    let tail: usize = both_tails.take_while(|(one, other)| one == other).map(|(one, _)| one.len()).sum();
    (&old[..head], &old_rest[..old_rest.len() - tail], &new_rest[..new_rest.len() - tail])
}

#[cfg(test)]
mod tests;
