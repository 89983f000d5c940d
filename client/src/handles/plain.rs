//! Maps and lists of values.

use std::collections::BTreeMap;

use yrs::{Array, Map as _, ReadTxn, WriteTxn};

use super::{Root, check_range, rejected};
use crate::document::EditError;
use crate::types::Value;

/// Values by key. What is written to different keys apart comes together.
#[derive(Clone)]
pub struct Map(pub(super) Root);

impl Map {
    /// Sets a key.
    ///
    /// # Errors
    /// Also when the value cannot be stored.
    pub async fn set(&self, key: &str, value: Value) -> Result<(), EditError> {
        let (key, any) = (key.to_owned(), value.to_any().map_err(rejected)?);
        let set = move |name: &str, txn: &mut yrs::TransactionMut<'_>| {
            txn.get_or_insert_map(name).insert(txn, key, any);
            Ok(())
        };
        self.0.edit(set).await
    }

    /// The value of a key.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn get(&self, key: &str) -> Result<Option<Value>, EditError> {
        let key = key.to_owned();
        self.0.read(move |name, txn| Some(Value::from_out(&txn.get_map(name)?.get(txn, &key)?, txn))).await
    }

    /// Removes a key; false if there was none.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn remove(&self, key: &str) -> Result<bool, EditError> {
        let key = key.to_owned();
        self.0.edit(move |name, txn| Ok(txn.get_or_insert_map(name).remove(txn, &key).is_some())).await
    }

    /// Everything.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn entries(&self) -> Result<BTreeMap<String, Value>, EditError> {
        let all = |name: &str, txn: &yrs::Transaction<'_>| {
            let Some(map) = txn.get_map(name) else { return BTreeMap::new() };
            map.iter(txn).map(|(key, out)| (key.to_owned(), Value::from_out(&out, txn))).collect()
        };
        self.0.read(all).await
    }
}

/// Values in order. What is inserted apart is all there, one after the other.
#[derive(Clone)]
pub struct List(pub(super) Root);

impl List {
    /// Inserts before `index`.
    ///
    /// # Errors
    /// Also when `index` is beyond the end, or the value cannot be stored.
    pub async fn insert(&self, index: u32, value: Value) -> Result<(), EditError> {
        let any = value.to_any().map_err(rejected)?;
        let insert = move |name: &str, txn: &mut yrs::TransactionMut<'_>| {
            let list = txn.get_or_insert_array(name);
            check_range(index, 0, list.len(txn))?;
            list.insert(txn, index, any);
            Ok(())
        };
        self.0.edit(insert).await
    }

    /// Inserts at the end.
    ///
    /// # Errors
    /// Also when the value cannot be stored.
    pub async fn push(&self, value: Value) -> Result<(), EditError> {
        let any = value.to_any().map_err(rejected)?;
        let push = move |name: &str, txn: &mut yrs::TransactionMut<'_>| {
            txn.get_or_insert_array(name).push_back(txn, any);
            Ok(())
        };
        self.0.edit(push).await
    }

    /// Removes the value at `index`.
    ///
    /// # Errors
    /// Also when there is none.
    pub async fn remove(&self, index: u32) -> Result<(), EditError> {
        let remove = move |name: &str, txn: &mut yrs::TransactionMut<'_>| {
            let list = txn.get_or_insert_array(name);
            check_range(index, 1, list.len(txn))?;
            list.remove(txn, index);
            Ok(())
        };
        self.0.edit(remove).await
    }

    /// Everything.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn items(&self) -> Result<Vec<Value>, EditError> {
        let all = |name: &str, txn: &yrs::Transaction<'_>| {
            let Some(list) = txn.get_array(name) else { return Vec::new() };
            list.iter(txn).map(|out| Value::from_out(&out, txn)).collect()
        };
        self.0.read(all).await
    }
}
