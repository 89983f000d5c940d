//! When a store is opened, renames documents that an older version stored under the URL spelling of their name. If a
//! document with the canonical name exists, both are kept, and a warning is logged.
//!
//! One batch moves the head and the name record; the parts are stored under the document's id and do not move. After a
//! crash a document has either the old or the new name, complete, and the next open continues.

use sled::IVec;
use syncline_protocol::ids::DocumentName;
use tracing::{info, warn};

use super::{Slice, name_in};
use crate::engine_error::failed;
use crate::layout::{HEADS, NAMES, head_key, id_of, name_key, seal, sum_of, unseal};
use crate::sled::{Engine, Writer};
use crate::store::StoreError;

/// Conflicting pairs that are logged one by one; further pairs are only counted.
const MAX_NAMED_PAIRS: usize = 20;

impl Engine {
    /// Renames every document whose stored name is a spelling of another name ([`DocumentName::renamed`]). `heads`: the
    /// keys of all heads that may have such names, in key order.
    pub(crate) fn rename_spellings(&self, writer: &mut Writer, heads: &[IVec]) -> Result<(), StoreError> {
        let spelled = self.spelled_names(heads);
        if spelled.is_empty() {
            return Ok(());
        }
        let mut slice = Slice::new(self, &mut writer.meta);
        let mut kept = Vec::new();
        let mut renamed = 0_usize;
        for (stored, name) in spelled {
            if slice.rename(&stored, &name)? {
                renamed += 1;
            } else {
                kept.push((stored, name));
            }
        }
        if renamed > 0 {
            self.sync()?;
            info!(documents = renamed, "renamed documents that were stored under the URL spelling of their name");
        }
        report_pairs(&kept);
        Ok(())
    }

    /// The stored names that are spellings of another name, each with that name. Includes lost documents.
    fn spelled_names(&self, heads: &[IVec]) -> Vec<(DocumentName, DocumentName)> {
        let names = heads.iter().filter_map(|key| std::str::from_utf8(&key[HEADS.len()..]).ok());
        let names: Vec<_> = names.filter_map(|name| DocumentName::exact(name).ok()).collect();
        let lost = self.lost();
        let stored = names.iter().chain(lost.iter());
        stored.filter_map(|stored| stored.renamed().map(|name| (stored.clone(), name))).collect()
    }
}

impl Slice<'_> {
    /// Renames the document `stored` to `name`, damaged or not. False: another document has that name.
    fn rename(&mut self, stored: &DocumentName, name: &DocumentName) -> Result<bool, StoreError> {
        let (old, new) = (head_key(stored), head_key(name));
        if self.engine.db.contains_key(&new).map_err(failed)? || self.engine.is_lost(name) {
            return Ok(false);
        }
        let Some(value) = self.engine.db.get(&old).map_err(failed)? else { return self.rename_lost(stored, name) };
        let head = self.engine.head(stored).ok().flatten();
        let id = match head {
            Some(head) => Some(head.id),
            None => self.id_by_name(stored)?,
        };
        // A damaged head is moved unchanged: its checksum is invalid under any key, so the document stays damaged.
        let moved = unseal(&old, &value).map_or(value.clone(), |payload| IVec::from(seal(&new, payload)));
        self.meta.heads = self.meta.heads.wrapping_sub(sum_of(&value)).wrapping_add(sum_of(&moved));
        self.bytes += new.len() + moved.len();
        self.changes += 1;
        self.batch.insert(new, moved);
        self.remove(old);
        if let Some(id) = id {
            self.put(name_key(id), name.as_str().as_bytes());
        }
        self.apply_uncounted()?;
        self.engine.sync_when_due()?;
        Ok(true)
    }

    /// Renames a document whose head is missing, so that the loss is reported under the new name.
    fn rename_lost(&mut self, stored: &DocumentName, name: &DocumentName) -> Result<bool, StoreError> {
        for item in self.engine.db.scan_prefix(NAMES) {
            let (key, value) = item.map_err(failed)?;
            if name_in(&key, &value).as_ref() == Some(stored)
                && let Some(id) = id_of(&key)
            {
                self.put(name_key(id), name.as_str().as_bytes());
            }
        }
        self.apply_uncounted()?;
        let mut lost = self.engine.lost();
        lost.remove(stored);
        lost.insert(name.clone());
        Ok(true)
    }
}

