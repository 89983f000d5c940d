//! Records what was done and promised for each document, and checks the invariants that follow. Independent of how the
//! events came about.

use std::collections::{BTreeMap, BTreeSet};

use syncline_protocol::native::Version;
use syncline_replica::{MAX_REMEMBERED_WRITES, RegisterState};

use crate::text;

/// An edit of one mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The mark was inserted. Each mark is inserted only once.
    Insert(u32),
    /// The mark was deleted.
    Delete(u32),
}

impl Action {
    /// The mark, if it was inserted.
    pub fn inserted(&self) -> Option<u32> {
        if let Action::Insert(mark) = self { Some(*mark) } else { None }
    }
}

/// The records of one document.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Marks inserted by any client.
    pub typed: BTreeSet<u32>,
    /// Marks deleted by any client in its own replica.
    pub deleted: BTreeSet<u32>,
    /// Edits that a device reported as stored on its disk. They must reach the server exactly once.
    accepted: Vec<Action>,
    /// The marks inserted by accepted edits, by device.
    accepted_by: BTreeMap<usize, BTreeSet<u32>>,
    /// Edits that the server acknowledged.
    acked: Vec<Action>,
    /// Marks that the server has sent to any client since its last start.
    relayed: BTreeSet<u32>,
    /// Register writes reported as accepted: (register, version) -> write.
    decided: BTreeMap<(String, u64), u128>,
    /// Register writes reported as refused since the server's last start.
    refused: BTreeSet<u128>,
    /// The register and the version that each sent write would create.
    proposed: BTreeMap<u128, (String, u64)>,
    /// Marks that may be missing or duplicated because the document was replaced or purged.
    pub exempt: BTreeSet<u32>,
    /// The document's history was replaced at least once.
    history_was_replaced: bool,
}

impl Ledger {
    /// A device has stored an edit on its disk.
    pub fn accepted(&mut self, device: usize, action: Action) {
        self.accepted_by.entry(device).or_default().extend(action.inserted());
        // A deletion cannot be checked across histories: another device may have rebased the mark onto the new one.
        if !self.history_was_replaced || action.inserted().is_some() {
            self.accepted.push(action);
        }
    }

    /// A client received an acknowledgement. `on_disk`: the marks that a crash now would leave.
    pub fn acked(&mut self, action: Action, on_disk: &BTreeSet<u32>) -> Result<(), String> {
        if !self.history_was_replaced || action.inserted().is_some() {
            self.acked.push(action);
        }
        self.acked_is_durable(on_disk)
    }

    /// Checks that everything acknowledged is in `on_disk`, the marks that a crash now would leave.
    pub fn acked_is_durable(&self, on_disk: &BTreeSet<u32>) -> Result<(), String> {
        let is_lost = |action: &&Action| match action {
            Action::Insert(mark) => {
                !on_disk.contains(mark) && !self.deleted.contains(mark) && !self.exempt.contains(mark)
            }
            Action::Delete(_) => false,
        };
        match self.acked.iter().find(is_lost) {
            Some(action) => Err(format!("ACKED IS DURABLE: {action:?} was acknowledged but is not on the disk")),
            None => Ok(()),
        }
    }

    /// A session without a client sent an edit. `is_applied`: the document has applied it.
    pub fn update_from_session(&mut self, mark: u32, is_applied: bool) {
        self.typed.insert(mark);
        self.relayed.extend(is_applied.then_some(mark));
    }

    /// The server sent these marks to a client. Marks of other documents are ignored.
    pub fn relayed(&mut self, marks: &BTreeSet<u32>) {
        self.relayed.extend(marks.intersection(&self.typed));
    }

    /// The server crashed: edits that it had only relayed may be lost.
    pub fn server_crashed(&mut self) {
        self.relayed.clear();
        self.refused.clear();
    }

    /// The document was unloaded cleanly: checks that everything it relayed is on the disk.
    pub fn retired(&self, on_disk: &BTreeSet<u32>) -> Result<(), String> {
        let lost = self
            .relayed
            .iter()
            .find(|mark| !on_disk.contains(mark) && !self.deleted.contains(mark) && !self.exempt.contains(mark));
        match lost {
            Some(mark) => Err(format!(
                "RETIRE NEVER LOSES: <{mark}> was relayed, but the document left memory without storing it"
            )),
            None => Ok(()),
        }
    }

