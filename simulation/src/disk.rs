//! A disk that forgets what was not synced: the [`Store`] contract in memory, for the server's log and for journals.
//!
//! What a commit brought is synced when it returned. Of a commit that a crash or an error met halfway, each document has
//! some number of its steps, in order: the dice say how many. A step that does not follow what is stored is noted as a
//! violation: two owners wrote one document.

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
    /// What a crash leaves.
    synced: BTreeMap<DocumentName, Stored>,
    dice: fastrand::Rng,
    /// The next commit fails, as with a full disk or a dying one.
    fails_next: bool,
    /// Until the next start nothing is taken.
    failed: bool,
    violation: Option<String>,
}

impl Disk {
    /// An empty disk.
    pub fn new(dice: fastrand::Rng) -> Self {
        let state = State { synced: BTreeMap::new(), dice, fails_next: false, failed: false, violation: None };
        Self { state: Mutex::new(state) }
    }

    /// The next commit fails halfway.
    pub fn fail_next(&self) {
        self.state().fails_next = true;
    }

    /// The power is back, or the disk has room again.
    pub fn recover(&self) {
        let mut state = self.state();
        (state.fails_next, state.failed) = (false, false);
    }

    /// A crash met these steps on their way: some are there, in order for each document.
    pub fn crash_during(&self, writes: &[Write]) {
        self.state().apply_some(writes);
    }

    /// A document as a crash would leave it now.
    pub fn stored(&self, document: &DocumentName) -> Option<Stored> {
        self.state().synced.get(document).cloned()
    }

    /// Puts an older copy, or nothing, in a document's place.
    pub fn replace(&self, document: &DocumentName, stored: Option<Stored>) {
        let mut state = self.state();
        match stored {
            Some(stored) => drop(state.synced.insert(document.clone(), stored)),
            None => drop(state.synced.remove(document)),
        }
    }

    /// The marks (`<17>`) in what a crash would leave of a document now.
    pub fn marks(&self, document: &DocumentName) -> BTreeSet<u32> {
        let state = self.state();
        let mut marks = BTreeSet::new();
        if let Some(stored) = state.synced.get(document) {
            stored.snapshot.iter().for_each(|snapshot| find_marks(&snapshot.update, &mut marks));
            stored.records.iter().for_each(|record| find_marks(&record.update, &mut marks));
        }
        marks
    }

    /// The last record a crash would leave, and whose history it is.
    pub fn last(&self, document: &DocumentName) -> Option<(syncline_protocol::ids::Epoch, Seq)> {
        self.state().synced.get(document).map(|stored| (stored.epoch, stored.last()))
    }

    /// What broke the contract, if anything did.
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
                state.violation.get_or_insert_with(|| format!("two owners of one document: {error}"));
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
            *left.entry(document(write)).or_default() += 1;
        }
        for count in left.values_mut() {
            *count = self.dice.usize(0..=*count);
        }
        for write in writes {
            if let Some(count) = left.get_mut(document(write)).filter(|count| **count > 0) {
                *count -= 1;
                if let Err(error) = self.apply(write) {
                    self.violation.get_or_insert_with(|| format!("two owners of one document: {error}"));
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
        }
        Ok(())
    }
}

fn document(write: &Write) -> &DocumentName {
    match write {
        Write::Append { document, .. } | Write::Compact { document, .. } | Write::Delete { document } => document,
    }
}

/// The marks in an update. A v1 update holds inserted text as it is.
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
