//! A multi-value register: concurrent writes are all kept, side by side, until a user chooses one.
//!
//! Layout: a root Y.Map of writes `{v, by, at, over}`, keyed by their ids (ULIDs); see "Offline data types" in
//! `protocol/SPEC.md`. A write removes the writes it has seen and lists their ids in `over`. Removal alone is not
//! enough: a write that another replica sends again under its own id would reappear.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use thiserror::Error;
use yrs::{Any, Map, Number, Out, ReadTxn, TransactionMut, WriteTxn};

use super::value::{MAX_INTEGER, Value, ValueError, integer_field, text_field};

/// Number of superseded writes that a write lists: the newest by id. A write that was superseded before those and
/// arrives a second time is shown as a version again.
pub const MAX_OVER: usize = 32;

/// A multi-value register. Holds only the name of the root type.
///
/// Apps use [`crate::handles::Choice`], which manages signatures and transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChoiceRegister {
    root: String,
}

/// Id, author and time of a write. A retry uses the same id, so that it is recognized as the same write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// A ULID, created once for this write.
    pub id: String,
    /// The user who wrote; set by the app in [`crate::DeviceConfig::author`].
    pub author: String,
    /// The time of the write, in milliseconds since 1970.
    pub at_ms: u64,
}

/// One of the current values: a write that no other write has replaced.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    /// The written value.
    pub value: Value,
    /// Id, author and time of the write.
    pub signature: Signature,
    /// Ids of the writes that this one replaced, ascending; at most [`MAX_OVER`].
    pub over: Vec<String>,
}

/// Why a write was not made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChoiceError {
    /// The value cannot be stored.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// The id is not 26 characters of Crockford's base 32.
    #[error("the write id {0:?} is not a ULID")]
    Id(String),
    /// The time is after 2^53 - 1 ms.
    #[error("the time {0} ms is outside 0..=2^53 - 1")]
    Time(u64),
    /// The version is not current any more: it was replaced, for example because another user has chosen.
    #[error("version {0:?} was already replaced; read the current versions and choose again")]
    NoSuchVersion(String),
}

impl ChoiceRegister {
    /// Creates the register that is stored in the root Y.Map of this name.
    pub fn new(root: impl Into<String>) -> Self {
        Self { root: root.into() }
    }

    /// Returns the name of the root type.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Returns all current values, oldest id first: none, one, or several that were written concurrently.
    pub fn versions<T: ReadTxn>(&self, txn: &T) -> Vec<Version> {
        let mut all = self.stored(txn);
        let superseded: BTreeSet<String> = all.iter().flat_map(|version| version.over.iter().cloned()).collect();
        all.retain(|version| !superseded.contains(&version.signature.id));
        all.sort_by(|one, other| one.signature.id.cmp(&other.signature.id));
        all
    }

    /// Returns the versions if there is more than one, for a user to choose from; empty otherwise.
    pub fn conflicts<T: ReadTxn>(&self, txn: &T) -> Vec<Version> {
        let versions = self.versions(txn);
        if versions.len() > 1 { versions } else { Vec::new() }
    }

    /// Returns the version to show until a user has chosen: the one with the newest time, and of several the greatest id.
    pub fn current<T: ReadTxn>(&self, txn: &T) -> Option<Version> {
        // `max_by_key` returns the last maximum, and versions are sorted by id.
        self.versions(txn).into_iter().max_by_key(|version| version.signature.at_ms)
    }

    /// Writes a value that replaces all versions known here. A retry under the same id changes nothing.
    ///
    /// # Errors
    /// [`ChoiceError::Value`], [`ChoiceError::Id`] or [`ChoiceError::Time`]; the register is unchanged then.
    pub fn write(&self, txn: &mut TransactionMut<'_>, value: &Value, signature: &Signature) -> Result<(), ChoiceError> {
        check(signature)?;
        let seen = self.stored(txn);
        let known = |version: &Version| version.signature.id == signature.id || version.over.contains(&signature.id);
        if seen.iter().any(known) {
            return Ok(());
        }
        let mut over: BTreeSet<String> = seen.iter().flat_map(|version| version.over.iter().cloned()).collect();
        over.extend(seen.iter().map(|version| version.signature.id.clone()));
        let over = over.into_iter().rev().take(MAX_OVER).rev().collect();
        let version = Version { value: value.clone(), signature: signature.clone(), over };
        self.put(txn, &seen, &version)
    }

