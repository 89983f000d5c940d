//! A simulated disk that loses unsynced data: the [`Store`] contract in memory, for the server's log and for journals.
//!
//! The steps of a commit are durable when it returns. If a crash or an error interrupts a commit, each document keeps a
//! random number of its steps, in order. A step that does not continue the stored records is recorded as a violation: two
//! owners wrote the same document.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use syncline_log::store::Write;
use syncline_log::{Store, StoreError, Stored};
use syncline_protocol::ids::{DocumentName, Seq};

/// A simulated disk.
pub struct Disk {
    state: Mutex<State>,
}

struct State {
    /// The content that survives a crash.
    synced: BTreeMap<DocumentName, Stored>,
    rng: fastrand::Rng,
    /// The next commit fails, as on a full or dying disk.
    fails_next: bool,
    /// A commit has failed, and all later ones fail until [`Disk::recover`].
    failed: bool,
    violation: Option<String>,
}

impl Disk {
    /// An empty disk.
    pub fn new(rng: fastrand::Rng) -> Self {
        let state = State { synced: BTreeMap::new(), rng, fails_next: false, failed: false, violation: None };
        Self { state: Mutex::new(state) }
    }

    /// Makes the next commit fail halfway.
    pub fn fail_next(&self) {
        self.state().fails_next = true;
    }

    /// Makes commits work again: the power is back, or the disk has space.
    pub fn recover(&self) {
        let mut state = self.state();
        (state.fails_next, state.failed) = (false, false);
    }

    /// Simulates a crash during a commit of these steps: a random part is stored, in order for each document.
    pub fn crash_during(&self, writes: &[Write]) {
        self.state().apply_some(writes);
    }

    /// The document as it would be after a crash now.
    pub fn stored(&self, document: &DocumentName) -> Option<Stored> {
        self.state().synced.get(document).cloned()
    }

    /// Replaces a document by an older copy, or removes it.
    pub fn replace(&self, document: &DocumentName, stored: Option<Stored>) {
        let mut state = self.state();
        match stored {
            Some(stored) => drop(state.synced.insert(document.clone(), stored)),
            None => drop(state.synced.remove(document)),
        }
    }

    /// The marks (`<17>`) of a document as it would be after a crash now.
    pub fn marks(&self, document: &DocumentName) -> BTreeSet<u32> {
        let state = self.state();
        let mut marks = BTreeSet::new();
        if let Some(stored) = state.synced.get(document) {
            stored.snapshot.iter().for_each(|snapshot| find_marks(&snapshot.update, &mut marks));
            stored.records.iter().for_each(|record| find_marks(&record.update, &mut marks));
        }
        marks
    }

    /// The epoch and the last record of a document as it would be after a crash now.
    pub fn last(&self, document: &DocumentName) -> Option<(syncline_protocol::ids::Epoch, Seq)> {
        self.state().synced.get(document).map(|stored| (stored.epoch, stored.last()))
    }

    /// The first violation of the contract. `None`: there was none.
    pub fn violation(&self) -> Option<String> {
        self.state().violation.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Disk {
    fn commit(&self, writes: &[Write]) -> Result<(), StoreError> {
        let mut state = self.state();
        if std::mem::take(&mut state.fails_next) {
            state.failed = true;
            state.apply_some(writes);
        }
        if state.failed {
            return Err(StoreError::Io("no space left on device (simulated)".into()));
        }
        for write in writes {
            if let Err(error) = state.apply(write) {
                state.violation.get_or_insert_with(|| format!("a document had two owners: {error}"));
                return Err(error);
            }
        }
        Ok(())
    }

    fn load(&self, document: &DocumentName) -> Result<Option<Stored>, StoreError> {
        Ok(self.stored(document))
    }

    fn list(&self) -> Result<Vec<DocumentName>, StoreError> {
        Ok(self.state().synced.keys().cloned().collect())
    }
}

impl State {
    fn apply_some(&mut self, writes: &[Write]) {
        let mut left: BTreeMap<&DocumentName, usize> = BTreeMap::new();
        for write in writes {
            *left.entry(write.document()).or_default() += 1;
        }
        for count in left.values_mut() {
            *count = self.rng.usize(0..=*count);
        }
        for write in writes {
            if let Some(count) = left.get_mut(write.document()).filter(|count| **count > 0) {
                *count -= 1;
                if let Err(error) = self.apply(write) {
                    self.violation.get_or_insert_with(|| format!("a document had two owners: {error}"));
                }
            }
        }
    }

    fn apply(&mut self, write: &Write) -> Result<(), StoreError> {
        match write {
            Write::Append { records, .. } if records.is_empty() => {}
            Write::Append { document, epoch, records } => {
                let new = Stored { epoch: *epoch, snapshot: None, records: Vec::new() };
                let stored = self.synced.entry(document.clone()).or_insert(new);
                for record in records {
                    let expected = stored.last().next();
                    if record.seq != expected {
                        let (document, found) = (document.clone(), record.seq);
                        return Err(StoreError::OutOfOrder { document, expected, found });
                    }
                    stored.records.push(record.clone());
                }
            }
            Write::Compact { document, snapshot } => {
                let last = self.synced.get(document).map_or(Seq::ZERO, Stored::last);
                let Some(stored) = self.synced.get_mut(document).filter(|_| snapshot.upto <= last) else {
                    let (document, found) = (document.clone(), snapshot.upto);
                    return Err(StoreError::OutOfOrder { document, expected: last, found });
                };
                if stored.snapshot.as_ref().is_none_or(|old| old.upto < snapshot.upto) {
                    stored.records.retain(|record| record.seq > snapshot.upto);
                    stored.snapshot = Some(snapshot.clone());
                }
            }
            Write::Delete { document } => drop(self.synced.remove(document)),
            Write::Bury { document, epoch, time_ms } => {
                self.synced.insert(document.clone(), Stored::tombstone(*epoch, *time_ms));
            }
        }
        Ok(())
    }
}

/// Adds the marks in an update. A v1 update contains inserted text unencoded.
pub fn find_marks(update: &Bytes, marks: &mut BTreeSet<u32>) {
    let mut rest = &update[..];
    while let Some(start) = rest.iter().position(|&byte| byte == b'<') {
        rest = &rest[start + 1..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if rest.get(digits) == Some(&b'>')
            && let Some(mark) = std::str::from_utf8(&rest[..digits]).ok().and_then(|digits| digits.parse().ok())
        {
            marks.insert(mark);
        }
    }
}
