//! Diffs and merges of fixed and of random texts.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

fn change(start: u32, deleted: u32, inserted: &str) -> TextChange {
    TextChange { start, deleted, inserted: inserted.to_owned() }
}

#[test]
fn diff_is_minimal_and_counts_utf16_units() {
    assert_eq!(diff("the cat sat", "the cart sat"), [change(6, 0, "r")]);
    assert_eq!(diff("\u{1f600} cat", "\u{1f600} cut"), [change(4, 1, "u")]);
    assert_eq!(diff("same", "same"), []);
    assert_eq!(diff("", "new"), [change(0, 0, "new")]);
    // A flag is one grapheme of four UTF-16 units: it is replaced as a unit.
    assert_eq!(diff("\u{1f1e9}\u{1f1ea}", "\u{1f1e9}\u{1f1f0}"), [change(0, 4, "\u{1f1e9}\u{1f1f0}")]);
}

#[test]
fn changes_at_different_places_merge() {
    let merged = merge3("the cat sat on the mat", "the dog sat on the mat", "the cat sat on a mat!");
    assert_eq!(merged, Merged { text: "the dog sat on a mat!".to_owned(), conflicts: vec![] });
    assert_eq!(merge3("a b", "a c", "a c").text, "a c", "a change made by both sides is applied once");
    assert_eq!(merge3("hello world", "hello there", "hello world!").text, "hello there!");
}

#[test]
fn conflict_keeps_both_sides_and_reports_the_place() {
    let merged = merge3("the cat sat", "the dog sat", "the cow sat");
    assert_eq!(merged.text, "the cow dog sat");
    let conflict = TextConflict { base: 4..7, merged: 4..11, mine: "dog".to_owned(), theirs: "cow".to_owned() };
    assert_eq!(merged.conflicts, [conflict]);
    let merged = merge3("one two three four", "", "one two 3 four");
    assert_eq!(merged.text, "one two 3 four", "text deleted by one side and edited by the other is kept");
    assert_eq!(merged.conflicts.len(), 1);
}

#[test]
fn text_typed_by_both_sides_is_kept_once() {
    assert_eq!(merge3("x", "x a b c", "x a b").text, "x a b c");
    assert_eq!(merge3("x", "x a b", "x a b c").text, "x a b c");
    assert_eq!(merge3("x", "x b c", "x a b c d").text, "x a b c d");
    assert_eq!(merge3("x", "x a b", "x a c").text, "x a c b");
    assert_eq!(merge3("x y", "x a y", "x b y").text, "x b a y", "words do not join");
    assert_eq!(merge3("x", "a b c", "b").text, "a b c");
    assert_eq!(merge3("x", "b", "a b c").text, "a b c");
}

fn is_subsequence(part: &str, whole: &str) -> bool {
    let mut rest = whole.chars();
    part.chars().all(|letter| rest.any(|other| other == letter))
}

#[test]
fn random_diffs_apply_and_random_merges_lose_no_insertion() {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut text = |len: usize| -> String {
        let letters = ["ab", " ", "c", "\u{1f600}", "e\u{301}", "\u{4e2d}", "\n"];
        (0..len).map(|_| letters[rng.random_range(0..letters.len())]).collect()
    };
    for round in 0..500 {
        let (base, mine, theirs) = (text(round % 12), text(round % 9), text(round % 7));
        assert_eq!(apply(&base, &diff(&base, &mine)), mine);
        assert_eq!(merge3(&base, &mine, &base).text, mine);
        assert_eq!(merge3(&base, &base, &theirs).text, theirs);
        assert_eq!(merge3(&base, &mine, &mine).text, mine);
        let merged = merge3(&base, &mine, &theirs);
        for conflict in &merged.conflicts {
            assert!(is_subsequence(&conflict.mine, &merged.text), "{base:?} {mine:?} {theirs:?}");
            assert!(is_subsequence(&conflict.theirs, &merged.text), "{base:?} {mine:?} {theirs:?}");
        }
    }
}