    /// A register write was sent, based on this version.
    pub fn proposed(&mut self, id: u128, register: &str, based_on: Option<Version>) {
        let number = based_on.map_or(1, |version| version.number + 1);
        self.proposed.insert(id, (register.to_owned(), number));
    }

    /// A client received the outcome of its register write.
    pub fn decided(&mut self, id: u128, accepted: bool) -> Result<(), String> {
        let Some(version) = self.proposed.get(&id) else { return Ok(()) };
        if !accepted {
            self.refused.insert(id);
            return Ok(());
        }
        match self.decided.insert(version.clone(), id) {
            Some(other) if other != id => {
                Err(format!("ONE WRITE PER VERSION: {} version {}: {other} and {id}", version.0, version.1))
            }
            _ => Ok(()),
        }
    }

    /// Checks the final state of a register: it contains every accepted write and no refused one.
    pub fn register(&self, name: &str, state: Option<&RegisterState>) -> Result<(), String> {
        let ids = state.map_or(&[][..], |state| &state.ids);
        let mut taken = self.decided.iter().filter(|((register, _), _)| register == name);
        if let Some(((_, version), id)) =
            taken.find(|(_, id)| !ids.contains(id)).filter(|_| ids.len() < MAX_REMEMBERED_WRITES)
        {
            return Err(format!("ACKED IS DURABLE: {name} accepted {id} as version {version}, but is {state:?}"));
        }
        match ids.iter().find(|id| self.refused.contains(id)) {
            Some(id) => Err(format!("REFUSED STAYS REFUSED: {name} refused {id}, but is {state:?}")),
            None => Ok(()),
        }
    }

    /// The document's history was replaced by one with the marks `restored`; the previous one had the marks `before`. Only
    /// one promise remains: edits that a device has accepted and the server has not acknowledged are rebased onto the new
    /// history. Exceptions: a mark that is already in the new history may be duplicated. And from the second replacement
    /// on, a mark in `before` may have been rebased by another device: its author then takes it for the server's edit, and
    /// it is lost with that history.
    pub fn history_changed(&mut self, restored: &BTreeSet<u32>, before: &BTreeSet<u32>) {
        let is_later = std::mem::replace(&mut self.history_was_replaced, true);
        let saved: BTreeSet<u32> = self.acked.iter().filter_map(Action::inserted).collect();
        let accepted: BTreeSet<u32> = self.accepted.iter().filter_map(Action::inserted).collect();
        let is_promised = |mark: &&u32| {
            let maybe_from_another = is_later && before.contains(mark);
            accepted.contains(mark) && !saved.contains(mark) && !restored.contains(mark) && !maybe_from_another
        };
        self.exempt.extend(self.typed.iter().filter(|mark| !is_promised(mark)));
        // A deletion of a mark in the old history does not apply to the new one.
        self.accepted.retain(|action| action.inserted().is_some());
        self.acked.clear();
        self.relayed.clear();
        self.decided.clear();
        self.refused.clear();
    }

    /// The document was deleted permanently: the server no longer promises anything about it.
    pub fn deleted(&mut self) {
        self.acked.clear();
        self.relayed.clear();
        self.decided.clear();
        self.refused.clear();
    }

    /// A mark that the device has accepted and that is missing in `marks`, unless it was deleted or is exempt.
    pub fn lost_by(&self, device: usize, marks: &BTreeSet<u32>) -> Option<u32> {
        let accepted = self.accepted_by.get(&device)?;
        let is_lost =
            |mark: &&u32| !marks.contains(mark) && !self.deleted.contains(mark) && !self.exempt.contains(mark);
        accepted.iter().find(is_lost).copied()
    }

