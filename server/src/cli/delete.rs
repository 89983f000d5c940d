//! `syncline delete` and `syncline purge`: a document ends for everyone, or is forgotten.

use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use syncline_log::store::Write as Step;
use syncline_log::{SledStore, Store, Stored};
use syncline_protocol::ids::{DocumentName, Epoch};

use super::offline;

/// Puts a tombstone in the document's place, with a history of its own. Whoever opens it is told that it was deleted.
///
/// Errors: the store is in use (the message names the process) or cannot be opened, there is no such document, or it
/// was deleted before.
pub fn delete(data_dir: &Path, document: &DocumentName, out: &mut impl Write) -> anyhow::Result<()> {
    let store = offline(data_dir, out)?;
    if load(&store, data_dir, document)?.is_some_and(|stored| stored.is_tombstone()) {
        bail!("the document {document:?} was deleted before");
    }
    commit(&store, &Step::bury(document, Epoch(rand::random()), now_ms()))?;
    writeln!(out, "deleted {document:?}: those who have it keep what they have, nobody can open it here")?;
    store.close().context("the store did not close cleanly")
}

/// Forgets a document, deleted or not: under its name another may begin, with another history.
///
/// Errors: the store is in use or cannot be opened, or there is no such document.
pub fn purge(data_dir: &Path, document: &DocumentName, out: &mut impl Write) -> anyhow::Result<()> {
    let store = offline(data_dir, out)?;
    load(&store, data_dir, document)?;
    commit(&store, &[Step::Delete { document: document.clone() }])?;
    writeln!(out, "purged {document:?}: nothing of it is left here, and its name is free")?;
    store.close().context("the store did not close cleanly")
}

/// What is there; `None`: it is damaged, which is no reason to keep it.
fn load(store: &SledStore, data_dir: &Path, document: &DocumentName) -> anyhow::Result<Option<Stored>> {
    match store.load(document) {
        Ok(Some(stored)) => Ok(Some(stored)),
        Ok(None) => bail!("there is no document {document:?} in {}", data_dir.display()),
        Err(syncline_log::StoreError::Damaged { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn commit(store: &SledStore, steps: &[Step]) -> anyhow::Result<()> {
    store.commit(steps).context("it is not certain what was done; `syncline inspect` tells")
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::inspect::inspect;
    use bytes::Bytes;
    use syncline_log::Record;
    use syncline_protocol::ids::Seq;

    #[test]
    fn a_deleted_document_is_shown_as_deleted_and_a_purged_one_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let name = DocumentName::parse("doc").unwrap();
        let store = SledStore::open(dir.path()).unwrap();
        let record = Record { seq: Seq(1), time_ms: 0, update: Bytes::from_static(&[0, 0]) };
        let append = Step::Append { document: name.clone(), epoch: Epoch(1), records: vec![record] };
        store.commit(&[append]).unwrap();
        let error = delete(dir.path(), &name, &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("stop that server first"), "{error}");
        store.close().unwrap();

        let mut out = Vec::new();
        let missing = DocumentName::parse("missing").unwrap();
        assert!(delete(dir.path(), &missing, &mut out).unwrap_err().to_string().contains("there is no document"));
        delete(dir.path(), &name, &mut out).unwrap();
        assert!(delete(dir.path(), &name, &mut out).unwrap_err().to_string().contains("deleted before"));
        inspect(dir.path(), &name, &mut out).unwrap();
        let shown = String::from_utf8(std::mem::take(&mut out)).unwrap();
        assert!(shown.contains("deleted   20") && !shown.contains("records"), "{shown}");
        let stored = SledStore::open(dir.path()).unwrap().load(&name).unwrap().unwrap();
        assert!(stored.is_tombstone() && stored.epoch != Epoch(1));

        purge(dir.path(), &name, &mut out).unwrap();
        assert!(inspect(dir.path(), &name, &mut out).unwrap_err().to_string().contains("there is no document"));
        assert!(purge(dir.path(), &name, &mut out).is_err());
    }
}
