//! What is edited: marks (`<17>`), each typed once in a plan, whole or not at all. So lost and doubled can be seen.
//!
//! In a text, where doubling shows; or as keys of a map where a document's history changes: what is queued is then put upon
//! the new history by content, and a text's content is words and letters, not marks.

use yrs::{Any, GetString, Map, ReadTxn, Text, Transaction, TransactionMut, WriteTxn};

const TEXT: &str = "text";
const MAP: &str = "map";

/// Where marks are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A text.
    Text,
    /// A map's keys.
    Map,
}

/// The marks as they are, as a text.
pub fn read(txn: &Transaction<'_>) -> String {
    let text = txn.get_text(TEXT).map_or(String::new(), |text| text.get_string(txn));
    let mut keys: Vec<String> =
        txn.get_map(MAP).map_or_else(Vec::new, |map| map.keys(txn).map(ToString::to_string).collect());
    // A map's order is nobody's promise, and by chance.
    keys.sort_unstable();
    text + &keys.concat()
}

/// The marks in a text, in order.
pub fn marks(text: &str) -> impl Iterator<Item = u32> + '_ {
    text.split('>').filter_map(|mark| mark.strip_prefix('<')?.parse().ok())
}

/// Types a mark: in a text in front of the `place`th mark, or at the end.
pub fn insert(txn: &mut TransactionMut<'_>, shape: Shape, place: usize, mark: u32) {
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
pub fn delete(txn: &mut TransactionMut<'_>, shape: Shape, mark: u32) {
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