    /// Checks the text of one replica after everything was delivered. `pending`: marks on the server's disk whose updates
    /// depend on changes that no client has.
    pub fn check_final_text(&self, whose: &str, text: &str, pending: &BTreeSet<u32>) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for mark in text::marks(text) {
            if !seen.insert(mark) && !self.exempt.contains(&mark) {
                return Err(format!("NOTHING IS DOUBLED: {whose} has <{mark}> twice: {text}"));
            }
            if !self.typed.contains(&mark) {
                return Err(format!("NOTHING IS MADE UP: {whose} has <{mark}>: {text}"));
            }
        }
        for (promise, actions) in [("ACKED IS DURABLE", &self.acked), ("ACCEPTED ARRIVES", &self.accepted)] {
            for action in actions {
                let is_kept = match action {
                    Action::Insert(mark) => {
                        seen.contains(mark) || self.deleted.contains(mark) || pending.contains(mark)
                    }
                    Action::Delete(mark) => !seen.contains(mark),
                };
                let (Action::Insert(mark) | Action::Delete(mark)) = action;
                if !is_kept && !self.exempt.contains(mark) {
                    return Err(format!("{promise}: {action:?} is not in the final state of {whose}: {text}"));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let mut ledger = Ledger { typed: [1, 2, 3].into(), deleted: [2].into(), ..Ledger::default() };
        ledger.accepted(0, Action::Insert(1));
        ledger.accepted(0, Action::Delete(2));
        ledger.acked(Action::Insert(1), &[1].into()).unwrap();
        ledger
    }

    #[test]
    fn broken_promise_in_the_final_text_is_reported() {
        assert_eq!(ledger().check_final_text("it", "<1><3>", &BTreeSet::new()), Ok(()));
        for (text, promise) in [
            ("<3>", "ACKED IS DURABLE"),
            ("<1><2>", "ACCEPTED ARRIVES"),
            ("<1><3><1>", "NOTHING IS DOUBLED"),
            ("<1><9>", "NOTHING IS MADE UP"),
        ] {
            let error = ledger().check_final_text("it", text, &BTreeSet::new()).unwrap_err();
            assert!(error.starts_with(promise), "{error}");
        }
        assert_eq!(ledger().check_final_text("it", "<3>", &[1].into()), Ok(()), "its update is pending");
        assert!(ledger().acked(Action::Insert(3), &[1].into()).is_err());
        ledger().acked(Action::Insert(2), &[1].into()).unwrap();
    }

    #[test]
    fn mark_lost_by_a_device_is_reported() {
        assert_eq!(ledger().lost_by(0, &[1].into()), None);
        assert_eq!(ledger().lost_by(0, &[3].into()), Some(1));
        assert_eq!(ledger().lost_by(1, &[3].into()), None, "this device accepted nothing");
    }

    #[test]
    fn two_writes_of_the_same_version_are_reported() {
        let mut ledger = Ledger::default();
        let version = Version { number: 4, id: 1 };
        (10..13).for_each(|id| ledger.proposed(id, "status", (id < 12).then_some(version)));
        ledger.decided(10, true).unwrap();
        ledger.decided(10, true).unwrap();
        ledger.decided(12, true).unwrap();
        assert!(ledger.decided(11, true).is_err());
    }

    #[test]
    fn register_without_an_accepted_write_or_with_a_refused_one_is_reported() {
        let mut ledger = Ledger::default();
        let version = Version { number: 1, id: 10 };
        let state = |ids: &[u128]| {
            let version = Version { number: ids.len() as u64, id: ids[ids.len() - 1] };
            RegisterState { value: yrs::Any::Null, version, author: String::new(), at_ms: 0, ids: ids.to_vec() }
        };
        ledger.proposed(10, "status", None);
        ledger.proposed(11, "status", Some(version));
        ledger.decided(10, true).unwrap();
        ledger.decided(11, false).unwrap();
        assert_eq!(ledger.register("owner", None), Ok(()));
        assert_eq!(ledger.register("status", Some(&state(&[10, 12]))), Ok(()));
        assert!(ledger.register("status", None).is_err());
        assert!(ledger.register("status", Some(&state(&[12]))).is_err());
        assert!(ledger.register("status", Some(&state(&[10, 11]))).is_err());
    }
}
