//! Which versioned registers an update has changed: only the document itself may decide on them, but anyone's update can
//! change the map in which they lie.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use yrs::{Map, Observable, Out, ReadTxn, Transact, WriteTxn};

use crate::crdt::contain;
use crate::register::{REGISTERS, RegisterState};
use crate::{CrdtError, Replica};

/// Names of registers that were changed since this was asked last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Touched(Arc<Mutex<BTreeSet<Arc<str>>>>);

impl Touched {
    fn names(&self) -> MutexGuard<'_, BTreeSet<Arc<str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replica {
    /// Notes from now on which registers are changed. An observer of this one map: it costs nothing where there are no
    /// registers, unlike one of all updates.
    ///
    /// # Errors
    /// When the CRDT panics: the replica must then be thrown away.
    pub fn watch_registers(&mut self) -> Result<(), CrdtError> {
        let touched = self.touched.clone();
        contain(|| {
            let registers = self.crdt.doc.transact_mut().get_or_insert_map(REGISTERS);
            registers.observe("touched", move |txn, event| {
                touched.names().extend(event.keys(txn).keys().cloned());
            });
        })
    }

    /// The registers that were changed since this was asked last, in the order of their names.
    pub fn take_touched(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut *self.touched.names()).into_iter().collect()
    }

    /// All registers that accepted writes have made.
    ///
    /// # Errors
    /// When the CRDT panics: the replica must then be thrown away.
    pub fn read_registers(&self) -> Result<HashMap<String, RegisterState>, CrdtError> {
        contain(|| {
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
