//! Latest-wins maps, counters, choices, registers: handles to [`crate::types`].

use std::collections::BTreeMap;

use ulid::Ulid;

use super::{rejected, unreadable};
use crate::document::{Document, EditError, Entry, EntryKind, Stamp};
use crate::types::choice::{Signature, Version};
use crate::types::predictor::Candidate;
use crate::types::{self, RegisterState, Value};

/// Values by key; the newest write of a key wins, by a clock that the server corrects.
#[derive(Clone)]
pub struct LwwMap {
    pub(super) document: Document,
    pub(super) map: types::LwwMap,
}

impl LwwMap {
    /// Sets a key.
    ///
    /// # Errors
    /// Also when the value cannot be stored.
    pub async fn set(&self, key: &str, value: Value) -> Result<(), EditError> {
        let (map, key) = (self.map.clone(), key.to_owned());
        let set = self.document.edit_timed(move |stamp, hlc, txn| map.set(txn, hlc, stamp.at_ms, &key, &value));
        set.await?.0.map(drop).map_err(rejected)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn get(&self, key: &str) -> Result<Option<Value>, EditError> {
        let (map, key) = (self.map.clone(), key.to_owned());
        self.document.read(move |txn| map.get(txn, &key)).await.map_err(unreadable)
    }

    /// Removes a key; false if there was none. An older write that comes later does not bring it back.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn remove(&self, key: &str) -> Result<bool, EditError> {
        let (map, key) = (self.map.clone(), key.to_owned());
        let remove = self.document.edit_timed(move |stamp, hlc, txn| map.remove(txn, hlc, stamp.at_ms, &key));
        Ok(remove.await?.0.is_some())
    }

    /// Everything.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn entries(&self) -> Result<BTreeMap<String, Value>, EditError> {
        let map = self.map.clone();
        self.document.read(move |txn| map.entries(txn)).await.map_err(unreadable)
    }
}

/// A number that many devices add to: increments made apart add up.
#[derive(Clone)]
pub struct Counter {
    pub(super) document: Document,
    pub(super) counter: types::Counter,
}

impl Counter {
    /// Adds, or takes away; gives the new value as known here.
    ///
    /// # Errors
    /// Also when the number would leave ±(2^53 - 1).
    pub async fn add(&self, by: i64) -> Result<i64, EditError> {
        let counter = self.counter.clone();
        self.document.edit(move |txn| counter.increment(txn, by)).await?.map_err(rejected)
    }

    /// The sum of everything that is known here.
    ///
    /// # Errors
    /// Also when it is beyond ±(2^53 - 1).
    pub async fn value(&self) -> Result<i64, EditError> {
        let counter = self.counter.clone();
        self.document.read(move |txn| counter.value(txn)).await.map_err(unreadable)?.map_err(rejected)
    }
}

/// A value that nobody overwrites unseen.
#[derive(Clone)]
pub struct Choice {
    pub(super) document: Document,
    pub(super) choice: types::ChoiceRegister,
}

impl Choice {
    /// Writes a value in place of all that are seen here.
    ///
    /// # Errors
    /// Also when the value cannot be stored.
    pub async fn write(&self, value: Value) -> Result<(), EditError> {
        let choice = self.choice.clone();
        let write = self.document.edit_stamped(move |stamp, txn| choice.write(txn, &value, &signature(stamp)));
        write.await?.0.map_err(rejected)
    }

    /// What was written apart and nobody has chosen from yet, oldest first; empty if there is nothing to choose.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn conflicts(&self) -> Result<Vec<Version>, EditError> {
        let choice = self.choice.clone();
        self.document.read(move |txn| choice.conflicts(txn)).await.map_err(unreadable)
    }

    /// The conflicts as [`crate::types::predictor::Predictor`] looks at them; `me` is the author who is to choose.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn candidates(&self, me: &str) -> Result<Vec<Candidate>, EditError> {
        let candidate = |version: Version| Candidate {
            mine: version.signature.author == me,
            // Texts by their letters; anything else by how much there is of it.
            length: match &version.value {
                Value::Text(text) => text.chars().count() as u64,
                other => other.to_json().map_or(0, |json| json.len() as u64),
            },
            id: version.signature.id,
            author: version.signature.author,
            at_ms: version.signature.at_ms,
            online: false,
        };
        Ok(self.conflicts().await?.into_iter().map(candidate).collect())
    }

    /// Decides for everyone: the version with this id.
    ///
    /// # Errors
    /// Also when someone has chosen already.
    pub async fn choose(&self, version: &str) -> Result<(), EditError> {
        let (choice, version) = (self.choice.clone(), version.to_owned());
        let choose = self.document.edit_stamped(move |stamp, txn| choice.choose(txn, &version, &signature(stamp)));
        choose.await?.0.map_err(rejected)
    }

    /// Decides for everyone, by a value that brings the versions together.
    ///
    /// # Errors
    /// Also when the value cannot be stored.
    pub async fn merge(&self, value: Value) -> Result<(), EditError> {
        self.write(value).await
    }

    /// What to show while nobody has chosen: the newest.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn current(&self) -> Result<Option<Version>, EditError> {
        let choice = self.choice.clone();
        self.document.read(move |txn| choice.current(txn)).await.map_err(unreadable)
    }
}

fn signature(stamp: &Stamp) -> Signature {
    Signature { id: stamp.id.to_string(), author: stamp.author.clone(), at_ms: stamp.at_ms }
}

/// A value that one writes at a time: the same on every device, decided by the server.
#[derive(Clone)]
pub struct Register {
    pub(super) document: Document,
    pub(super) name: String,
}

/// What a register holds.
#[derive(Debug, Clone, PartialEq)]
pub struct RegisterVersion {
    /// The value.
    pub value: Value,
    /// From 1, one more with each write that the server took.
    pub version: u64,
    /// The entry that made it.
    pub entry: String,
    /// Who.
    pub author: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

impl From<RegisterState> for RegisterVersion {
    fn from(state: RegisterState) -> Self {
        let RegisterState { value, version, id, author, at_ms, .. } = state;
        Self { value: Value::from_any(&value), version, entry: id, author, at_ms }
    }
}

impl Register {
    /// Queues a write, based on what is known here now; [`crate::Event::Decided`] tells by this id what became of it.
    ///
    /// # Errors
    /// Also when the value cannot be stored.
    pub async fn propose(&self, value: Value) -> Result<Ulid, EditError> {
        self.document.propose(&self.name, value).await
    }

    /// As the server decided last.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn current(&self) -> Result<Option<RegisterVersion>, EditError> {
        let state = self.document.register(&self.name).await.map_err(unreadable)?;
        Ok(state.map(RegisterVersion::from))
    }

    /// Writes of this device that the server has not decided on, oldest first.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn pending(&self) -> Result<Vec<Entry>, EditError> {
        let mut entries = self.document.queue().await.map_err(unreadable)?;
        entries.retain(|entry| matches!(&entry.what, EntryKind::Proposal { register, .. } if *register == self.name));
        Ok(entries)
    }
}
