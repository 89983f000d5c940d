//! What was done and promised, for each document, and what follows from it: the judge. Knows nothing of how it came about.

use std::collections::{BTreeMap, BTreeSet};

use syncline_protocol::native::Version;
use syncline_replica::{MAX_REMEMBERED_WRITES, RegisterState};

use crate::text;

/// An edit: of one mark, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It was typed. Once: marks are never typed again.
    Insert(u32),
    /// It was deleted.
    Delete(u32),
}

impl Action {
    /// The mark, if one was typed.
    pub fn inserted(&self) -> Option<u32> {
        if let Action::Insert(mark) = self { Some(*mark) } else { None }
    }
}

/// The accounts of one document.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Typed by anyone.
    pub typed: BTreeSet<u32>,
    /// Deleted by anyone, as far as its own replica goes.
    pub deleted: BTreeSet<u32>,
    /// On a device's disk, which said so: must reach the server, once.
    accepted: Vec<Action>,
    /// The marks among these, by who accepted them.
    accepted_by: BTreeMap<usize, BTreeSet<u32>>,
    /// Reported as saved by the server.
    acked: Vec<Action>,
    /// Came from the server to someone who did not type them, in the server's present life.
    relayed: BTreeSet<u32>,
    /// Accepted register writes as they were told: (register, its version) -> the write.
    decided: BTreeMap<(String, u64), u128>,
    /// Register writes that the server refused since it last started. Filled by `decided`.
    refused: BTreeSet<u128>,
    /// What registers' writes were based on, as sent.
    proposed: BTreeMap<u128, (String, u64)>,
    /// The document was replaced by an older copy, or forgotten: the marks that may be missing, or twice, since.
    pub forgiven: BTreeSet<u32>,
    had_another_history: bool,
}

impl Ledger {
    /// This device accepted it.
    pub fn accepted(&mut self, device: usize, action: Action) {
        self.accepted_by.entry(device).or_default().extend(action.inserted());
        // Across histories an undone edit is nobody's: another device may have put the mark upon the new one.
        if !self.had_another_history || action.inserted().is_some() {
            self.accepted.push(action);
        }
    }

    /// Somebody was told that it is saved; `on_disk`: the marks a crash would leave at this moment.
    pub fn acked(&mut self, action: Action, on_disk: &BTreeSet<u32>) -> Result<(), String> {
        if !self.had_another_history || action.inserted().is_some() {
            self.acked.push(action);
        }
        self.acked_is_durable(on_disk)
    }

    /// Everything acknowledged is among these marks, which a crash would leave.
    pub fn acked_is_durable(&self, on_disk: &BTreeSet<u32>) -> Result<(), String> {
        let is_lost = |action: &&Action| match action {
            Action::Insert(mark) => {
                !on_disk.contains(mark) && !self.deleted.contains(mark) && !self.forgiven.contains(mark)
            }
            Action::Delete(_) => false,
        };
        match self.acked.iter().find(is_lost) {
            Some(action) => Err(format!("ACKED IS DURABLE: {action:?} was acknowledged and is not on the disk")),
            None => Ok(()),
        }
    }

    /// A session without a client brought it, and the document has it.
    pub fn given(&mut self, mark: u32, is_taken: bool) {
        self.typed.insert(mark);
        self.relayed.extend(is_taken.then_some(mark));
    }

    /// These marks came from the server, of any document.
    pub fn relayed(&mut self, marks: &BTreeSet<u32>) {
        self.relayed.extend(marks.intersection(&self.typed));
    }

    /// The server crashed: what it had only relayed may be gone.
    pub fn server_crashed(&mut self) {
        self.relayed.clear();
        self.refused.clear();
    }

    /// The document has left memory in order: all that went through it is on the disk.
    pub fn retired(&self, on_disk: &BTreeSet<u32>) -> Result<(), String> {
        let lost = self
            .relayed
            .iter()
            .find(|mark| !on_disk.contains(mark) && !self.deleted.contains(mark) && !self.forgiven.contains(mark));
        match lost {
            Some(mark) => Err(format!("RETIRE NEVER LOSES: <{mark}> was relayed, the document left memory without it")),
            None => Ok(()),
        }
    }

    /// A register's write went out, based on this version.
    pub fn proposed(&mut self, id: u128, register: &str, based_on: Option<Version>) {
        let number = based_on.map_or(1, |version| version.number + 1);
        self.proposed.insert(id, (register.to_owned(), number));
    }

    /// A device received the decision on its register write.
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

