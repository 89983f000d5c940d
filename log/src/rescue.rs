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
