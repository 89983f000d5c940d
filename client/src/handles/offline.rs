//! Handles to latest-wins maps, counters, choice registers and versioned registers of [`crate::types`].

use std::collections::BTreeMap;

use ulid::Ulid;

use super::{read_error, rejected};
use crate::document::{Document, EditError, EditStamp, Entry, EntryKind};
use crate::types::choice::{Signature, Version};
use crate::types::predictor::Candidate;
use crate::types::{self, RegisterState, Value};

/// Values by key; the newest write of each key wins, by the device's clock as corrected by the server.
///
/// ```
/// # use syncline_client::{Device, DeviceConfig};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let home = tempfile::tempdir()?;
/// # let config = DeviceConfig { offline: true, ..DeviceConfig::new(home.path(), "ws://127.0.0.1:1234") };
/// # let document = Device::open(config).await?.document("profile").await?;
/// let profile = document.lww_map("profile");
/// profile.set("city", "Graz".into()).await?;
/// profile.set("city", "Linz".into()).await?;
/// assert_eq!(profile.get("city").await?, Some("Linz".into()));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LwwMap {
    pub(super) document: Document,
    pub(super) map: types::LwwMapRoot,
}

impl LwwMap {
    /// Sets a key.
    ///
    /// # Errors
    /// See [`super`]; [`EditError::Rejected`] also if an integer in the value is outside ±(2^53 - 1).
    pub async fn set(&self, key: &str, value: Value) -> Result<(), EditError> {
        let (map, key) = (self.map.clone(), key.to_owned());
        let set = self.document.edit_timed(move |stamp, hlc, txn| map.set(txn, hlc, stamp.at_ms, &key, &value));
        set.await?.0.map(drop).map_err(rejected)
    }

    /// Returns the value of a key; `None` if it is not set. Reads the whole map: to read many keys, use
    /// [`LwwMap::entries`].
    ///
    /// # Errors
    /// See [`super`].
    pub async fn get(&self, key: &str) -> Result<Option<Value>, EditError> {
        let (map, key) = (self.map.clone(), key.to_owned());
        self.document.read(move |txn| map.get(txn, &key)).await.map_err(read_error)
    }

    /// Removes a key; returns false if it was not set. An older write that arrives later does not restore it.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn remove(&self, key: &str) -> Result<bool, EditError> {
        let (map, key) = (self.map.clone(), key.to_owned());
        let remove = self.document.edit_timed(move |stamp, hlc, txn| map.remove(txn, hlc, stamp.at_ms, &key));
        Ok(remove.await?.0.is_some())
    }

    /// Returns all keys and values.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn entries(&self) -> Result<BTreeMap<String, Value>, EditError> {
        let map = self.map.clone();
        self.document.read(move |txn| map.entries(txn)).await.map_err(read_error)
    }
}

/// A counter: concurrent increments on several devices add up.
///
/// ```
/// # use syncline_client::{Device, DeviceConfig};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let home = tempfile::tempdir()?;
/// # let config = DeviceConfig { offline: true, ..DeviceConfig::new(home.path(), "ws://127.0.0.1:1234") };
/// # let document = Device::open(config).await?.document("post").await?;
/// let likes = document.counter("likes");
/// likes.add(2).await?;
/// assert_eq!(likes.add(-1).await?, 1);
/// assert_eq!(likes.value().await?, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Counter {
    pub(super) document: Document,
    pub(super) counter: types::CounterRoot,
}

impl Counter {
    /// Adds `by`, which may be negative. Returns the new value as known on this device.
    ///
    /// # Errors
    /// See [`super`]; [`EditError::Rejected`] also if the value would be outside ±(2^53 - 1).
    pub async fn add(&self, by: i64) -> Result<i64, EditError> {
        let counter = self.counter.clone();
        self.document.edit(move |txn| counter.increment(txn, by)).await?.map_err(rejected)
    }

    /// Returns the sum of all increments known on this device.
    ///
    /// # Errors
    /// See [`super`]; [`EditError::Rejected`] also if the sum is outside ±(2^53 - 1).
    pub async fn value(&self) -> Result<i64, EditError> {
        let counter = self.counter.clone();
        self.document.read(move |txn| counter.value(txn)).await.map_err(read_error)?.map_err(rejected)
    }
}

/// A choice (multi-value) register: concurrent writes are all kept, side by side, until a user chooses one.
///
/// ```
/// # use syncline_client::{Device, DeviceConfig};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let home = tempfile::tempdir()?;
/// # let config = DeviceConfig { offline: true, ..DeviceConfig::new(home.path(), "ws://127.0.0.1:1234") };
/// # let document = Device::open(config).await?.document("page").await?;
/// let title = document.choice("title");
/// title.write("Bread".into()).await?;
/// // Two versions or more after concurrent writes: let the user choose.
/// let versions = title.conflicts().await?;
/// if let Some(version) = versions.first() {
///     title.choose(&version.signature.id).await?;
/// }
/// assert_eq!(title.current().await?.unwrap().value, "Bread".into());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Choice {
    pub(super) document: Document,
    pub(super) choice: types::ChoiceRegister,
}

