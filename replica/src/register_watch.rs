//! Tracks which versioned registers were changed. Only the owner of the document decides on register writes, but any
//! update can change the map that holds the registers.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use yrs::{Map, Observable, Out, ReadTxn, Transact, WriteTxn};

use crate::crdt::catch_panic;
use crate::register::{REGISTERS, RegisterState};
use crate::{CrdtError, Replica};

/// Names of the registers that were changed since the last [`Replica::take_touched`].
#[derive(Debug, Clone, Default)]
pub(crate) struct ChangedRegisters(Arc<Mutex<BTreeSet<Arc<str>>>>);

impl ChangedRegisters {
    fn names(&self) -> MutexGuard<'_, BTreeSet<Arc<str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replica {
    /// Starts to track which registers are changed. It observes only the register map, which costs nothing in documents
    /// without registers, unlike an observer of all updates.
    ///
    /// # Errors
    /// When the CRDT panics: the replica must then be discarded.
    pub fn watch_registers(&mut self) -> Result<(), CrdtError> {
        let touched = self.touched.clone();
        catch_panic(|| {
            let registers = self.crdt.doc.transact_mut().get_or_insert_map(REGISTERS);
            registers.observe("touched", move |txn, event| {
                touched.names().extend(event.keys(txn).keys().cloned());
            });
        })
    }

    /// The registers that were changed since the last call, sorted by name.
    pub fn take_touched(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut *self.touched.names()).into_iter().collect()
    }

    /// Every register whose value was set by an accepted write.
    ///
    /// # Errors
    /// When the CRDT panics: the replica must then be discarded.
    pub fn read_registers(&self) -> Result<HashMap<String, RegisterState>, CrdtError> {
        catch_panic(|| {
            let txn = self.crdt.doc.transact();
            let Some(map) = txn.get_map(REGISTERS) else { return HashMap::new() };
            let registers = map.iter(&txn).filter_map(|(name, out)| match out {
                Out::Any(any) => Some((name.to_owned(), RegisterState::from_any(&any)?)),
                _ => None,
            });
            registers.collect()
        })
    }
}
