//! Blocking versions of devices, documents and handles, for programs without an async runtime.
//!
//! **Do not call or drop these types in async code**: they block the thread, and Tokio panics. Use [`crate::Device`]
//! there.
//!
//! A device has its own runtime with one worker thread, which ends when the last handle is dropped. All types can be
//! used from many threads. Errors are the same as those of the async methods.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use syncline_client::DeviceConfig;
//! use syncline_client::blocking::Device;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::open(DeviceConfig::new("./my-device", "ws://127.0.0.1:1234"))?;
//! let document = device.document("shopping")?;
//! document.list("items").push("milk".into())?;
//! if !document.wait_until_saved(Duration::from_secs(5))? {
//!     println!("offline; the edit is stored on this device and sent later");
//! }
//! device.close();
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use ulid::Ulid;

use crate::document::{self, DocumentStatus, EditError, Entry, Event, Export};
use crate::stock::driver::Connection;
use crate::types::Value;
use crate::types::choice::Version;
use crate::types::predictor::Candidate;
use crate::types::text_merge::Merged;
use crate::{DeviceConfig, DeviceError, device, handles};

/// Defines a blocking wrapper around an async type, with some of its methods.
macro_rules! blocking {
    ($module:ident::$name:ident { $(fn $method:ident($($arg:ident: $type:ty),*) -> $result:ty;)* }) => {
        #[doc = concat!("See [`", "crate::", stringify!($module), "::", stringify!($name), "`].")]
        #[derive(Clone)]
        pub struct $name {
            // Dropped before the runtime: fields are dropped in order of declaration.
            inner: $module::$name,
            runtime: Arc<Runtime>,
        }

        impl $name {
            $(
                #[doc = concat!("See [`", "crate::", stringify!($module), "::", stringify!($name), "::", stringify!($method), "`].")]
                pub fn $method(&self, $($arg: $type),*) -> $result {
                    self.runtime.block_on(self.inner.$method($($arg),*))
                }
            )*
        }
    };
}

blocking!(device::Device {
    fn documents() -> Result<Vec<String>, DeviceError>;
    fn go_offline() -> ();
    fn go_online() -> ();
    fn set_token(token: Option<String>) -> ();
});

blocking!(document::Document {
    fn propose(register: &str, value: Value) -> Result<Ulid, EditError>;
    fn queue() -> Result<Vec<Entry>, DeviceError>;
    fn state() -> Result<Vec<u8>, DeviceError>;
    fn export() -> Result<Export, DeviceError>;
    fn rebase() -> Result<(), DeviceError>;
    fn discard() -> Result<(), DeviceError>;
    fn close() -> ();
});

blocking!(handles::Text {
    fn insert(index: u32, text: &str) -> Result<(), EditError>;
    fn append(text: &str) -> Result<(), EditError>;
    fn delete(index: u32, len: u32) -> Result<(), EditError>;
    fn merge_in(base: &str, theirs: &str) -> Result<Merged, EditError>;
    fn to_string() -> Result<String, EditError>;
    fn len() -> Result<u32, EditError>;
    fn is_empty() -> Result<bool, EditError>;
});

blocking!(handles::Map {
    fn set(key: &str, value: Value) -> Result<(), EditError>;
    fn get(key: &str) -> Result<Option<Value>, EditError>;
    fn remove(key: &str) -> Result<bool, EditError>;
    fn entries() -> Result<BTreeMap<String, Value>, EditError>;
});

blocking!(handles::List {
    fn insert(index: u32, value: Value) -> Result<(), EditError>;
    fn push(value: Value) -> Result<(), EditError>;
    fn remove(index: u32) -> Result<(), EditError>;
    fn items() -> Result<Vec<Value>, EditError>;
});

blocking!(handles::Xml {
    fn insert_element(at: &[u32], tag: &str) -> Result<(), EditError>;
    fn insert_text(at: &[u32], text: &str) -> Result<(), EditError>;
    fn remove(at: &[u32]) -> Result<(), EditError>;
    fn set_attribute(at: &[u32], name: &str, value: &str) -> Result<(), EditError>;
    fn attributes(at: &[u32]) -> Result<BTreeMap<String, Value>, EditError>;
    fn to_string() -> Result<String, EditError>;
});

blocking!(handles::LwwMap {
    fn set(key: &str, value: Value) -> Result<(), EditError>;
    fn get(key: &str) -> Result<Option<Value>, EditError>;
    fn remove(key: &str) -> Result<bool, EditError>;
    fn entries() -> Result<BTreeMap<String, Value>, EditError>;
});

blocking!(handles::Counter {
    fn add(by: i64) -> Result<i64, EditError>;
    fn value() -> Result<i64, EditError>;
});

