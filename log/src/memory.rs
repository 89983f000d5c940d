//! A store in memory for tests: it can be held in the middle of a commit, fail, panic and crash when told to.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use syncline_protocol::ids::{DocumentName, Seq};

use super::store::{Store, StoreError, Stored, Write};

/// Documents in memory. What a commit brings is there once the commit returned, not before.
#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
    /// Something in `state` changed.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    documents: HashMap<DocumentName, Stored>,
    /// The steps of each commit that was started.
    commits: Vec<Vec<Write>>,
    held: bool,
    /// Whether a commit waits at the gate.
    waiting: bool,
    fault: Option<(usize, Fault)>,
    crashes: u64,
    closed: bool,
}

/// What a commit does instead of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It returns an error.
    Fail,
    /// It panics.
    Panic,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Commits from now on wait before they are durable, until [`MemoryStore::release`].
    pub fn hold(&self) {
        self.state().held = true;
    }

    /// Lets the waiting commit and all later ones pass.
    pub fn release(&self) {
        self.state().held = false;
        self.changed.notify_all();
    }

    /// Blocks until a commit waits at the gate.
    pub fn wait_until_held(&self) {
        let state = self.state();
        drop(self.changed.wait_while(state, |state| !state.waiting).unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether a commit has begun and is not through.
    pub fn is_committing(&self) -> bool {
        self.state().waiting
    }

    /// The `nth` commit from now (1: the next one) has a fault.
    pub fn fault_at(&self, nth: usize, fault: Fault) {
        let mut state = self.state();
        state.fault = Some((state.commits.len() + nth, fault));
    }

    /// Forgets everything that is not yet committed: a waiting commit fails, later ones work.
    pub fn crash(&self) {
        self.state().crashes += 1;
        self.changed.notify_all();
    }

    /// The steps of each commit so far, those included that failed or wait.
    pub fn commits(&self) -> Vec<Vec<Write>> {
        self.state().commits.clone()
    }

    /// Whether [`Store::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn commit(&self, writes: &[Write]) -> Result<(), StoreError> {
        let mut state = self.state();
        state.commits.push(writes.to_vec());
        match state.fault {
            Some((at, Fault::Fail)) if at == state.commits.len() => {
                return Err(StoreError::Io("this commit was told to fail".into()));
            }
            Some((at, Fault::Panic)) if at == state.commits.len() => panic!("this commit was told to panic"),
            _ => {}
        }
        let crashes = state.crashes;
        state.waiting = true;
        self.changed.notify_all();
        let mut state = self
            .changed
            .wait_while(state, |state| state.held && state.crashes == crashes)
            .unwrap_or_else(PoisonError::into_inner);
        state.waiting = false;
        if state.crashes != crashes {
            return Err(StoreError::Io("the store crashed".into()));
        }
        writes.iter().try_for_each(|write| apply(&mut state.documents, write))
    }

    fn load(&self, document: &DocumentName) -> Result<Option<Stored>, StoreError> {
        Ok(self.state().documents.get(document).cloned())
    }

    fn list(&self) -> Result<Vec<DocumentName>, StoreError> {
        Ok(self.state().documents.keys().cloned().collect())
    }

    fn close(&self) -> Result<(), StoreError> {
        self.state().closed = true;
        Ok(())
    }
}

/// One step as the contract says it.
fn apply(documents: &mut HashMap<DocumentName, Stored>, write: &Write) -> Result<(), StoreError> {
    match write {
        Write::Append { records, .. } if records.is_empty() => {}
        Write::Append { document, epoch, records } => {
            let new = Stored { epoch: *epoch, snapshot: None, records: Vec::new() };
            let stored = documents.entry(document.clone()).or_insert(new);
            for record in records {
                let expected = stored.last().next();
                if record.seq != expected {
                    return Err(StoreError::OutOfOrder { document: document.clone(), expected, found: record.seq });
                }
                stored.records.push(record.clone());
            }
        }
        Write::Compact { document, snapshot } => {
            let stored = documents.get_mut(document);
            let last = stored.as_ref().map_or(Seq::ZERO, |stored| stored.last());
            let Some(stored) = stored.filter(|_| snapshot.upto <= last) else {
                return Err(StoreError::OutOfOrder {
                    document: document.clone(),
                    expected: last,
                    found: snapshot.upto,
                });
            };
            if stored.snapshot.as_ref().is_none_or(|old| old.upto < snapshot.upto) {
                stored.records.retain(|record| record.seq > snapshot.upto);
                stored.snapshot = Some(snapshot.clone());
            }
        }
        Write::Delete { document } => {
            documents.remove(document);
        }
    }
    Ok(())
}
