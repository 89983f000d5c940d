//! Copies an intact document into a new store, value by value, with its epoch and its sequence numbers.

use std::sync::PoisonError;

use sled::Batch;
use syncline_protocol::ids::DocumentName;

use super::engine_error::failed;
use super::layout::{Head, META_KEY, head_key, name_key, seal, sum_of};
use super::sled::SledStore;
use super::store::StoreError;

/// The approximate size limit of one batch.
const SLICE_BYTES: usize = 64 << 10;

impl SledStore {
    /// Adds a document to a store that contains neither its name nor its id. `parts`: keys and sealed values. The document
    /// is durable after the next commit, or after the store is closed.
    pub(super) fn adopt(
        &self,
        document: &DocumentName,
        head: &Head,
        parts: impl Iterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.with_engine(|engine| {
            let (mut batch, mut bytes) = (Batch::default(), 0);
            for (key, value) in parts {
                bytes += key.len() + value.len();
                batch.insert(key, value);
                if bytes >= SLICE_BYTES {
                    engine.db.apply_batch(std::mem::take(&mut batch)).map_err(failed)?;
                    engine.sync_when_due()?;
                    bytes = 0;
                }
            }
            let meta = &mut writer.meta;
            meta.batches += 1;
            meta.documents += 1;
            meta.committed += head.last.0;
            meta.next_id = meta.next_id.max(head.id + 1);
            let (head_key, name_key) = (head_key(document), name_key(head.id));
            let head_value = seal(&head_key, &head.encode());
            meta.heads = meta.heads.wrapping_add(sum_of(&head_value));
            batch.insert(name_key.clone(), seal(&name_key, document.as_str().as_bytes()));
            batch.insert(head_key, head_value);
            batch.insert(META_KEY, seal(META_KEY, &meta.encode()));
            engine.db.apply_batch(batch).map_err(failed)?;
            engine.sync_when_due()
        })
    }
}
