//! A map in which the newest write of each key wins by its timestamp, not by the CRDT's client ids.
//!
//! Layout: a root Y.Array of entries `{Key, Value?, Timestamp, Device?}`, the log format of npm `y-lwwmap` 0.2.0; see
//! "Offline data types" in `protocol/SPEC.md`. An entry without `Value` is a removal. `Device` is an addition of
//! Syncline, which that package ignores.
//!
//! The winner depends on the entries in the array only, so replicas with the same array agree. A write removes the
//! entries of its key that it has seen, and its stamp is newer than all of them: the newest write is never lost.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use yrs::{Any, Array, ArrayRef, Map, Number, Out, ReadTxn, TransactionMut, WriteTxn};

use super::clock::{Hlc, MAX_DRIFT_MS, MAX_STAMP, Stamp, shifted, stamp_of};
use super::value::{Value, ValueError, integer, integer_field, text_field};

const KEY: &str = "Key";
const VALUE: &str = "Value";
const TIMESTAMP: &str = "Timestamp";
const DEVICE: &str = "Device";

/// How long `y-lwwmap` keeps removals by default, in milliseconds: 30 days.
pub const DEFAULT_RETENTION_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

/// A latest-wins map, ordered by a hybrid logical clock. Holds only the name of the root type.
///
/// Apps use [`crate::handles::LwwMap`], which manages the clock and the transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LwwMapRoot {
    root: String,
}

/// One write to one key.
#[derive(Debug, Clone, PartialEq)]
pub struct LwwEntry {
    /// The written value; `None` for a removal.
    pub value: Option<Value>,
    /// The time of the write.
    pub stamp: Stamp,
    /// The id of the writing device; empty if npm `y-lwwmap` wrote the entry.
    pub device: String,
}

/// A write whose stamp was corrected by [`LwwMapRoot::restamp`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restamped {
    /// The written key.
    pub key: String,
    /// The stamp before the correction.
    pub from: Stamp,
    /// The stamp after the correction.
    pub to: Stamp,
}

impl LwwEntry {
    /// Orders entries by stamp, then by device id; then a removal is less than a value, and two values are compared as
    /// JSON text. Entries that compare as equal are equal.
    fn order(&self, other: &Self) -> Ordering {
        self.stamp.cmp(&other.stamp).then_with(|| self.device.cmp(&other.device)).then_with(|| {
            // One device writes the same stamp twice only if its id was cloned, or if npm `y-lwwmap` wrote the entries.
            let text = |entry: &Self| entry.value.as_ref().map(|value| value.to_json().unwrap_or_default());
            text(self).cmp(&text(other))
        })
    }

    fn to_any(&self, key: &str) -> Result<Any, ValueError> {
        let mut map = HashMap::from([
            (KEY.to_owned(), Any::from(key)),
            // A stamp is at most 2^53 - 1.
            (TIMESTAMP.to_owned(), Any::Number(Number::Int(self.stamp as i64))),
        ]);
        if let Some(value) = &self.value {
            map.insert(VALUE.to_owned(), value.to_any()?);
        }
        if !self.device.is_empty() {
            map.insert(DEVICE.to_owned(), Any::from(self.device.as_str()));
        }
        Ok(Any::Map(Arc::new(map)))
    }
}

impl LwwMapRoot {
    /// Creates the map that is stored in the root Y.Array of this name.
    pub fn new(root: impl Into<String>) -> Self {
        Self { root: root.into() }
    }

    /// Returns the name of the root type.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Returns the value of a key. Reads the whole log: to read many keys, call [`LwwMapRoot::entries`] once.
    pub fn get<T: ReadTxn>(&self, txn: &T, key: &str) -> Option<Value> {
        self.winner(txn, key)?.value
    }

    /// Returns the winning write of a key: a value or a removal.
    pub fn winner<T: ReadTxn>(&self, txn: &T, key: &str) -> Option<LwwEntry> {
        self.winners(txn).remove(key)
    }

    /// Returns the keys that have a value.
    pub fn entries<T: ReadTxn>(&self, txn: &T) -> BTreeMap<String, Value> {
        self.winners(txn).into_iter().filter_map(|(key, entry)| Some((key, entry.value?))).collect()
    }

