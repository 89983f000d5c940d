//! What is edited: a text of marks (`<17>`), each typed once in a plan, whole or not at all. So lost and doubled can be seen.

use yrs::{GetString, ReadTxn, Text, Transaction, TransactionMut, WriteTxn};

const ROOT: &str = "text";

/// The text as it is.
pub fn read(txn: &Transaction<'_>) -> String {
    txn.get_text(ROOT).map_or(String::new(), |text| text.get_string(txn))
}

/// The marks in a text, in order.
pub fn marks(text: &str) -> impl Iterator<Item = u32> + '_ {
    text.split('>').filter_map(|mark| mark.strip_prefix('<')?.parse().ok())
}

/// Types a mark, followed by as many blanks, in front of the `place`th mark, or at the end.
pub fn insert(txn: &mut TransactionMut<'_>, place: usize, mark: u32) {
    let text = txn.get_or_insert_text(ROOT);
    let now = text.get_string(txn);
    let at = now.match_indices('<').nth(place).map_or(now.len(), |(at, _)| at);
    text.insert(txn, at as u32, &format!("<{mark}>"));
}

/// Deletes the `place`th mark.
pub fn delete(txn: &mut TransactionMut<'_>, place: usize) {
    let text = txn.get_or_insert_text(ROOT);
    let now = text.get_string(txn);
    let Some((start, _)) = now.match_indices('<').nth(place) else { return };
    let len = now[start..].find('>').map_or(now.len() - start, |end| end + 1);
    text.remove_range(txn, start as u32, len as u32);
}
