//! The memory of a document's last compaction. Answers share it, and keep it alive after the document is compacted again.

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

/// Shorter bases are not counted.
const MIN_COUNTED_BYTES: usize = 16 * 1024;

/// Counts the bytes of bases that were replaced by a newer compaction while answers still hold them.
#[derive(Debug, Clone, Default)]
pub struct Superseded(Arc<AtomicUsize>);

impl Superseded {
    /// The current count.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// The output of a compaction.
#[derive(Debug, Default)]
pub(super) struct Base {
    bytes: Bytes,
    /// `None` if it is shorter than [`MIN_COUNTED_BYTES`].
    shared: Option<Arc<BaseMemory>>,
}

/// Lives as long as the base or any slice of it.
#[derive(Debug)]
struct BaseMemory {
    bytes: Bytes,
    superseded: OnceLock<Superseded>,
}

/// The owner that [`Bytes::from_owner`] keeps.
struct BaseOwner(Arc<BaseMemory>);

impl Base {
    /// The document has a new base: counts the bytes of this one until every slice of it is dropped.
    pub(super) fn supersede(self, count: &Superseded) {
        if let Some(shared) = &self.shared
            && shared.superseded.set(count.clone()).is_ok()
        {
            count.0.fetch_add(shared.bytes.len(), Ordering::Relaxed);
        }
    }
}

impl From<Bytes> for Base {
    fn from(bytes: Bytes) -> Self {
        if bytes.len() < MIN_COUNTED_BYTES {
            return Self { bytes, shared: None };
        }
        let shared = Arc::new(BaseMemory { bytes, superseded: OnceLock::new() });
        Self { bytes: Bytes::from_owner(BaseOwner(Arc::clone(&shared))), shared: Some(shared) }
    }
}

impl Deref for Base {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.bytes
    }
}

impl AsRef<[u8]> for BaseOwner {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Drop for BaseMemory {
    fn drop(&mut self) {
        if let Some(count) = self.superseded.get() {
            count.0.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superseded_base_is_counted_until_its_last_slice_is_dropped() {
        let count = Superseded::default();
        let base = Base::from(Bytes::from(vec![7; MIN_COUNTED_BYTES]));
        let part = base.slice(5..6);
        assert_eq!((count.bytes(), part[..].len()), (0, 1));
        base.supersede(&count);
        assert_eq!(count.bytes(), MIN_COUNTED_BYTES);
        drop(part);
        assert_eq!(count.bytes(), 0);
        Base::from(Bytes::from(vec![7; MIN_COUNTED_BYTES])).supersede(&count);
        assert_eq!(count.bytes(), 0, "no slice of it was held");
    }
}