    /// Checks a register at the end of a plan: its history contains every accepted write and no refused one.
    pub fn register(&self, name: &str, state: Option<&RegisterState>) -> Result<(), String> {
        let ids = state.map_or(&[][..], |state| &state.ids);
        let mut taken = self.decided.iter().filter(|((register, _), _)| register == name);
        if let Some(((_, version), id)) =
            taken.find(|(_, id)| !ids.contains(id)).filter(|_| ids.len() < MAX_REMEMBERED_WRITES)
        {
            return Err(format!("ACKED IS DURABLE: {name} took {id} as version {version}, and is {state:?}"));
        }
        match ids.iter().find(|id| self.refused.contains(id)) {
            Some(id) => Err(format!("REFUSED STAYS REFUSED: {name} refused {id}, and is {state:?}")),
            None => Ok(()),
        }
    }

    /// The document starts over with another history, which holds these marks; the one before held those. Of what was
    /// promised this stays: what a device has accepted and nobody saved is put upon the new history. What the new history
    /// has of it may come twice. What a later one before had may have been put there by another device that had seen it:
    /// then its author takes it for the server's, and it is forgotten with that.
    pub fn history_changed(&mut self, restored: &BTreeSet<u32>, before: &BTreeSet<u32>) {
        let is_later = std::mem::replace(&mut self.had_another_history, true);
        let saved: BTreeSet<u32> = self.acked.iter().filter_map(Action::inserted).collect();
        let waiting: BTreeSet<u32> = self.accepted.iter().filter_map(Action::inserted).collect();
        let stays = |mark: &&u32| {
            let may_be_anothers = is_later && before.contains(mark);
            waiting.contains(mark) && !saved.contains(mark) && !restored.contains(mark) && !may_be_anothers
        };
        self.forgiven.extend(self.typed.iter().filter(|mark| !stays(mark)));
        // A deletion means nothing where its mark is another one.
        self.accepted.retain(|action| action.inserted().is_some());
        self.acked.clear();
        self.relayed.clear();
        self.decided.clear();
        self.refused.clear();
    }

    /// The document was deleted for good: nothing of it is the server's any more.
    pub fn deleted(&mut self) {
        self.acked.clear();
        self.relayed.clear();
        self.decided.clear();
        self.refused.clear();
    }

    /// A mark that this device has accepted, nobody has deleted or replaced, and that is not among these.
    pub fn lost_by(&self, device: usize, marks: &BTreeSet<u32>) -> Option<u32> {
        let accepted = self.accepted_by.get(&device)?;
        let is_lost =
            |mark: &&u32| !marks.contains(mark) && !self.deleted.contains(mark) && !self.forgiven.contains(mark);
        accepted.iter().find(is_lost).copied()
    }

    /// What a text, after everything was delivered, must be. These marks lie on the server's disk and wait for what
    /// nobody has any more.
    pub fn end(&self, whose: &str, text: &str, waiting: &BTreeSet<u32>) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for mark in text::marks(text) {
            if !seen.insert(mark) && !self.forgiven.contains(&mark) {
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
                        seen.contains(mark) || self.deleted.contains(mark) || waiting.contains(mark)
                    }
                    Action::Delete(mark) => !seen.contains(mark),
                };
                let (Action::Insert(mark) | Action::Delete(mark)) = action;
                if !is_kept && !self.forgiven.contains(mark) {
                    return Err(format!("{promise}: {action:?} is not in the end of {whose}: {text}"));
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
    fn what_was_promised_and_is_not_there_is_told() {
        assert_eq!(ledger().end("it", "<1><3>", &BTreeSet::new()), Ok(()));
        for (text, promise) in [
            ("<3>", "ACKED IS DURABLE"),
            ("<1><2>", "ACCEPTED ARRIVES"),
            ("<1><3><1>", "NOTHING IS DOUBLED"),
            ("<1><9>", "NOTHING IS MADE UP"),
        ] {
            let error = ledger().end("it", text, &BTreeSet::new()).unwrap_err();
            assert!(error.starts_with(promise), "{error}");
        }
        assert_eq!(ledger().end("it", "<3>", &[1].into()), Ok(()), "it waits");
        assert!(ledger().acked(Action::Insert(3), &[1].into()).is_err());
        ledger().acked(Action::Insert(2), &[1].into()).unwrap();
    }

    #[test]
    fn what_a_device_has_lost_is_told() {
        assert_eq!(ledger().lost_by(0, &[1].into()), None);
        assert_eq!(ledger().lost_by(0, &[3].into()), Some(1));
        assert_eq!(ledger().lost_by(1, &[3].into()), None, "it accepted nothing");
    }

    #[test]
    fn two_writes_on_one_version_are_told() {
        let mut ledger = Ledger::default();
        let version = Version { number: 4, id: 1 };
        (10..13).for_each(|id| ledger.proposed(id, "status", (id < 12).then_some(version)));
        ledger.decided(10, true).unwrap();
        ledger.decided(10, true).unwrap();
        ledger.decided(12, true).unwrap();
        assert!(ledger.decided(11, true).is_err());
    }

    #[test]
    fn register_without_an_accepted_write_or_with_a_refused_one_fails() {
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
