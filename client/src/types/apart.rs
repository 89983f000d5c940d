//! stub until merged
use yrs::Doc;
/// Something both sides changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap;
/// What both changed.
pub fn both_changed(_base: &Doc, _mine: &Doc, _theirs: &Doc) -> Vec<Overlap> {
    Vec::new()
}
