//! An in-memory store for tests. It can pause in the middle of a commit, fail, panic and crash on request.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use syncline_protocol::ids::{DocumentName, Seq};

use super::store::{Store, StoreError, Stored, Write};

/// Documents in memory. The steps of a commit are visible once the commit has returned, not before.
#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
    /// Notified whenever `state` changes.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    documents: HashMap<DocumentName, Stored>,
    /// The steps of each commit that was started.
    commits: Vec<Vec<Write>>,
    /// Set by [`MemoryStore::hold`]: commits pause before they apply their steps.
    is_held: bool,
    /// A commit has started and has not applied its steps.
    is_committing: bool,
    /// The commit, counted from 1, that gets the fault.
    fault: Option<(usize, Fault)>,
    crashes: u64,
    is_closed: bool,
}

/// How a commit fails.
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

    /// Makes commits pause before they are durable, until [`MemoryStore::release`].
    pub fn hold(&self) {
        self.state().is_held = true;
    }

    /// Lets the paused commit and all later ones continue.
    pub fn release(&self) {
        self.state().is_held = false;
        self.changed.notify_all();
    }

    /// Blocks until a commit is paused.
    pub fn wait_until_held(&self) {
        let state = self.state();
        drop(self.changed.wait_while(state, |state| !state.is_committing).unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether a commit has started and not finished.
    pub fn is_committing(&self) -> bool {
        self.state().is_committing
    }

    /// Makes the `nth` commit from now fail (1: the next one).
    pub fn fault_at(&self, nth: usize, fault: Fault) {
        let mut state = self.state();
        state.fault = Some((state.commits.len() + nth, fault));
    }

    /// Discards everything that is not yet committed: a paused commit fails, later ones work.
    pub fn crash(&self) {
        self.state().crashes += 1;
        self.changed.notify_all();
    }

    /// The steps of each commit so far, including failed and paused ones.
    pub fn commits(&self) -> Vec<Vec<Write>> {
        self.state().commits.clone()
    }

    /// Whether [`Store::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.state().is_closed
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
                return Err(StoreError::Io("this commit was set up to fail".into()));
            }
            Some((at, Fault::Panic)) if at == state.commits.len() => panic!("this commit was set up to panic"),
            _ => {}
        }
        let crashes = state.crashes;
        state.is_committing = true;
        self.changed.notify_all();
        let mut state = self
            .changed
            .wait_while(state, |state| state.is_held && state.crashes == crashes)
            .unwrap_or_else(PoisonError::into_inner);
        state.is_committing = false;
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
        self.state().is_closed = true;
        Ok(())
    }
}

/// Applies one step as the contract of [`Write`] describes it.
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
        Write::Bury { document, epoch, time_ms } => {
            documents.insert(document.clone(), Stored::tombstone(*epoch, *time_ms));
        }
    }
    Ok(())
}
