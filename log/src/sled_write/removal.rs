//! Removes documents, or replaces them by tombstones: first the head, in one batch, then the parts that it referenced.

use syncline_protocol::ids::{DocumentName, Epoch, Seq};

use super::{Slice, name_in};
use crate::engine_error::failed;
use crate::failpoint::Point;
use crate::layout::{
    NAMES, PartKind, encode_entry, head_key, id_of, name_key, part_of, parts_prefix, sum_of, sweep_key,
};
use crate::sled_read::damaged;
use crate::store::{StoreError, Stored};

impl Slice<'_> {
    pub(super) fn delete(&mut self, document: &DocumentName) -> Result<(), StoreError> {
        let Some(id) = self.id_to_remove(document)? else { return Ok(()) };
        self.put_sweep_mark(id)?;
        let key = head_key(document);
        let before = self.engine.db.get(&key).map_err(failed)?.map_or(0, |value| sum_of(&value));
        self.meta.heads = self.meta.heads.wrapping_sub(before);
        self.remove(key);
        self.remove(name_key(id));
        self.meta.documents = self.meta.documents.saturating_sub(1);
        self.sweep_replaced(document, id)
    }

    /// Replaces the head by that of a tombstone in one batch; the old parts are removed afterwards.
    pub(super) fn bury(&mut self, document: &DocumentName, epoch: Epoch, time_ms: u64) -> Result<(), StoreError> {
        let replaced = self.id_to_remove(document)?;
        match replaced {
            Some(id) => {
                self.put_sweep_mark(id)?;
                let before = self.engine.db.get(head_key(document)).map_err(failed)?.map_or(0, |value| sum_of(&value));
                self.meta.heads = self.meta.heads.wrapping_sub(before);
                self.remove(name_key(id));
            }
            None => self.meta.documents += 1,
        }
        let tombstone = Stored::tombstone(epoch, time_ms);
        let mut head = self.new_head(epoch);
        let first = head.last.next();
        let entry = encode_entry(&tombstone.records);
        head.digest = self.put_chunks(&head, PartKind::Entry, first, &entry, head.digest, false)?;
        (head.last, head.entries) = (first, 1);
        self.put(name_key(head.id), document.as_str().as_bytes());
        self.meta.committed += 1;
        self.put_head(document, &head, None);
        replaced.map_or(Ok(()), |id| self.sweep_replaced(document, id))
    }

    /// The id of a document that is to be removed, damaged or not. `None`: there is no such document.
    fn id_to_remove(&mut self, document: &DocumentName) -> Result<Option<u64>, StoreError> {
        match self.head(document) {
            Ok(head) => Ok(head.map(|head| head.id)),
            Err(StoreError::Damaged { .. }) => match self.id_by_name(document)? {
                Some(id) => Ok(Some(id)),
                None => Err(damaged(document, Seq(1), "neither its head nor its stored name can be read")),
            },
            Err(error) => Err(error),
        }
    }

    /// Applies the batch that removes or replaces the document's head, then removes the parts of the old one.
    fn sweep_replaced(&mut self, document: &DocumentName, id: u64) -> Result<(), StoreError> {
        self.apply()?;
        Point::HeadReplaced.pass();
        self.engine.lost().remove(document);
        self.sweep(id)
    }

    /// Removes the parts that no head references, and the sweep mark.
    pub(super) fn sweep(&mut self, id: u64) -> Result<(), StoreError> {
        let key = name_key(id);
        let name = self.engine.db.get(&key).map_err(failed)?;
        let head = match name.as_ref().and_then(|value| name_in(&key, value)) {
            Some(document) => match self.engine.head(&document) {
                Ok(head) => head,
                // Keep everything of a damaged document; its load reports the damage.
                Err(StoreError::Damaged { .. }) => return Ok(()),
                Err(error) => return Err(error),
            },
            None if name.is_some() => return Ok(()),
            None => None,
        };
        for key in self.engine.db.scan_prefix(parts_prefix(id)).keys() {
            let key = key.map_err(failed)?;
            let named = part_of(&key).is_some_and(|part| head.is_some_and(|head| head.references(part)));
            if !named {
                self.remove(key);
                self.apply_if_full()?;
                Point::PartsRemoved.pass();
            }
        }
        self.remove(sweep_key(id));
        Ok(())
    }

    pub(super) fn id_by_name(&self, document: &DocumentName) -> Result<Option<u64>, StoreError> {
        for item in self.engine.db.scan_prefix(NAMES) {
            let (key, value) = item.map_err(failed)?;
            if name_in(&key, &value).as_ref() == Some(document) {
                return Ok(id_of(&key));
            }
        }
        Ok(None)
    }
}