    /// Returns the winning write of every key, removals included.
    pub fn winners<T: ReadTxn>(&self, txn: &T) -> BTreeMap<String, LwwEntry> {
        let mut winners: BTreeMap<String, LwwEntry> = BTreeMap::new();
        for (_, key, entry) in self.log(txn) {
            match winners.get(&key) {
                Some(best) if best.order(&entry) != Ordering::Less => {}
                _ => {
                    winners.insert(key, entry);
                }
            }
        }
        winners
    }

    /// Writes a value at `now_ms` and returns its stamp.
    ///
    /// # Errors
    /// [`ValueError`] if the value cannot be stored; the map is unchanged then.
    pub fn set(
        &self,
        txn: &mut TransactionMut<'_>,
        clock: &mut Hlc,
        now_ms: u64,
        key: &str,
        value: &Value,
    ) -> Result<Stamp, ValueError> {
        value.to_any()?;
        self.write(txn, clock, now_ms, key, Some(value.clone()))
    }

    /// Removes a key at `now_ms` and returns the stamp of the removal, or `None` if the key has no value.
    pub fn remove(&self, txn: &mut TransactionMut<'_>, clock: &mut Hlc, now_ms: u64, key: &str) -> Option<Stamp> {
        self.get(txn, key)?;
        self.write(txn, clock, now_ms, key, None).ok()
    }

    fn write(
        &self,
        txn: &mut TransactionMut<'_>,
        clock: &mut Hlc,
        now_ms: u64,
        key: &str,
        value: Option<Value>,
    ) -> Result<Stamp, ValueError> {
        let mut seen = None;
        let mut stale = Vec::new();
        for (index, entry_key, entry) in self.log(txn) {
            clock.observe(entry.stamp, now_ms);
            if entry_key == key {
                seen = seen.max(Some(entry.stamp));
                stale.push(index);
            }
        }
        let stamp = clock.tick(now_ms, seen);
        let entry = LwwEntry { value, stamp, device: clock.device().to_owned() };
        self.replace(txn, &stale, vec![entry.to_any(key)?]);
        Ok(stamp)
    }

    /// Returns the writes of a device that are in the log, as (key, stamp).
    pub fn writes_of<T: ReadTxn>(&self, txn: &T, device: &str) -> Vec<(String, Stamp)> {
        let own = self.log(txn).into_iter().filter(|(_, _, entry)| entry.device == device);
        own.map(|(_, key, entry)| (key, entry.stamp)).collect()
    }

    /// Corrects the stamps of this device's writes that no server has seen, after the device has learned that its clock
    /// is wrong. `offset_ms` is the true time minus the device's time; up to [`MAX_DRIFT_MS`] nothing is changed. `own`
    /// holds the (key, stamp) pairs of those writes, as returned by [`LwwMapRoot::set`] and [`LwwMapRoot::remove`]; pairs that
    /// were overwritten since are ignored. The caller must correct its [`Hlc`] too.
    ///
    /// A write has removed all entries that it had seen, so it cannot lose to them, whatever its new stamp is.
    pub fn restamp(
        &self,
        txn: &mut TransactionMut<'_>,
        device: &str,
        own: &[(String, Stamp)],
        offset_ms: i64,
    ) -> Vec<Restamped> {
        if offset_ms.unsigned_abs() <= MAX_DRIFT_MS {
            return Vec::new();
        }
        let (mut stale, mut fresh, mut done) = (Vec::new(), Vec::new(), Vec::new());
        for (index, key, entry) in self.log(txn) {
            let ours = entry.device == device && own.iter().any(|(own_key, at)| *own_key == key && *at == entry.stamp);
            if !ours {
                continue;
            }
            let moved = LwwEntry { stamp: shifted(entry.stamp, offset_ms), ..entry.clone() };
            // The entry was read from the document, so encoding it does not fail.
            if let Ok(any) = moved.to_any(&key) {
                stale.push(index);
                fresh.push(any);
                done.push(Restamped { key, from: entry.stamp, to: moved.stamp });
            }
        }
        self.replace(txn, &stale, fresh);
        done
    }

