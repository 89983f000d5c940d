//! A device's store whose disk can become full.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use syncline_log::store::Write;
use syncline_log::{SledStore, Store, StoreError, Stored};
use syncline_protocol::ids::DocumentName;

/// Whether a device's disk is full. Outlives the store, as a disk outlives a process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Space {
    full: Arc<AtomicBool>,
}

impl Space {
    /// Sets whether commits fail from now on.
    pub(crate) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }
}

/// A sled store whose commits fail before they write anything while the disk is full.
pub(super) struct LimitedStore {
    inner: SledStore,
    space: Space,
}

impl LimitedStore {
    /// Opens the store in `dir`. Blocking.
    pub(super) fn open(dir: &Path, space: Space) -> Result<Self, StoreError> {
        Ok(Self { inner: SledStore::open(dir)?, space })
    }
}

impl Store for LimitedStore {
    fn commit(&self, writes: &[Write]) -> Result<(), StoreError> {
        if self.space.full.load(Ordering::Relaxed) {
            return Err(StoreError::Io("no space left on device (os error 28)".into()));
        }
        self.inner.commit(writes)
    }

    fn load(&self, document: &DocumentName) -> Result<Option<Stored>, StoreError> {
        self.inner.load(document)
    }

    fn list(&self) -> Result<Vec<DocumentName>, StoreError> {
        self.inner.list()
    }

    fn close(&self) -> Result<(), StoreError> {
        self.inner.close()
    }
}