blocking!(handles::Choice {
    fn write(value: Value) -> Result<(), EditError>;
    fn conflicts() -> Result<Vec<Version>, EditError>;
    fn candidates(me: &str) -> Result<Vec<Candidate>, EditError>;
    fn choose(version: &str) -> Result<(), EditError>;
    fn merge(value: Value) -> Result<(), EditError>;
    fn current() -> Result<Option<Version>, EditError>;
});

blocking!(handles::Register {
    fn propose(value: Value) -> Result<Ulid, EditError>;
    fn current() -> Result<Option<handles::RegisterVersion>, EditError>;
    fn pending() -> Result<Vec<Entry>, EditError>;
});

/// A stream of the events of a document, in order; see [`crate::Events`].
pub struct Events {
    inner: crate::document::Events,
    runtime: Arc<Runtime>,
}

impl Device {
    /// Opens the device's store and starts to connect; see [`crate::Device::open`].
    ///
    /// # Errors
    /// The errors of [`crate::Device::open`], and [`DeviceError::Directory`] if the runtime's thread cannot be started.
    pub fn open(config: DeviceConfig) -> Result<Self, DeviceError> {
        let directory = config.directory.clone();
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("syncline").enable_all().build();
        let runtime = runtime.map_err(|error| DeviceError::Directory { directory, reason: error.to_string() })?;
        let inner = runtime.block_on(crate::Device::open(config))?;
        Ok(Self { inner, runtime: Arc::new(runtime) })
    }

    /// See [`crate::Device::id`].
    pub fn id(&self) -> Ulid {
        self.inner.id()
    }

    /// See [`crate::Device::connection`].
    pub fn connection(&self) -> Connection {
        self.inner.connection()
    }

    /// Opens a document; see [`crate::Device::document`].
    ///
    /// # Errors
    /// The errors of [`crate::Device::document`].
    pub fn document(&self, name: &str) -> Result<Document, DeviceError> {
        let inner = self.runtime.block_on(self.inner.document(name))?;
        Ok(Document { inner, runtime: Arc::clone(&self.runtime) })
    }

    /// Closes the device; see [`crate::Device::close`].
    pub fn close(self) {
        self.runtime.block_on(self.inner.close());
    }
}

/// Defines the methods of [`Document`] that return handles.
macro_rules! handles {
    ($($method:ident -> $name:ident;)*) => {
        impl Document {
            $(
                #[doc = concat!("See [`crate::Document::", stringify!($method), "`].")]
                pub fn $method(&self, name: &str) -> $name {
                    $name { inner: self.inner.$method(name), runtime: Arc::clone(&self.runtime) }
                }
            )*
        }
    };
}

handles! {
    text_at -> Text;
    map -> Map;
    list -> List;
    xml -> Xml;
    lww_map -> LwwMap;
    counter -> Counter;
    choice -> Choice;
    register_at -> Register;
}

impl Document {
    /// Returns the document's name.
    pub fn name(&self) -> &str {
        self.inner.name()
    }

    /// See [`crate::Document::status`].
    pub fn status(&self) -> DocumentStatus {
        self.inner.status()
    }

    /// See [`crate::Document::events`].
    pub fn events(&self) -> Events {
        Events { inner: self.inner.events(), runtime: Arc::clone(&self.runtime) }
    }

    /// Waits until the document is synced; returns false if that takes longer than `longest`.
    ///
    /// # Errors
    /// The errors of [`crate::Document::wait_until_synced`].
    pub fn wait_until_synced(&self, longest: Duration) -> Result<bool, DeviceError> {
        self.with_timeout(longest, self.inner.wait_until_synced())
    }

    /// Waits until all edits are on the server's disk; returns false if that takes longer than `longest`.
    ///
    /// # Errors
    /// The errors of [`crate::Document::wait_until_saved`].
    pub fn wait_until_saved(&self, longest: Duration) -> Result<bool, DeviceError> {
        self.with_timeout(longest, self.inner.wait_until_saved())
    }

    fn with_timeout(
        &self,
        longest: Duration,
        done: impl Future<Output = Result<(), DeviceError>>,
    ) -> Result<bool, DeviceError> {
        match self.runtime.block_on(async { timeout(longest, done).await }) {
            Ok(done) => done.map(|()| true),
            Err(_) => Ok(false),
        }
    }
}

impl Events {
    /// Waits for the next event; `None` if there is none within `longest`.
    ///
    /// # Errors
    /// [`DeviceError::Closed`] after the device was closed.
    pub fn next(&mut self, longest: Duration) -> Result<Option<Event>, DeviceError> {
        match self.runtime.block_on(async { timeout(longest, self.inner.next()).await }) {
            Ok(event) => event.map(Some).ok_or(DeviceError::Closed),
            Err(_) => Ok(None),
        }
    }
}
