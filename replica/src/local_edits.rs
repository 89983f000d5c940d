//! Local edits: changes that the client itself makes to its replica.

use std::mem::ManuallyDrop;

use bytes::Bytes;
use syncline_protocol::update::EMPTY_UPDATE;
use yrs::{Doc, Transact, Transaction, TransactionMut};

use crate::crdt::catch_panic;
use crate::{CrdtError, Replica};

impl Replica {
    /// The yrs document, for reading.
    pub fn doc(&self) -> &Doc {
        &self.crdt.doc
    }

    /// The CRDT client id of local edits. Drawn at random for every replica.
    pub fn client_id(&self) -> u64 {
        self.crdt.doc.client_id().get()
    }

    /// Runs `read` in a read transaction.
    pub fn read<R>(&self, read: impl FnOnce(&Transaction<'_>) -> R) -> R {
        read(&self.crdt.doc.transact())
    }

    /// Runs `change` in one transaction. Returns its result and the change as a v1 update, `00 00` if nothing was changed.
    ///
    /// # Errors
    /// When the closure or the CRDT panics: the replica must then be discarded.
    // yrs' update observer is not used: with one registered an append costs up to a hundred times more.
    pub fn edit<R>(&mut self, change: impl FnOnce(&mut TransactionMut<'_>) -> R) -> Result<(R, Bytes), CrdtError> {
        let mut txn = ManuallyDrop::new(self.crdt.doc.transact_mut());
        let result = catch_panic(|| change(&mut txn))?;
        let update = catch_panic(move || {
            let txn = ManuallyDrop::into_inner(txn);
            if txn.has_changes() { Bytes::from(txn.encode_update_v1()) } else { Bytes::from_static(&EMPTY_UPDATE) }
        })?;
        self.clocks.advance(&update);
        self.preparer.record_types(&update);
        Ok((result, update))
    }
}
