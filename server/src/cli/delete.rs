//! `syncline delete` replaces a document by a tombstone; `syncline purge` removes it without a trace.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use syncline_log::store::Write as Step;
use syncline_log::{SledStore, Store, Stored};
use syncline_protocol::ids::{DocumentName, Epoch};

use super::open_offline;
use crate::unix_time::now_ms;

/// Replaces a document by a tombstone with a new epoch. Clients that open it get close code 4410.
///
/// Errors: the store is in use (the message names the process) or cannot be opened, the document does not
/// exist, or it was already deleted.
pub fn delete(data_dir: &Path, document: &DocumentName, out: &mut impl Write) -> anyhow::Result<()> {
    let store = open_offline(data_dir, out)?;
    if load(&store, data_dir, document)?.is_some_and(|stored| stored.is_tombstone()) {
        bail!("document {document:?} was already deleted");
    }
    let (epoch, time_ms) = (Epoch(rand::random()), now_ms());
    commit(&store, &[Step::Bury { document: document.clone(), epoch, time_ms }])?;
    writeln!(out, "deleted {document:?}: clients keep their local copies but can no longer open it here")?;
    store.close().context("the store did not close cleanly")
}

/// Removes a document or its tombstone. A new document with another epoch may then use the name.
///
/// Errors: the store is in use or cannot be opened, or the document does not exist.
pub fn purge(data_dir: &Path, document: &DocumentName, out: &mut impl Write) -> anyhow::Result<()> {
    let store = open_offline(data_dir, out)?;
    load(&store, data_dir, document)?;
    commit(&store, &[Step::Delete { document: document.clone() }])?;
    writeln!(out, "purged {document:?}: it is removed from the store, and its name is free")?;
    store.close().context("the store did not close cleanly")
}

/// The stored document; `None` if it is damaged, which does not prevent its deletion.
fn load(store: &SledStore, data_dir: &Path, document: &DocumentName) -> anyhow::Result<Option<Stored>> {
    match store.load(document) {
        Ok(Some(stored)) => Ok(Some(stored)),
        Ok(None) => bail!("document {document:?} does not exist in {}", data_dir.display()),
        Err(syncline_log::StoreError::Damaged { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn commit(store: &SledStore, steps: &[Step]) -> anyhow::Result<()> {
    store.commit(steps).context("the outcome is unknown; run `syncline inspect` to check")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::inspect::inspect;
    use bytes::Bytes;
    use syncline_log::Record;
    use syncline_protocol::ids::Seq;

    #[test]
    fn deleted_document_is_listed_as_deleted_and_purged_one_is_gone() {
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
        assert!(delete(dir.path(), &missing, &mut out).unwrap_err().to_string().contains("does not exist"));
        delete(dir.path(), &name, &mut out).unwrap();
        assert!(delete(dir.path(), &name, &mut out).unwrap_err().to_string().contains("already deleted"));
        inspect(dir.path(), &name, &mut out).unwrap();
        let shown = String::from_utf8(std::mem::take(&mut out)).unwrap();
        assert!(shown.contains("deleted   20") && !shown.contains("records"), "{shown}");
        let stored = SledStore::open(dir.path()).unwrap().load(&name).unwrap().unwrap();
        assert!(stored.is_tombstone() && stored.epoch != Epoch(1));

        purge(dir.path(), &name, &mut out).unwrap();
        assert!(inspect(dir.path(), &name, &mut out).unwrap_err().to_string().contains("does not exist"));
        assert!(purge(dir.path(), &name, &mut out).is_err());
    }
}
