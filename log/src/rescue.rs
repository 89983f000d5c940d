//! Reading goes on after the engine has failed: after a failed write sled refuses reads, too, but nobody writes any more, and
//! its file can be read without it.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use syncline_protocol::ids::DocumentName;

use super::store::{StoreError, Stored};
use super::survey::Survey;

/// A second way to what is on disk.
#[derive(Default)]
pub(super) struct Rescue {
    has_failed: AtomicBool,
    /// Made by the first who needs it.
    survey: OnceLock<Result<Survey, StoreError>>,
}

impl Rescue {
    /// From now on nobody writes.
    pub fn engine_failed(&self) {
        self.has_failed.store(true, Ordering::Relaxed);
    }

    /// Reads a document that the engine, having failed, does not read.
    pub fn load(
        &self,
        dir: &Path,
        document: &DocumentName,
        loaded: Result<Option<Stored>, StoreError>,
    ) -> Result<Option<Stored>, StoreError> {
        if !matches!(loaded, Err(StoreError::Io(_))) || !self.has_failed.load(Ordering::Relaxed) {
            return loaded;
        }
        let survey = self.survey.get_or_init(|| Survey::of_failed(dir));
        survey.as_ref().map_err(Clone::clone)?.load(document)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use syncline_protocol::ids::{Epoch, Seq};

    use super::super::sled::SledStore;
    use super::super::store::{Record, Store, Write};
    use super::*;

    #[test]
    fn what_a_failed_engine_does_not_read_is_read_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path()).unwrap();
        let document = DocumentName::parse("doc").unwrap();
        let records = vec![Record { seq: Seq(1), time_ms: 5, update: Bytes::from_static(b"an update") }];
        store.commit(&[Write::Append { document: document.clone(), epoch: Epoch(1), records }]).unwrap();
        let refused = || Err(StoreError::Io("the engine has failed".into()));
        let rescue = Rescue::default();
        assert!(rescue.load(dir.path(), &document, refused()).is_err(), "while others write, its file says nothing");
        rescue.engine_failed();
        let read = rescue.load(dir.path(), &document, refused()).unwrap();
        assert_eq!(read, store.load(&document).unwrap());
        assert!(read.is_some());
        assert_eq!(rescue.load(dir.path(), &DocumentName::parse("another").unwrap(), refused()).unwrap(), None);
    }
}
