//! A counter: concurrent increments on many devices add up.
//!
//! Layout: keys `counter:<name>:<CRDT client id>` of a root Y.Map; each value is the sum of that client's increments.
//! A client id is used by one opening of a document on one device, so each key has one writer, and an update that
//! arrives twice changes nothing. See "Offline data types" in `protocol/SPEC.md`.

use thiserror::Error;
use yrs::{Any, Map, Number, Out, ReadTxn, TransactionMut, WriteTxn};

use super::value::{MAX_INTEGER, integer};

/// Prefix of the keys of all counters, so that a plain map with numeric keys is not read as a counter.
const PREFIX: &str = "counter:";

/// A shared counter. Holds only the name of its root type and the prefix of its keys.
///
/// Apps use [`crate::handles::Counter`], which manages the transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterRoot {
    root: String,
    /// Prefix of this counter's keys, `counter:<name>:`.
    prefix: String,
}

/// Why a counter cannot be changed or read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CounterError {
    /// The sum is outside ±(2^53 - 1); JavaScript peers would round it. Holds `root/prefix` of the counter.
    #[error("the value of counter {0:?} would be outside ±(2^53 - 1)")]
    Overflow(String),
}

impl CounterRoot {
    /// Creates a counter that uses the root Y.Map of this name alone; the counter's own name is empty.
    pub fn new(root: impl Into<String>) -> Self {
        Self::within(root, "")
    }

    /// Creates the counter `name` in the root Y.Map `map`, which may hold other keys. The counter's keys are in that
    /// map itself: of a nested Y.Map created by two devices at the same time, only one would be kept.
    pub fn within(map: impl Into<String>, name: &str) -> Self {
        Self { root: map.into(), prefix: format!("{PREFIX}{name}:") }
    }

    /// Returns the sum of all increments.
    ///
    /// # Errors
    /// [`CounterError::Overflow`]: concurrent increments, each within the range, can add up to more.
    pub fn value<T: ReadTxn>(&self, txn: &T) -> Result<i64, CounterError> {
        in_range(self.totals(txn).into_iter().map(|(_, total)| i128::from(total)).sum()).ok_or_else(|| self.overflow())
    }

    /// Adds `by`, which may be negative, and returns the new value.
    ///
    /// # Errors
    /// [`CounterError::Overflow`]; the counter is unchanged then.
    pub fn increment(&self, txn: &mut TransactionMut<'_>, by: i64) -> Result<i64, CounterError> {
        let client = txn.doc().client_id().get();
        let totals = self.totals(txn);
        let own = totals.iter().find(|(of, _)| *of == client).map_or(0, |(_, total)| *total);
        let sum: i128 = totals.iter().map(|(_, total)| i128::from(*total)).sum();
        let new_sum = in_range(sum + i128::from(by)).ok_or_else(|| self.overflow())?;
        let new_own = in_range(i128::from(own) + i128::from(by)).ok_or_else(|| self.overflow())?;
        if by != 0 {
            let map = txn.get_or_insert_map(self.root.as_str());
            map.insert(txn, format!("{}{client}", self.prefix), Any::Number(Number::Int(new_own)));
        }
        Ok(new_sum)
    }

    /// Returns (client id, sum of its increments). Malformed keys and values are ignored.
    fn totals<T: ReadTxn>(&self, txn: &T) -> Vec<(u64, i64)> {
        let Some(map) = txn.get_map(self.root.as_str()) else { return Vec::new() };
        map.iter(txn)
            .filter_map(|(key, out)| {
                let client = client_of(key.strip_prefix(&self.prefix)?)?;
                let Out::Any(total) = out else { return None };
                Some((client, integer(&total)?))
            })
            .collect()
    }

    fn overflow(&self) -> CounterError {
        CounterError::Overflow(format!("{}/{}", self.root, self.prefix))
    }
}

/// Parses the client id of a key: decimal, without leading zeros.
fn client_of(key: &str) -> Option<u64> {
    let client = key.parse().ok()?;
    (client <= MAX_INTEGER as u64 && key == u64::to_string(&client)).then_some(client)
}

/// Returns the name of a counter, from one of its keys.
pub(super) fn counter_name(key: &str) -> Option<&str> {
    let (name, client) = key.strip_prefix(PREFIX)?.rsplit_once(':')?;
    client_of(client).map(|_| name)
}

fn in_range(number: i128) -> Option<i64> {
    i64::try_from(number).ok().filter(|number| number.unsigned_abs() <= MAX_INTEGER.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use yrs::updates::decoder::Decode;
    use yrs::{Doc, StateVector, Transact, Update};

    use super::*;

    fn deliver(from: &Doc, to: &Doc) {
        let update = from.transact().encode_state_as_update_v1(&StateVector::default());
        to.transact_mut().apply_update(Update::decode_v1(&update).unwrap()).unwrap();
    }

    #[test]
    fn concurrent_increments_add_up_and_duplicates_change_nothing() {
        for counter in [CounterRoot::new("likes"), CounterRoot::within("post", "likes")] {
            let [one, two] = [1, 2].map(Doc::with_client_id);
            assert_eq!(counter.increment(&mut one.transact_mut(), 5), Ok(5));
            deliver(&one, &two);
            assert_eq!(counter.increment(&mut two.transact_mut(), -7), Ok(-2));
            assert_eq!(counter.increment(&mut one.transact_mut(), 1), Ok(6));
            for _ in 0..2 {
                deliver(&one, &two);
                deliver(&two, &one);
            }
            assert_eq!(counter.value(&one.transact()), Ok(-1));
            assert_eq!(counter.value(&two.transact()), Ok(-1));
        }
    }

    #[test]
    fn counters_in_one_map_do_not_affect_each_other_or_other_keys() {
        let doc = Doc::with_client_id(7);
        let map = doc.get_or_insert_map("post");
        let mut txn = doc.transact_mut();
        map.insert(&mut txn, "title", "hello");
        map.insert(&mut txn, "counter:likes:x", 9);
        map.insert(&mut txn, "counter:likes:007", 9);
        CounterRoot::within("post", "likes").increment(&mut txn, 2).unwrap();
        CounterRoot::within("post", "likes:more").increment(&mut txn, 3).unwrap();
        assert_eq!(CounterRoot::within("post", "likes").value(&txn), Ok(2));
        assert_eq!(CounterRoot::within("post", "likes:more").value(&txn), Ok(3));
        assert_eq!(CounterRoot::new("post").value(&txn), Ok(0));
    }

    #[test]
    fn overflow_is_an_error_and_changes_nothing() {
        let counter = CounterRoot::new("n");
        let [one, two] = [1, 2].map(Doc::with_client_id);
        assert_eq!(counter.increment(&mut one.transact_mut(), MAX_INTEGER), Ok(MAX_INTEGER));
        assert!(counter.increment(&mut one.transact_mut(), 1).is_err());
        assert!(counter.increment(&mut two.transact_mut(), i64::MIN).is_err());
        assert_eq!(counter.value(&one.transact()), Ok(MAX_INTEGER));
        counter.increment(&mut two.transact_mut(), 1).unwrap();
        deliver(&two, &one);
        assert_eq!(counter.value(&one.transact()), Err(CounterError::Overflow("n/counter::".to_owned())));
        assert!(counter.increment(&mut one.transact_mut(), -1).is_ok(), "a decrement back into the range is allowed");
    }
}