impl Choice {
    /// Writes a value that replaces all versions known on this device.
    ///
    /// # Errors
    /// See [`super`]; [`EditError::Rejected`] also if an integer in the value is outside ±(2^53 - 1).
    pub async fn write(&self, value: Value) -> Result<(), EditError> {
        let choice = self.choice.clone();
        let write = self.document.edit_stamped(move |stamp, txn| choice.write(txn, &value, &signature(stamp)));
        write.await?.0.map_err(rejected)
    }

    /// Returns the concurrent versions that nobody has chosen from yet, oldest id first; empty if there are fewer than
    /// two.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn conflicts(&self) -> Result<Vec<Version>, EditError> {
        let choice = self.choice.clone();
        self.document.read(move |txn| choice.conflicts(txn)).await.map_err(read_error)
    }

    /// Returns the conflicting versions as input of [`crate::types::predictor::Predictor`]. `me` is the author name of
    /// the choosing user; `online` is always false, the app may set it.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn candidates(&self, me: &str) -> Result<Vec<Candidate>, EditError> {
        let candidate = |version: Version| Candidate {
            mine: version.signature.author == me,
            // The number of characters of a text, the JSON size of any other value.
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

    /// Resolves the conflict for everyone by choosing the version with this id ([`Version::signature`]).
    ///
    /// # Errors
    /// See [`super`]; [`EditError::Rejected`] also if the version was already replaced, for example by another user's
    /// choice.
    pub async fn choose(&self, version: &str) -> Result<(), EditError> {
        let (choice, version) = (self.choice.clone(), version.to_owned());
        let choose = self.document.edit_stamped(move |stamp, txn| choice.choose(txn, &version, &signature(stamp)));
        choose.await?.0.map_err(rejected)
    }

    /// Resolves the conflict for everyone with a value that the app merged from the versions.
    ///
    /// # Errors
    /// See [`super`]; [`EditError::Rejected`] also if an integer in the value is outside ±(2^53 - 1).
    pub async fn merge(&self, value: Value) -> Result<(), EditError> {
        self.write(value).await
    }

    /// Returns the version to show until a user has chosen: the newest. `None` if nothing was written.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn current(&self) -> Result<Option<Version>, EditError> {
        let choice = self.choice.clone();
        self.document.read(move |txn| choice.current(txn)).await.map_err(read_error)
    }
}

fn signature(stamp: &EditStamp) -> Signature {
    Signature { id: stamp.id.to_string(), author: stamp.author.clone(), at_ms: stamp.at_ms }
}

/// A versioned register: the server decides on each write, and accepts one of two concurrent ones.
///
/// ```no_run
/// # use syncline_client::{Device, DeviceConfig, Event};
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let device = Device::open(DeviceConfig::new("./my-device", "ws://127.0.0.1:1234")).await?;
/// # let document = device.document("job-7").await?;
/// let mut events = document.events();
/// let entry = document.register_at("status").propose("done".into()).await?;
/// while let Some(event) = events.next().await {
///     if let Event::Decided { entry: decided, accepted, current, .. } = event
///         && decided == entry
///     {
///         println!("accepted: {accepted}; the register is now {current:?}");
///         break;
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Register {
    pub(super) document: Document,
    pub(super) name: String,
}

/// The state of a versioned register, as decided by the server.
#[derive(Debug, Clone, PartialEq)]
pub struct RegisterVersion {
    /// The current value.
    pub value: Value,
    /// The version number: 1 for the first accepted write, one more with each further one.
    pub version: u64,
    /// Id of the entry (ULID) that wrote this version, as returned by [`Register::propose`] on its device.
    pub entry: String,
    /// The author of the write, [`crate::DeviceConfig::author`] of its device.
    pub author: String,
    /// The time of the write by its device's clock, in milliseconds since 1970.
    pub at_ms: u64,
}

impl From<RegisterState> for RegisterVersion {
    fn from(state: RegisterState) -> Self {
        let RegisterState { value, version, id, author, at_ms, .. } = state;
        Self { value: Value::from_any(&value), version, entry: id, author, at_ms }
    }
}

impl Register {
    /// Queues a write that is based on the version known on this device. Returns the id of its queue entry when it is on
    /// the device's disk; [`crate::Event::Decided`] with this id reports the server's decision.
    ///
    /// # Errors
    /// See [`super`]; [`EditError::Rejected`] also if the name or the value is too large, or an integer in the value is
    /// outside ±(2^53 - 1).
    pub async fn propose(&self, value: Value) -> Result<Ulid, EditError> {
        self.document.propose(&self.name, value).await
    }

    /// Returns the state that the server decided last, without pending writes of this device. `None` if the register was
    /// never written.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn current(&self) -> Result<Option<RegisterVersion>, EditError> {
        let state = self.document.register(&self.name).await.map_err(read_error)?;
        Ok(state.map(RegisterVersion::from))
    }

    /// Returns the writes of this device that the server has not decided on, oldest first.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn pending(&self) -> Result<Vec<Entry>, EditError> {
        let mut entries = self.document.queue().await.map_err(read_error)?;
        entries.retain(|entry| matches!(&entry.what, EntryKind::Proposal { register, .. } if *register == self.name));
        Ok(entries)
    }
}
