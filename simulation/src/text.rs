//! The edited content: marks (`<17>`). Each mark is inserted once in a plan, as a unit, so that lost and duplicated edits
//! are visible.
//!
//! Marks are stored in a text, in which duplicates are visible; or as keys of a map in plans that replace histories. There
//! queued edits are rebased onto the new history by content, and the content of a text is words and letters, not marks.

use yrs::{Any, GetString, Map, ReadTxn, Text, Transaction, TransactionMut, WriteTxn};

const TEXT: &str = "text";
const MAP: &str = "map";

/// Where marks are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// In a text.
    Text,
    /// As the keys of a map.
    Map,
}

/// All marks as one string, in document order (text) or sorted (map).
pub(crate) fn read(txn: &Transaction<'_>) -> String {
    let text = txn.get_text(TEXT).map_or(String::new(), |text| text.get_string(txn));
    let mut keys: Vec<String> =
        txn.get_map(MAP).map_or_else(Vec::new, |map| map.keys(txn).map(ToString::to_string).collect());
    // The order of a map's keys is unspecified.
    keys.sort_unstable();
    text + &keys.concat()
}

/// The marks in a string, in order.
pub(crate) fn marks(text: &str) -> impl Iterator<Item = u32> + '_ {
    text.split('>').filter_map(|mark| mark.strip_prefix('<')?.parse().ok())
}

/// Inserts a mark: in a text before the mark with index `place`, or at the end if there is none.
pub(crate) fn insert(txn: &mut TransactionMut<'_>, shape: Shape, place: usize, mark: u32) {
    let mark = format!("<{mark}>");
    if shape == Shape::Map {
        let map = txn.get_or_insert_map(MAP);
        map.insert(txn, mark, Any::from(1));
        return;
    }
    let text = txn.get_or_insert_text(TEXT);
    let now = text.get_string(txn);
    let at = now.match_indices('<').nth(place).map_or(now.len(), |(at, _)| at);
    text.insert(txn, at as u32, &mark);
}

/// Deletes a mark.
pub(crate) fn delete(txn: &mut TransactionMut<'_>, shape: Shape, mark: u32) {
    let mark = format!("<{mark}>");
    if shape == Shape::Map {
        let map = txn.get_or_insert_map(MAP);
        map.remove(txn, &mark);
        return;
    }
    let text = txn.get_or_insert_text(TEXT);
    if let Some(start) = text.get_string(txn).find(&mark) {
        text.remove_range(txn, start as u32, mark.len() as u32);
    }
}
