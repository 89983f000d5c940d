//! Versioned registers: the server decides each proposal once, and accepted ones make a chain without forks.

use std::collections::{BTreeMap, BTreeSet};

use super::{Id, Kind, Ledger, Outcome};

/// What one device heard about one proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The proposal.
    pub proposal: Id,
    /// The register took it.
    pub accepted: bool,
    /// The register's version after the decision.
    pub version: u64,
    /// The proposal whose value the register has after the decision.
    pub value: Option<Id>,
}

/// A register as a replica or the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    /// Counts accepted proposals; 0: never written.
    pub version: u64,
    /// Whose value it has.
    pub value: Option<Id>,
}

/// Everything wrong with a register at the end, given what devices heard. A decision may be lost with the process that
/// would have heard it; it may not be heard twice with two results.
pub fn check(ledger: &Ledger, decisions: &[Decision], register: &Register) -> Vec<String> {
    let mut complaints = Vec::new();
    let proposed = |outcome: &Outcome| !matches!(outcome, Outcome::Failed);
    let proposals: BTreeSet<Id> =
        ledger.of(Kind::Proposal).filter(|entry| proposed(&entry.outcome)).map(|entry| entry.edit.id).collect();
    let mut verdicts: BTreeMap<Id, bool> = BTreeMap::new();
    let mut versions: BTreeMap<u64, Id> = BTreeMap::new();
    for decision in decisions {
        let id = decision.proposal;
        if !proposals.contains(&id) {
            complaints.push(format!("{id} was decided and never proposed"));
        }
        if verdicts.insert(id, decision.accepted).is_some_and(|before| before != decision.accepted) {
            complaints.push(format!("{id} was decided twice, with two results"));
        }
        // A decision that is told again after others tells the register as it is then.
        if decision.accepted && decision.value == Some(id) {
            let other = versions.insert(decision.version, id);
            if let Some(other) = other.filter(|other| *other != id) {
                complaints.push(format!("{other} and {id} are both version {}", decision.version));
            }
        }
    }
    let accepted: Vec<Id> = verdicts.iter().filter(|(_, accepted)| **accepted).map(|(id, _)| *id).collect();
    let places = versions.iter().map(|(version, id)| (*id, *version));
    let mut place_of: BTreeMap<Id, u64> = BTreeMap::new();
    for (id, version) in places {
        if let Some(other) = place_of.insert(id, version) {
            complaints.push(format!("DOUBLED: {id} is version {other} and version {version}"));
        }
    }
    let unheard = proposals.iter().filter(|id| !verdicts.contains_key(*id)).count() as u64;
    let sure = accepted.len() as u64;
    if register.version < sure {
        complaints
            .push(format!("LOST: {sure} proposals were accepted, and the register is version {}", register.version));
    }
    if register.version > sure + unheard {
        complaints.push(format!(
            "DOUBLED: {sure} proposals were accepted, {unheard} more may be, and the register is version {}",
            register.version
        ));
    }
    match register.value {
        None if sure > 0 => complaints.push("LOST: proposals were accepted, and the register is empty".into()),
        Some(id) if !proposals.contains(&id) => complaints.push(format!("the register is {id}, never proposed")),
        Some(id) if verdicts.get(&id) == Some(&false) => {
            complaints.push(format!("the register is {id}, which was not accepted"));
        }
        Some(id) if versions.get(&register.version).is_some_and(|newest| *newest != id) => {
            complaints.push(format!("the register is {id}, and another is version {}", register.version));
        }
        _ => {}
    }
    complaints
}
