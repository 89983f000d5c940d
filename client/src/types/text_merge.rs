//! Differences of texts, and three-way merges of them, by words (UAX #29): never inside a grapheme, and a change of a
//! sentence is not splintered into letters. The diff is `similar` 3.2, by Myers.
//!
//! Positions count UTF-16 code units, as Yjs does.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

use super::sequence::{Who, both, hunks, regions};

/// A replacement in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextChange {
    /// Where, in UTF-16 units of the old text.
    pub start: u32,
    /// How many UTF-16 units of the old text go.
    pub deleted: u32,
    /// What comes.
    pub inserted: String,
}

/// Two texts brought together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The result. Of a conflict both sides are in it, theirs first, without markers; with a space where a word of each
    /// would be read as one.
    pub text: String,
    /// Where both changed the same; ascending.
    pub conflicts: Vec<TextConflict>,
}

/// A place that both sides changed, differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextConflict {
    /// In UTF-16 units of the base.
    pub base: Range<u32>,
    /// In UTF-16 units of the merged text.
    pub merged: Range<u32>,
    /// What we made of it; empty if we deleted it.
    pub mine: String,
    /// What they made of it; empty if they deleted it.
    pub theirs: String,
}

/// What makes `new` of `old`: few and small changes, ascending, all positions in `old` as it was. Apply them from the
/// last to the first, or with [`apply`].
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

/// The text after the changes of a [`diff`]. Positions beyond the text count as its end.
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

/// Brings together what two sides made of `base`. Where both changed the same words, or inserted at the same place,
/// both are kept and the conflict is reported; what both begin or end with comes once.
pub fn merge3(base: &str, mine: &str, theirs: &str) -> Merged {
    let (base, mine, theirs) = (words(base), words(mine), words(theirs));
    let mut merged = Merged { text: String::new(), conflicts: Vec::new() };
    let (mut at_base, mut at_merged) = (0, 0);
    for region in regions(&base, &mine, &theirs) {
        let (ours, others) = (&mine[region.mine], &theirs[region.theirs]);
        let part = match region.who {
            Who::Nobody | Who::Theirs | Who::Alike => others.concat(),
            Who::Mine => ours.concat(),
            Who::Conflict => keep_both(ours, others),
        };
        let (base_len, merged_len) = (utf16_of(&base[region.base]), utf16(&part));
        if region.who == Who::Conflict {
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
    let kept = both(mine, theirs, |word| is_word(word));
    let (head, inserted, tail) = (&theirs[..kept.old.start], &mine[kept.new], &theirs[kept.old.end..]);
    let mut text = head.concat();
    if runs_together(head.last(), inserted.first()) {
        text.push(' ');
    }
    text.push_str(&inserted.concat());
    if runs_together(inserted.last(), tail.first()) {
        text.push(' ');
    }
    text.push_str(&tail.concat());
    text
}

/// True if two words would be read as one.
pub(super) fn runs_together(one: Option<&&str>, other: Option<&&str>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => is_word(one) && is_word(other) && words(&[*one, *other].concat()).len() == 1,
        _ => false,
    }
}

/// Words, and what is between them.
pub(super) fn words(text: &str) -> Vec<&str> {
    text.split_word_bounds().collect()
}

/// True for a word, false for what is between words.
pub(super) fn is_word(word: &str) -> bool {
    word.chars().any(char::is_alphanumeric)
}

/// Length in UTF-16 units.
pub(super) fn utf16(text: &str) -> u32 {
    // A document is far below 4 Gi characters.
    text.encode_utf16().count() as u32
}

fn utf16_of(words: &[&str]) -> u32 {
    words.iter().map(|word| utf16(word)).sum()
}

/// A replacement without the graphemes that both begin or end with: what goes before it, what goes, what comes.
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
