//! A text that many write.

use yrs::{GetString, ReadTxn, Text as _, TextRef, TransactionMut, WriteTxn};

use super::{Root, check_range, rejected};
use crate::document::EditError;
use crate::types::text_merge::{Merged, diff, merge3};

/// A text: what is written apart comes together. Positions count UTF-16 code units; between the two
/// of one character there is no place.
#[derive(Clone)]
pub struct Text(pub(super) Root);

impl Text {
    /// Inserts before `index`.
    ///
    /// # Errors
    /// Also when `index` is beyond the end, or within a character; others may have changed the text.
    pub async fn insert(&self, index: u32, text: &str) -> Result<(), EditError> {
        let inserted = text.to_owned();
        let change = move |name: &str, txn: &mut TransactionMut<'_>| {
            let text = txn.get_or_insert_text(name);
            check_range(index, 0, text.len(txn))?;
            check_characters(&text, txn, &[index])?;
            text.insert(txn, index, &inserted);
            Ok(())
        };
        self.0.edit(change).await
    }

    /// Writes at the end.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn append(&self, text: &str) -> Result<(), EditError> {
        let appended = text.to_owned();
        let change = move |name: &str, txn: &mut TransactionMut<'_>| {
            txn.get_or_insert_text(name).push(txn, &appended);
            Ok(())
        };
        self.0.edit(change).await
    }

    /// Deletes `len` units from `index` on.
    ///
    /// # Errors
    /// Also when there are fewer, or half a character would be left.
    pub async fn delete(&self, index: u32, len: u32) -> Result<(), EditError> {
        let change = move |name: &str, txn: &mut TransactionMut<'_>| {
            let text = txn.get_or_insert_text(name);
            check_range(index, len, text.len(txn))?;
            check_characters(&text, txn, &[index, index + len])?;
            text.remove_range(txn, index, len);
            Ok(())
        };
        self.0.edit(change).await
    }

    /// Brings in what someone made of `base` outside of the document: in a file, in a form. Where both changed the same
    /// words both are kept, and told.
    ///
    /// # Errors
    /// Also when the text holds objects that are no text.
    pub async fn merge_in(&self, base: &str, theirs: &str) -> Result<Merged, EditError> {
        let (base, theirs) = (base.to_owned(), theirs.to_owned());
        let change = move |name: &str, txn: &mut TransactionMut<'_>| {
            let text = txn.get_or_insert_text(name);
            let mine = text.get_string(txn);
            if mine.encode_utf16().count() != text.len(txn) as usize {
                return Err(rejected("the text holds objects that are no text: positions in it do not count alike"));
            }
            let merged = merge3(&base, &mine, &theirs);
            for change in diff(&mine, &merged.text).into_iter().rev() {
                text.remove_range(txn, change.start, change.deleted);
                text.insert(txn, change.start, &change.inserted);
            }
            Ok(merged)
        };
        self.0.edit(change).await
    }

    /// All of it.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn to_string(&self) -> Result<String, EditError> {
        self.0.read(|name, txn| txn.get_text(name).map_or(String::new(), |text| text.get_string(txn))).await
    }

    /// True if there is nothing in it.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn is_empty(&self) -> Result<bool, EditError> {
        Ok(self.len().await? == 0)
    }

    /// Its length in UTF-16 code units.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn len(&self) -> Result<u32, EditError> {
        self.0.read(|name, txn| txn.get_text(name).map_or(0, |text| text.len(txn))).await
    }
}

/// Yjs would replace the halves of a divided character, and it would be lost for everyone.
fn check_characters(text: &TextRef, txn: &TransactionMut<'_>, places: &[u32]) -> Result<(), EditError> {
    let len = text.len(txn);
    if places.iter().all(|&place| place == 0 || place == len) {
        return Ok(());
    }
    let string = text.get_string(txn);
    if string.encode_utf16().count() != len as usize {
        // Objects that are no text lie in it: where, this string does not tell.
        return Ok(());
    }
    let mut at = 0;
    for character in string.chars() {
        if character.len_utf16() == 2 && places.contains(&(at + 1)) {
            return Err(rejected(format!("{} is in the middle of {character:?}", at + 1)));
        }
        at += character.len_utf16() as u32;
    }
    Ok(())
}
