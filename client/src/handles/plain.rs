//! Handles to maps and lists of values.

use std::collections::BTreeMap;

use yrs::{Array, Map as _, ReadTxn, WriteTxn};

use super::{Root, check_range, rejected};
use crate::document::EditError;
use crate::types::Value;

/// Values by key. Concurrent writes to different keys are merged; of two concurrent writes to one key an arbitrary one
/// wins, the same on all devices.
///
/// ```
/// # use syncline_client::{Device, DeviceConfig};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let home = tempfile::tempdir()?;
/// # let config = DeviceConfig { offline: true, ..DeviceConfig::new(home.path(), "ws://127.0.0.1:1234") };
/// # let document = Device::open(config).await?.document("shopping").await?;
/// let amounts = document.map("amounts");
/// amounts.set("milk", 3.into()).await?;
/// assert_eq!(amounts.get("milk").await?, Some(3.into()));
/// assert!(amounts.remove("milk").await?);
/// assert_eq!(amounts.get("milk").await?, None);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Map(pub(super) Root);

impl Map {
    /// Sets a key.
    ///
    /// # Errors
    /// See [`super`]; [`EditError::Rejected`] also if an integer in the value is outside ±(2^53 - 1).
    pub async fn set(&self, key: &str, value: Value) -> Result<(), EditError> {
        let (key, any) = (key.to_owned(), value.to_any().map_err(rejected)?);
        let set = move |name: &str, txn: &mut yrs::TransactionMut<'_>| {
            txn.get_or_insert_map(name).insert(txn, key, any);
            Ok(())
        };
        self.0.edit(set).await
    }

    /// Returns the value of a key; `None` if the key is not set. A nested shared type is returned as its content.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn get(&self, key: &str) -> Result<Option<Value>, EditError> {
        let key = key.to_owned();
        self.0.read(move |name, txn| Some(Value::from_out(&txn.get_map(name)?.get(txn, &key)?, txn))).await
    }

    /// Removes a key; returns false if it was not set.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn remove(&self, key: &str) -> Result<bool, EditError> {
        let key = key.to_owned();
        self.0.edit(move |name, txn| Ok(txn.get_or_insert_map(name).remove(txn, &key).is_some())).await
    }

    /// Returns all keys and values.
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

/// Values in order. Concurrent insertions are all kept, one after the other.
///
/// ```
/// # use syncline_client::{Device, DeviceConfig};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let home = tempfile::tempdir()?;
/// # let config = DeviceConfig { offline: true, ..DeviceConfig::new(home.path(), "ws://127.0.0.1:1234") };
/// # let document = Device::open(config).await?.document("shopping").await?;
/// let items = document.list("items");
/// items.push("bread".into()).await?;
/// items.insert(0, "milk".into()).await?;
/// assert_eq!(items.items().await?, ["milk".into(), "bread".into()]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct List(pub(super) Root);

impl List {
    /// Inserts a value before `index`; the length of the list is a valid index.
    ///
    /// # Errors
    /// See [`super`]; [`EditError::Rejected`] also if `index` is past the end, or an integer in the value is outside
    /// ±(2^53 - 1).
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

    /// Inserts a value at the end.
    ///
    /// # Errors
    /// See [`super`]; [`EditError::Rejected`] also if an integer in the value is outside ±(2^53 - 1).
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
    /// See [`super`]; [`EditError::Rejected`] also if `index` is past the end.
    pub async fn remove(&self, index: u32) -> Result<(), EditError> {
        let remove = move |name: &str, txn: &mut yrs::TransactionMut<'_>| {
            let list = txn.get_or_insert_array(name);
            check_range(index, 1, list.len(txn))?;
            list.remove(txn, index);
            Ok(())
        };
        self.0.edit(remove).await
    }

    /// Returns all values in order. A nested shared type is returned as its content.
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