    /// Resolves the conflict for everyone: writes the value of version `chosen` again, replacing all versions known here.
    /// Removing only the other versions would lose every value when two users choose differently at the same time.
    ///
    /// # Errors
    /// [`ChoiceError::NoSuchVersion`], and the errors of [`ChoiceRegister::write`].
    pub fn choose(&self, txn: &mut TransactionMut<'_>, chosen: &str, signature: &Signature) -> Result<(), ChoiceError> {
        let versions = self.stored(txn);
        let retry = versions.iter().any(|version| version.signature.id == signature.id);
        match versions.iter().find(|version| version.signature.id == chosen) {
            Some(version) => self.write(txn, &version.value, signature),
            None if retry => Ok(()),
            None => Err(ChoiceError::NoSuchVersion(chosen.to_owned())),
        }
    }

    /// Resolves the conflict for everyone with a value that the app merged from the versions.
    ///
    /// # Errors
    /// The errors of [`ChoiceRegister::write`].
    pub fn merge(&self, txn: &mut TransactionMut<'_>, value: &Value, signature: &Signature) -> Result<(), ChoiceError> {
        self.write(txn, value, signature)
    }

    /// Copies a version of another history into this register unless it is known; used by [`super::rebase`]. Versions
    /// listed in its `over` are removed, all others are kept.
    pub(super) fn adopt(&self, txn: &mut TransactionMut<'_>, version: &Version) -> Result<(), ChoiceError> {
        check(&version.signature)?;
        let present = self.stored(txn);
        let id = &version.signature.id;
        if present.iter().any(|known| known.signature.id == *id || known.over.contains(id)) {
            return Ok(());
        }
        let superseded: Vec<_> =
            present.into_iter().filter(|known| version.over.contains(&known.signature.id)).collect();
        self.put(txn, &superseded, version)
    }

    fn put(&self, txn: &mut TransactionMut<'_>, gone: &[Version], version: &Version) -> Result<(), ChoiceError> {
        let any = to_any(version)?;
        let map = txn.get_or_insert_map(self.root.as_str());
        for old in gone {
            map.remove(txn, &old.signature.id);
        }
        map.insert(txn, version.signature.id.as_str(), any);
        Ok(())
    }

    /// Returns every valid write in the map, superseded ones included, ascending by id.
    fn stored<T: ReadTxn>(&self, txn: &T) -> Vec<Version> {
        let Some(map) = txn.get_map(self.root.as_str()) else { return Vec::new() };
        let mut all: Vec<_> = map
            .iter(txn)
            .filter_map(|(id, out)| match out {
                Out::Any(any) => from_any(id, &any),
                _ => None,
            })
            .collect();
        all.sort_by(|one, other| one.signature.id.cmp(&other.signature.id));
        all
    }
}

/// True for a ULID: 26 upper-case characters of Crockford's base 32, the first at most 7 (github.com/ulid/spec).
pub fn is_ulid(id: &str) -> bool {
    id.len() == 26
        && id.starts_with(|first: char| ('0'..='7').contains(&first))
        && id.bytes().all(|byte| b"0123456789ABCDEFGHJKMNPQRSTVWXYZ".contains(&byte))
}

fn check(signature: &Signature) -> Result<(), ChoiceError> {
    if !is_ulid(&signature.id) {
        return Err(ChoiceError::Id(signature.id.clone()));
    }
    if signature.at_ms > MAX_INTEGER as u64 {
        return Err(ChoiceError::Time(signature.at_ms));
    }
    Ok(())
}

fn to_any(version: &Version) -> Result<Any, ChoiceError> {
    let over: Vec<Any> = version.over.iter().map(|id| Any::from(id.as_str())).collect();
    Ok(Any::Map(Arc::new(HashMap::from([
        ("v".to_owned(), version.value.to_any()?),
        ("by".to_owned(), Any::from(version.signature.author.as_str())),
        ("at".to_owned(), Any::Number(Number::Int(version.signature.at_ms as i64))),
        ("over".to_owned(), Any::Array(over.into())),
    ]))))
}

/// Decodes the write stored under `id`; `None` if it is malformed.
pub(super) fn from_any(id: &str, any: &Any) -> Option<Version> {
    let Any::Map(map) = any else { return None };
    let (Some(Any::Array(over)), true) = (map.get("over"), is_ulid(id)) else { return None };
    let over = over.iter().filter_map(|id| match id {
        Any::String(id) => Some(id.to_string()),
        _ => None,
    });
    let at_ms = u64::try_from(integer_field(map, "at")?).ok()?;
    let signature = Signature { id: id.to_owned(), author: text_field(map, "by")?, at_ms };
    Some(Version { value: Value::from_any(map.get("v")?), signature, over: over.collect() })
}

#[cfg(test)]
mod tests {
    use yrs::updates::decoder::Decode;
    use yrs::{Doc, StateVector, Transact, Update};

    use super::*;