    /// Removes superseded writes, and removals older than `retention_ms`. A write that was made offline before such a
    /// removal and arrives after this call restores its key.
    pub fn sweep(&self, txn: &mut TransactionMut<'_>, now_ms: u64, retention_ms: u64) {
        let winners = self.winners(txn);
        let oldest = stamp_of(now_ms.saturating_sub(retention_ms));
        let stale: Vec<_> = self
            .log(txn)
            .into_iter()
            .filter(|(_, key, entry)| {
                let superseded = winners.get(key).is_some_and(|best| best.order(entry) == Ordering::Greater);
                superseded || (entry.value.is_none() && entry.stamp < oldest)
            })
            .map(|(index, ..)| index)
            .collect();
        self.replace(txn, &stale, Vec::new());
    }

    /// Copies an entry of another history into this map if it wins here; used by [`super::rebase`].
    pub(super) fn adopt(&self, txn: &mut TransactionMut<'_>, key: &str, entry: &LwwEntry) -> Result<(), ValueError> {
        let mut stale = Vec::new();
        for (index, entry_key, present) in self.log(txn) {
            if entry_key == key {
                if present.order(entry) != Ordering::Less {
                    return Ok(());
                }
                stale.push(index);
            }
        }
        self.replace(txn, &stale, vec![entry.to_any(key)?]);
        Ok(())
    }

    /// Returns every valid entry with its index. Entries without a key or without a stamp up to 2^53 - 1 are ignored.
    fn log<T: ReadTxn>(&self, txn: &T) -> Vec<(u32, String, LwwEntry)> {
        let Some(array) = txn.get_array(self.root.as_str()) else { return Vec::new() };
        log_of(&array, txn)
    }

    fn replace(&self, txn: &mut TransactionMut<'_>, stale: &[u32], fresh: Vec<Any>) {
        if stale.is_empty() && fresh.is_empty() {
            return;
        }
        let array = txn.get_or_insert_array(self.root.as_str());
        for index in stale.iter().rev() {
            array.remove(txn, *index);
        }
        for entry in fresh {
            array.push_back(txn, entry);
        }
    }
}

/// Reads the valid entries of a log, with their indices.
pub(super) fn log_of<T: ReadTxn>(array: &ArrayRef, txn: &T) -> Vec<(u32, String, LwwEntry)> {
    let entries = array.iter(txn).enumerate();
    entries.filter_map(|(index, out)| read_entry(&out, txn).map(|(key, entry)| (index as u32, key, entry))).collect()
}

/// Decodes `{Key, Value?, Timestamp, Device?}`: a plain value, or the nested Y.Map in which `y-lwwmap` wraps shared
/// types.
fn read_entry<T: ReadTxn>(out: &Out, txn: &T) -> Option<(String, LwwEntry)> {
    let (key, value, stamp, device) = match out {
        Out::Any(Any::Map(map)) => (
            text_field(map, KEY)?,
            map.get(VALUE).map(Value::from_any),
            integer_field(map, TIMESTAMP)?,
            text_field(map, DEVICE),
        ),
        Out::YMap(map) => {
            let field = |name: &str| map.get(txn, name);
            let (Some(Out::Any(Any::String(key))), Some(Out::Any(stamp))) = (field(KEY), field(TIMESTAMP)) else {
                return None;
            };
            let value = field(VALUE).map(|value| Value::from_out(&value, txn));
            (key.to_string(), value, integer(&stamp)?, None)
        }
        _ => return None,
    };
    let stamp = Stamp::try_from(stamp).ok().filter(|stamp| *stamp <= MAX_STAMP)?;
    Some((key, LwwEntry { value, stamp, device: device.unwrap_or_default() }))
}

/// True for a non-empty sequence that contains only entries of such a log.
pub(super) fn is_log(values: &[Value]) -> bool {
    let entry = |value: &Value| match value {
        Value::Map(map) => {
            matches!((map.get(KEY), map.get(TIMESTAMP)), (Some(Value::Text(_)), Some(Value::Integer(_))))
        }
        _ => false,
    };
    !values.is_empty() && values.iter().all(entry)
}

#[cfg(test)]
mod tests;
