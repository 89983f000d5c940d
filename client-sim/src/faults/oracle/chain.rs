//! Checks versioned registers: the server decides each proposal once, and accepted ones form a chain without forks.

use std::collections::{BTreeMap, BTreeSet};

use super::{EditKind, Id, Ledger, Outcome};

/// A decision about one proposal, as one device received it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Id of the proposal.
    pub proposal: Id,
    /// Whether the server accepted the proposal.
    pub accepted: bool,
    /// The register's version after the decision.
    pub version: u64,
    /// The proposal whose value the register has after the decision.
    pub value: Option<Id>,
}

/// State of a register on a replica or on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Register {
    /// Number of accepted proposals; 0: never written.
    pub version: u64,
    /// The proposal whose value it has.
    pub value: Option<Id>,
}

/// Returns every fault of a register at the end, given the decisions that devices received. A decision may be lost with the
/// process that would have received it, but it may not be received twice with different results.
pub(crate) fn check(ledger: &Ledger, decisions: &[Decision], register: &Register) -> Vec<String> {
    let mut complaints = Vec::new();
    let proposed = |outcome: &Outcome| !matches!(outcome, Outcome::Failed);
    let proposals: BTreeSet<Id> =
        ledger.of(EditKind::Proposal).filter(|entry| proposed(&entry.outcome)).map(|entry| entry.edit.id).collect();
    let mut verdicts: BTreeMap<Id, bool> = BTreeMap::new();
    let mut versions: BTreeMap<u64, Id> = BTreeMap::new();
    for decision in decisions {
        let id = decision.proposal;
        if !proposals.contains(&id) {
            complaints.push(format!("{id} was decided but never proposed"));
        }
        if verdicts.insert(id, decision.accepted).is_some_and(|before| before != decision.accepted) {
            complaints.push(format!("{id} was decided twice with different results"));
        }
        // A decision that is sent again after later ones carries the register's state at that time.
        if decision.accepted && decision.value == Some(id) {
            let other = versions.insert(decision.version, id);
            if let Some(other) = other.filter(|other| *other != id) {
                complaints.push(format!("{other} and {id} are both version {}", decision.version));
            }
        }
    }
    let accepted: Vec<Id> = verdicts.iter().filter(|(_, accepted)| **accepted).map(|(id, _)| *id).collect();
    let pairs = versions.iter().map(|(version, id)| (*id, *version));
    let mut version_of: BTreeMap<Id, u64> = BTreeMap::new();
    for (id, version) in pairs {
        if let Some(other) = version_of.insert(id, version) {
            complaints.push(format!("DOUBLED: {id} is version {other} and version {version}"));
        }
    }
    let undecided = proposals.iter().filter(|id| !verdicts.contains_key(*id)).count() as u64;
    let decided = accepted.len() as u64;
    if register.version < decided {
        complaints.push(format!(
            "LOST: {decided} proposals were accepted, but the register has version {}",
            register.version
        ));
    }
    if register.version > decided + undecided {
        complaints.push(format!(
            "DOUBLED: {decided} proposals were accepted and {undecided} more may have been, but the register has version {}",
            register.version
        ));
    }
    match register.value {
        None if decided > 0 => complaints.push("LOST: proposals were accepted, but the register is empty".into()),
        Some(id) if !proposals.contains(&id) => complaints.push(format!("the register has {id}, never proposed")),
        Some(id) if verdicts.get(&id) == Some(&false) => {
            complaints.push(format!("the register has {id}, which was not accepted"));
        }
        Some(id) if versions.get(&register.version).is_some_and(|newest| *newest != id) => {
            complaints.push(format!("the register has {id}, but another proposal is version {}", register.version));
        }
        _ => {}
    }
    complaints
}
