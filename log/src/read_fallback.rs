//! Reads documents directly from the engine's file after the engine has failed. After a failed write, sled may also refuse
//! reads, or have half a batch in memory. No commit follows a failed one, so everything acknowledged stays in the file.

use std::path::Path;
use std::sync::OnceLock;

use syncline_protocol::ids::DocumentName;

use super::check::Survey;
use super::store::{StoreError, Stored};

/// The fallback for reads after the engine has failed.
#[derive(Default)]
pub(super) struct ReadFallback {
    /// The log position at which the failed commit started.
    failed_at: OnceLock<i64>,
    /// Created by the first read that needs it.
    survey: OnceLock<Survey>,
}

impl ReadFallback {
    /// Enables the fallback. The failed commit wrote at the log position `failed_at` or later, and nothing writes after it.
    pub(crate) fn engine_failed(&self, failed_at: i64) {
        self.failed_at.get_or_init(|| failed_at);
    }

    /// Returns `loaded`, the engine's result, unless the engine has failed: then reads the document from the file.
    pub(crate) fn load(
        &self,
        dir: &Path,
        document: &DocumentName,
        loaded: Result<Option<Stored>, StoreError>,
    ) -> Result<Option<Stored>, StoreError> {
        match (&loaded, self.failed_at.get()) {
            (Err(StoreError::Io(_) | StoreError::Damaged { .. }), Some(&failed_at)) => {
                // A failed survey is not kept, so the next read tries again: the cause may be a lack of file descriptors.
                let survey = match self.survey.get() {
                    Some(survey) => survey,
                    None => {
                        let survey = Survey::of_failed(dir, failed_at)?;
                        self.survey.get_or_init(|| survey)
                    }
                };
                survey.load(document)
            }
            _ => loaded,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::ErrorKind;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use bytes::Bytes;
    use syncline_protocol::ids::{Epoch, Seq};

    use super::super::engine_error::failed;
    use super::super::layout::{Part, PartKind, head_key, part_key};
    use super::super::sled::SledStore;
    use super::super::store::{Record, Store, Write};
    use super::*;

    #[test]
    fn document_is_read_from_the_file_after_the_engine_failed() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path()).unwrap();
        let document = DocumentName::parse("doc").unwrap();
        let records = vec![Record { seq: Seq(1), time_ms: 5, update: Bytes::from_static(b"an update") }];
        store.commit(&[Write::Append { document: document.clone(), epoch: Epoch(1), records }]).unwrap();
        let refused = || Err(StoreError::Io("the engine has failed".into()));
        let fallback = ReadFallback::default();
        assert!(fallback.load(dir.path(), &document, refused()).is_err(), "no fallback while the engine works");
        fallback.engine_failed(i64::MAX);
        let read = fallback.load(dir.path(), &document, refused()).unwrap();
        assert_eq!(read, store.load(&document).unwrap());
        assert!(read.is_some());
        assert_eq!(fallback.load(dir.path(), &DocumentName::parse("another").unwrap(), refused()).unwrap(), None);
    }

    #[test]
    fn half_a_batch_in_the_failed_engines_memory_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let has_failed = Arc::new(AtomicBool::new(false));
        let sync = {
            let has_failed = Arc::clone(&has_failed);
            move |file: &File| {
                if has_failed.load(Ordering::Relaxed) { Err(ErrorKind::Other.into()) } else { file.sync_data() }
            }
        };
        let store = SledStore::open_with(dir.path(), Box::new(sync), None).unwrap();
        let document = DocumentName::parse("doc").unwrap();
        let append = |seq| {
            let records = vec![Record { seq: Seq(seq), time_ms: 5, update: Bytes::from_static(b"an update") }];
            [Write::Append { document: document.clone(), epoch: Epoch(1), records }]
        };
        store.commit(&append(1)).unwrap();
        let acknowledged = store.load(&document).unwrap();
        // Like sled's cleaner: acknowledged data is moved, and its old place may be overwritten.
        let moved_to = store.with_engine(|engine| {
            let key = head_key(&document);
            let head = engine.db.get(&key).map_err(failed)?.unwrap();
            engine.db.insert(&key, head).and_then(|_| engine.db.flush()).map_err(failed)?;
            Ok(engine.log_position())
        });
        has_failed.store(true, Ordering::Relaxed);
        store.commit(&append(2)).unwrap_err();
        assert!(*store.fallback.failed_at.get().unwrap() >= moved_to.unwrap(), "moved data is before the position");
        // Like a partly applied batch: the new head exists, the record does not.
        let record = part_key(1, Part { kind: PartKind::Entry, seq: Seq(2), chunk: 0 });
        let removed = store.with_engine(|engine| engine.db.remove(&record).map_err(failed)).unwrap();
        assert!(removed.is_some());
        assert_eq!(store.load(&document).unwrap(), acknowledged);
    }
}