/// Logs one warning for each pair of documents with the same canonical name.
fn report_pairs(kept: &[(DocumentName, DocumentName)]) {
    for (stored, name) in kept.iter().take(MAX_NAMED_PAIRS) {
        warn!(
            document = ?name.as_str(),
            other = ?stored.as_str(),
            "two stored documents have the same name; clients get the first, and the other is kept. To see the other: \
             `syncline inspect --exact-name`; to merge it: `syncline export --exact-name`, then `syncline import` into the \
             first; to remove it: `syncline purge --exact-name`"
        );
    }
    if let Some(more) = kept.len().checked_sub(MAX_NAMED_PAIRS + 1) {
        warn!(pairs = more + 1, "more pairs of stored documents have the same name");
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use syncline_protocol::ids::{Epoch, Seq};
    use tempfile::TempDir;

    use super::*;
    use crate::SledStore;
    use crate::check::{Condition, Survey};
    use crate::store::{Record, Snapshot, Store, Write};

    const EPOCH: Epoch = Epoch(5);

    fn exact(name: &str) -> DocumentName {
        DocumentName::exact(name).unwrap()
    }

    fn record(seq: u64, update: &'static str) -> Record {
        Record { seq: Seq(seq), time_ms: seq, update: Bytes::from_static(update.as_bytes()) }
    }

    fn append(store: &SledStore, document: &DocumentName, seq: u64, update: &'static str) {
        let records = vec![record(seq, update)];
        store.commit(&[Write::Append { document: document.clone(), epoch: EPOCH, records }]).unwrap();
    }

    /// A store as an older version left it, with one record in each document.
    fn stored(names: &[&'static str]) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path()).unwrap();
        names.iter().for_each(|name| append(&store, &exact(name), 1, name));
        store.close().unwrap();
        dir
    }

    fn names(store: &SledStore) -> Vec<String> {
        let mut names: Vec<_> = store.list().unwrap().iter().map(ToString::to_string).collect();
        names.sort();
        names
    }

    /// The update of a document's first record.
    fn first(store: &SledStore, document: &DocumentName) -> Option<Bytes> {
        store.load(document).unwrap().map(|stored| stored.records[0].update.clone())
    }

    #[test]
    fn stored_spelling_is_served_under_the_name_after_an_open() {
        let dir = stored(&["space%20name", "%E6%96%87", "a%2Fb", "100%25", "plain", "already here"]);
        let spelled = exact("space%20name");
        let store = SledStore::open(dir.path()).unwrap();
        let name = DocumentName::parse("space%20name").unwrap();
        assert_eq!(first(&store, &name).unwrap(), "space%20name");
        assert_eq!(first(&store, &spelled), None);
        assert_eq!(names(&store), ["100%25", "a%2Fb", "already here", "plain", "space name", "文"]);
        // It is the same document with the same history, which continues.
        append(&store, &name, 2, "more");
        let snapshot = Snapshot { upto: Seq(1), update: Bytes::from_static(b"snapshot") };
        store.commit(&[Write::Compact { document: name.clone(), snapshot }]).unwrap();
        store.close().unwrap();

        let survey = Survey::of(dir.path()).unwrap();
        assert!(survey.complaints().is_empty(), "{:?}", survey.complaints());
        assert_eq!(survey.documents().count(), 6);
        assert!(survey.documents().all(|name| matches!(survey.document(name), Condition::Intact(_))));
        drop(survey);
        let store = SledStore::open_checked(dir.path()).unwrap();
        let loaded = store.load(&name).unwrap().unwrap();
        assert_eq!((loaded.epoch, loaded.last(), loaded.records.len()), (EPOCH, Seq(2), 1));
        store.commit(&[Write::Delete { document: name.clone() }]).unwrap();
        assert_eq!(store.load(&name).unwrap(), None);
        assert_eq!(names(&store).len(), 5);
    }

    #[test]
    fn two_documents_with_the_same_name_are_both_kept() {
        let dir = stored(&["space%20name", "space name", "%e6%96%87", "%E6%96%87"]);
        for _ in 0..2 {
            let store = SledStore::open_checked(dir.path()).unwrap();
            assert_eq!(names(&store), ["%e6%96%87", "space name", "space%20name", "文"]);
            assert_eq!(first(&store, &exact("space name")).unwrap(), "space name");
            assert_eq!(first(&store, &exact("space%20name")).unwrap(), "space%20name");
            // Of two spellings, the one that URL parsers produce gets the name.
            assert_eq!(first(&store, &exact("文")).unwrap(), "%E6%96%87");
            assert_eq!(first(&store, &exact("%e6%96%87")).unwrap(), "%e6%96%87");
            store.close().unwrap();
        }
        // Now the name is free, and the other document gets it.
        let store = SledStore::open_checked(dir.path()).unwrap();
        store.commit(&[Write::Delete { document: exact("space name") }]).unwrap();
        store.close().unwrap();
        let store = SledStore::open_checked(dir.path()).unwrap();
        assert_eq!(first(&store, &exact("space name")).unwrap(), "space%20name");
    }

    #[test]
    fn deleted_document_stays_deleted_under_its_name() {
        let dir = stored(&[]);
        let store = SledStore::open(dir.path()).unwrap();
        append(&store, &exact("a%20b"), 1, "x");
        store.commit(&[Write::Bury { document: exact("a%20b"), epoch: Epoch(9), time_ms: 3 }]).unwrap();
        store.close().unwrap();
        let store = SledStore::open_checked(dir.path()).unwrap();
        assert!(store.load(&exact("a b")).unwrap().unwrap().is_tombstone());
    }

    /// A damaged document must not appear empty because it is loaded under another name.
    #[test]
    fn damaged_document_is_damaged_under_its_name_too() {
        let dir = stored(&["a%20b", "c%20d", "other"]);
        let store = SledStore::open(dir.path()).unwrap();
        // Restores the old names, with one flipped bit in one head and the other head removed.
        let tamper = |engine: &Engine| {
            for (name, is_gone) in [("a b", false), ("c d", true)] {
                let (now, before) = (head_key(&exact(name)), head_key(&exact(&name.replace(' ', "%20"))));
                let value = engine.db.remove(&now).unwrap().unwrap();
                let payload = unseal(&now, &value).unwrap();
                let id = u64::from_le_bytes(*payload.first_chunk().unwrap());
                let mut sealed = seal(&before, payload);
                *sealed.last_mut().unwrap() ^= 1;
                if !is_gone {
                    engine.db.insert(&before, sealed).unwrap();
                }
                let key = name_key(id);
                engine.db.insert(&key, seal(&key, name.replace(' ', "%20").as_bytes())).unwrap();
            }
            Ok(())
        };
        store.with_engine(tamper).unwrap();
        store.close().unwrap();
        for _ in 0..2 {
            let store = SledStore::open(dir.path()).unwrap();
            assert!(store.inconsistency().is_some(), "a lost head is still detected");
            assert_eq!(names(&store), ["a b", "c d", "other"]);
            for name in ["a b", "c d"] {
                assert!(matches!(store.load(&exact(name)), Err(StoreError::Damaged { .. })), "{name}");
            }
            store.close().unwrap();
        }
    }
}