    fn sign(number: u64, author: &str) -> Signature {
        Signature { id: format!("{number:026}"), author: author.to_owned(), at_ms: 1_790_000_000_000 + number }
    }

    fn register() -> ChoiceRegister {
        ChoiceRegister::new("title")
    }

    fn exchange(one: &Doc, other: &Doc) {
        for (from, to) in [(one, other), (other, one)] {
            let update = from.transact().encode_state_as_update_v1(&StateVector::default());
            to.transact_mut().apply_update(Update::decode_v1(&update).unwrap()).unwrap();
        }
    }

    fn values(doc: &Doc) -> Vec<Value> {
        register().versions(&doc.transact()).into_iter().map(|version| version.value).collect()
    }

    #[test]
    fn concurrent_writes_are_kept_until_a_user_chooses() {
        let [one, two] = [1, 2].map(Doc::with_client_id);
        register().write(&mut one.transact_mut(), &"draft".into(), &sign(1, "ann")).unwrap();
        exchange(&one, &two);
        register().write(&mut one.transact_mut(), &"A".into(), &sign(2, "ann")).unwrap();
        register().write(&mut two.transact_mut(), &"B".into(), &sign(3, "bob")).unwrap();
        exchange(&one, &two);
        assert_eq!(values(&one), ["A".into(), "B".into()]);
        assert_eq!(register().conflicts(&two.transact()).len(), 2);
        assert_eq!(register().current(&two.transact()).unwrap().signature.author, "bob");
        register().choose(&mut two.transact_mut(), &sign(2, "").id, &sign(4, "bob")).unwrap();
        exchange(&one, &two);
        assert_eq!(values(&one), ["A".into()]);
        assert!(register().conflicts(&one.transact()).is_empty());
    }

    #[test]
    fn concurrent_different_choices_lose_nothing() {
        let [one, two] = [1, 2].map(Doc::with_client_id);
        register().write(&mut one.transact_mut(), &"A".into(), &sign(1, "ann")).unwrap();
        register().write(&mut two.transact_mut(), &"B".into(), &sign(2, "bob")).unwrap();
        exchange(&one, &two);
        register().choose(&mut one.transact_mut(), &sign(1, "").id, &sign(3, "ann")).unwrap();
        register().choose(&mut two.transact_mut(), &sign(2, "").id, &sign(4, "bob")).unwrap();
        exchange(&one, &two);
        assert_eq!(values(&one), ["A".into(), "B".into()]);
    }

    #[test]
    fn superseded_write_sent_again_stays_superseded() {
        let [one, two] = [1, 2].map(Doc::with_client_id);
        register().write(&mut one.transact_mut(), &"A".into(), &sign(1, "ann")).unwrap();
        register().write(&mut one.transact_mut(), &"B".into(), &sign(2, "ann")).unwrap();
        register().write(&mut one.transact_mut(), &"A".into(), &sign(1, "ann")).unwrap();
        register().write(&mut two.transact_mut(), &"A".into(), &sign(1, "ann")).unwrap();
        exchange(&one, &two);
        assert_eq!(values(&one), ["B".into()]);
        assert_eq!(values(&two), ["B".into()]);
    }

    #[test]
    fn superseded_writes_are_removed_from_the_document() {
        let doc = Doc::with_client_id(1);
        for number in 1..=2 * MAX_OVER as u64 {
            register().write(&mut doc.transact_mut(), &(number as i64).into(), &sign(number, "ann")).unwrap();
        }
        let txn = doc.transact();
        assert_eq!(txn.get_map("title").unwrap().len(&txn), 1);
        let [version] = register().versions(&txn).try_into().unwrap();
        assert_eq!(version.value, (2 * MAX_OVER as i64).into());
        assert_eq!(version.over.len(), MAX_OVER);
        assert_eq!(version.over.last(), Some(&sign(2 * MAX_OVER as u64 - 1, "").id), "the newest ids are listed");
    }

    #[test]
    fn rejected_write_changes_nothing() {
        let doc = Doc::with_client_id(1);
        let mut txn = doc.transact_mut();
        let wrong = Signature { id: "1".to_owned(), ..sign(1, "ann") };
        assert_eq!(register().write(&mut txn, &1.into(), &wrong), Err(ChoiceError::Id("1".to_owned())));
        assert!(register().write(&mut txn, &Value::Integer(i64::MIN), &sign(1, "ann")).is_err());
        let missing = register().choose(&mut txn, &sign(9, "").id, &sign(1, "ann"));
        assert_eq!(missing, Err(ChoiceError::NoSuchVersion(sign(9, "").id)));
        assert!(register().versions(&txn).is_empty());
    }
}
