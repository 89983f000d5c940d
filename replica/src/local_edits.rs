//! Changes made here, by whoever owns the replica: the client's edits. The server's replicas only relay.

use std::mem::ManuallyDrop;

use bytes::Bytes;
use syncline_protocol::update::EMPTY_UPDATE;
use yrs::{Doc, Transact, Transaction, TransactionMut};

use crate::crdt::contain;
use crate::{CrdtError, Replica};

impl Replica {
    /// The document itself, to read.
    pub fn doc(&self) -> &Doc {
        &self.crdt.doc
    }

    /// The CRDT client id under which changes are made here; drawn anew for every replica.
    pub fn client_id(&self) -> u64 {
        self.crdt.doc.client_id().get()
    }

    /// Looks at the document.
    pub fn read<R>(&self, look: impl FnOnce(&Transaction<'_>) -> R) -> R {
        look(&self.crdt.doc.transact())
    }

    /// Makes a change in one transaction and gives it as a v1 update, `00 00` when nothing was changed.
    ///
    /// # Errors
    /// When the closure or the CRDT panics: the replica must then be thrown away.
    // Not by yrs' update observer: with one registered an append costs up to a hundred times more.
    pub fn edit<R>(&mut self, change: impl FnOnce(&mut TransactionMut<'_>) -> R) -> Result<(R, Bytes), CrdtError> {
        let mut txn = ManuallyDrop::new(self.crdt.doc.transact_mut());
        let result = contain(|| change(&mut txn))?;
        let update = contain(move || {
            let txn = ManuallyDrop::into_inner(txn);
            if txn.has_changes() { Bytes::from(txn.encode_update_v1()) } else { Bytes::from_static(&EMPTY_UPDATE) }
        })?;
        self.clocks.advance(&update);
        self.intake.note_types(&update);
        Ok((result, update))
    }
}
