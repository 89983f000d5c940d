//! Handle to a collaborative text.

use yrs::{GetString, ReadTxn, Text as _, TextRef, TransactionMut, WriteTxn};

use super::{Root, check_range, rejected};
use crate::document::EditError;
use crate::types::text_merge::{Merged, diff, merge3};

/// A collaborative text: concurrent insertions and deletions are merged. Positions and lengths count UTF-16 code units;
/// a position between the two units of one character is rejected.
///
/// ```
/// # use syncline_client::{Device, DeviceConfig};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let home = tempfile::tempdir()?;
/// # let config = DeviceConfig { offline: true, ..DeviceConfig::new(home.path(), "ws://127.0.0.1:1234") };
/// # let document = Device::open(config).await?.document("page").await?;
/// let body = document.text_at("body");
/// body.append("Sourdough needs time.").await?;
/// body.insert(0, "Flour, water. ").await?;
/// body.delete(5, 7).await?;
/// assert_eq!(body.to_string().await?, "Flour. Sourdough needs time.");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Text(pub(super) Root);

impl Text {
    /// Inserts `text` before position `index`.
    ///
    /// # Errors
    /// See [`super`]; [`EditError::Rejected`] also if `index` is past the end or within a character. Remote changes may
    /// have changed the text since it was read.
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

    /// Inserts `text` at the end.
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

    /// Deletes `len` UTF-16 units, starting at position `index`.
    ///
    /// # Errors
    /// See [`super`]; [`EditError::Rejected`] also if the range is past the end or would split a character.
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

    /// Merges a version of the text that was edited outside the document, for example in a file or a form: `theirs` is
    /// the edited version of `base`. Where the document and `theirs` changed the same words, both versions are kept and
    /// the conflict is reported.
    ///
    /// # Errors
    /// See [`super`]; [`EditError::Rejected`] also if the text contains embedded objects.
    pub async fn merge_in(&self, base: &str, theirs: &str) -> Result<Merged, EditError> {
        let (base, theirs) = (base.to_owned(), theirs.to_owned());
        let change = move |name: &str, txn: &mut TransactionMut<'_>| {
            let text = txn.get_or_insert_text(name);
            let mine = text.get_string(txn);
            if mine.encode_utf16().count() != text.len(txn) as usize {
                return Err(rejected("the text contains embedded objects, so it cannot be merged as a string"));
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

    /// Returns the text. Embedded objects are left out.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn to_string(&self) -> Result<String, EditError> {
        self.0.read(|name, txn| txn.get_text(name).map_or(String::new(), |text| text.get_string(txn))).await
    }

    /// True if the text is empty.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn is_empty(&self) -> Result<bool, EditError> {
        Ok(self.len().await? == 0)
    }

    /// Returns the length in UTF-16 code units.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn len(&self) -> Result<u32, EditError> {
        self.0.read(|name, txn| txn.get_text(name).map_or(0, |text| text.len(txn))).await
    }
}

/// Rejects positions within a character: Yjs would replace both halves of a split character, and it would be lost.
fn check_characters(text: &TextRef, txn: &TransactionMut<'_>, places: &[u32]) -> Result<(), EditError> {
    let len = text.len(txn);
    if places.iter().all(|&place| place == 0 || place == len) {
        return Ok(());
    }
    let string = text.get_string(txn);
    if string.encode_utf16().count() != len as usize {
        // The text contains embedded objects, whose positions are not known from the string.
        return Ok(());
    }
    let mut at = 0;
    for character in string.chars() {
        if character.len_utf16() == 2 && places.contains(&(at + 1)) {
            return Err(rejected(format!("position {} is within the character {character:?}", at + 1)));
        }
        at += character.len_utf16() as u32;
    }
    Ok(())
}
