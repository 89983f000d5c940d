//! Three-way comparison of sequences, shared by texts and arrays.
//!
//! Both sides are aligned with their common base by `similar`'s Myers diff. A region in which both changed the same
//! elements, or inserted at the same position, is a conflict unless both made the same change.

use std::ops::Range;

use similar::{Algorithm, DiffOp, capture_diff_slices};

/// A replacement: `new` replaces `old`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hunk {
    /// Range in the old sequence.
    pub(super) old: Range<usize>,
    /// Range in the new sequence.
    pub(super) new: Range<usize>,
}

/// Which side changed a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChangedBy {
    Neither,
    /// Only our side.
    Mine,
    /// Only the other side.
    Theirs,
    /// Both sides, in the same way.
    Alike,
    /// Both sides, in different ways.
    Conflict,
}

/// Corresponding ranges of all three sequences. Regions are contiguous.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) changed_by: ChangedBy,
    pub(super) base: Range<usize>,
    pub(super) mine: Range<usize>,
    pub(super) theirs: Range<usize>,
}

/// Returns the replacements that turn `old` into `new`, in ascending order, separated by at least one equal element.
pub(super) fn hunks<T: Eq + std::hash::Hash>(old: &[T], new: &[T]) -> Vec<Hunk> {
    let mut hunks: Vec<Hunk> = Vec::new();
    for op in capture_diff_slices(Algorithm::Myers, old, new) {
        if matches!(op, DiffOp::Equal { .. }) {
            continue;
        }
        let (old, new) = (op.old_range(), op.new_range());
        match hunks.last_mut() {
            Some(last) if last.old.end == old.start && last.new.end == new.start => {
                (last.old.end, last.new.end) = (old.end, new.end);
            }
            _ => hunks.push(Hunk { old, new }),
        }
    }
    hunks
}

/// Divides the three sequences into regions by the side that changed them.
pub(super) fn regions<T: Eq + std::hash::Hash>(base: &[T], mine: &[T], theirs: &[T]) -> Vec<Region> {
    let (our_hunks, their_hunks) = (hunks(base, mine), hunks(base, theirs));
    let (mut ours, mut others) = (our_hunks.as_slice(), their_hunks.as_slice());
    let mut regions: Vec<Region> = Vec::new();
    let (mut at, mut at_mine, mut at_theirs) = (0, 0, 0);
    loop {
        let ours_first = match (ours.first(), others.first()) {
            (None, None) => break,
            (Some(one), Some(other)) => starts_before(one, other),
            (one, _) => one.is_some(),
        };
        let (mut our_count, mut their_count) = if ours_first { (1, 0) } else { (0, 1) };
        let mut span = if ours_first { ours[0].old.clone() } else { others[0].old.clone() };
        loop {
            if others.get(their_count).is_some_and(|next| our_count > 0 && overlaps(&span, &next.old)) {
                span.end = span.end.max(others[their_count].old.end);
                their_count += 1;
            } else if ours.get(our_count).is_some_and(|next| their_count > 0 && overlaps(&span, &next.old)) {
                span.end = span.end.max(ours[our_count].old.end);
                our_count += 1;
            } else {
                break;
            }
        }
        let unchanged = span.start - at;
        push(
            &mut regions,
            ChangedBy::Neither,
            at..span.start,
            at_mine..at_mine + unchanged,
            at_theirs..at_theirs + unchanged,
        );
        (at_mine, at_theirs) = (at_mine + unchanged, at_theirs + unchanged);
        let mine_end = at_mine + new_len(&span, &ours[..our_count]);
        let theirs_end = at_theirs + new_len(&span, &others[..their_count]);
        let alike = mine[at_mine..mine_end] == theirs[at_theirs..theirs_end];
        let changed_by = match (our_count, their_count) {
            (_, 0) => ChangedBy::Mine,
            (0, _) => ChangedBy::Theirs,
            _ if alike => ChangedBy::Alike,
            _ => ChangedBy::Conflict,
        };
        push(&mut regions, changed_by, span.clone(), at_mine..mine_end, at_theirs..theirs_end);
        (at, at_mine, at_theirs) = (span.end, mine_end, theirs_end);
        (ours, others) = (&ours[our_count..], &others[their_count..]);
    }
    push(&mut regions, ChangedBy::Neither, at..base.len(), at_mine..mine.len(), at_theirs..theirs.len());
    regions
}

/// Returns the replacement in `theirs` that keeps both sides of a conflict. A common prefix or suffix is kept once, and
/// so is a side that is contained in the other. `solid` is true for words and false for separators: a common prefix or
/// suffix is cut at a word, so that the separator next to two different words stays with each of them.
pub(super) fn merge_conflict<T: Eq>(mine: &[T], theirs: &[T], solid: impl Fn(&T) -> bool) -> Hunk {
    let alike = mine.iter().zip(theirs).take_while(|(one, other)| one == other).count();
    let rest = (mine.len() - alike).min(theirs.len() - alike);
    let tail = mine.iter().rev().zip(theirs.iter().rev()).take(rest).take_while(|(one, other)| one == other).count();
    let inside = alike + tail < mine.len() && alike + tail < theirs.len();
    let head = if inside { mine[..alike].iter().rposition(&solid).map_or(0, |last| last + 1) } else { alike };
    let tail_start = mine.len() - tail;
    let gap = if inside { mine[tail_start..].iter().position(&solid).unwrap_or(tail) } else { 0 };
    let tail = tail - gap;
    let (ours, others) = (head..mine.len() - tail, head..theirs.len() - tail);
    if contains(&theirs[others.clone()], &mine[ours.clone()]) {
        Hunk { old: others.end..others.end, new: ours.end..ours.end }
    } else if contains(&mine[ours.clone()], &theirs[others.clone()]) {
        Hunk { old: others, new: ours }
    } else {
        Hunk { old: others.end..others.end, new: ours }
    }
}

fn contains<T: Eq>(whole: &[T], part: &[T]) -> bool {
    part.is_empty() || whole.windows(part.len()).any(|window| window == part)
}

fn starts_before(one: &Hunk, other: &Hunk) -> bool {
    (one.old.start, one.old.end) <= (other.old.start, other.old.end)
}

/// True when two changes of the base have no clear order: they share an element, one inserts inside the other, or both
/// insert at the same position. Adjacent changes do have a clear order.
fn overlaps(span: &Range<usize>, next: &Range<usize>) -> bool {
    next.start < span.end || (next.start == span.start && next.is_empty() && span.is_empty())
}

/// Returns the length of a span of the base after the changes inside it.
fn new_len(span: &Range<usize>, hunks: &[Hunk]) -> usize {
    hunks.iter().fold(span.len(), |len, hunk| len + hunk.new.len() - hunk.old.len())
}

fn push(
    regions: &mut Vec<Region>,
    changed_by: ChangedBy,
    base: Range<usize>,
    mine: Range<usize>,
    theirs: Range<usize>,
) {
    if !(base.is_empty() && mine.is_empty() && theirs.is_empty()) {
        regions.push(Region { changed_by, base, mine, theirs });
    }
}
