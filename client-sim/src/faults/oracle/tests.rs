//! Each fault that the oracle must find is made in a document, and the oracle must report it.

use syncline_client::yrs::{
    Array, Doc, GetString, Map, Out, ReadTxn, StateVector, Text, Transact, TransactionMut, WriteTxn,
};

use syncline_client::Ulid;
use syncline_client::types::choice::ChoiceRegister;
use syncline_client::types::clock::Hlc;

use super::chain::{Decision, Register};
use super::edit::{CHOICE, COUNTER, LAST, LIST, LOG, MAP, TEXT};
use super::*;

fn id(text: &str) -> Id {
    text.parse().unwrap()
}

fn context() -> EditContext {
    EditContext { clock: Hlc::new("device"), now_ms: 1_790_000_000_000 }
}

fn edit(name: &str, kind: EditKind, dice: u64) -> Edit {
    Edit { id: id(name), kind, dice }
}

/// A document with several edits of every kind, and its ledger.
fn sample() -> (Doc, Ledger) {
    let doc = Doc::new();
    let mut ledger = Ledger::default();
    let mut contexts = [context(), context()];
    let kinds = EditKind::ALL.into_iter().filter(|kind| ![EditKind::Delete, EditKind::Proposal].contains(kind));
    let kinds: Vec<EditKind> = kinds.chain([EditKind::Delete]).collect();
    for round in 0..6 {
        // Fewer deletes than inserts, so that text remains.
        let kinds = if round % 3 == 0 { &kinds } else { &kinds[..kinds.len() - 1] };
        for (at, kind) in kinds.iter().enumerate() {
            let number = round * 10 + at as u32 + 1;
            let edit = Edit { id: Id { device: round % 2, number }, kind: *kind, dice: u64::from(number) * 7919 };
            if let Some(replaced) = edit.apply(&mut doc.transact_mut(), &mut contexts[(round % 2) as usize]) {
                ledger.add(edit, Outcome::Accepted(replaced));
            }
        }
    }
    (doc, ledger)
}

fn view(doc: &Doc) -> View {
    let state = doc.transact().encode_state_as_update_v1(&StateVector::default());
    View::of_state(&state).unwrap()
}

/// Returns the oracle's complaints about a correct document after `corrupt` changed it.
fn complaints_after(corrupt: impl FnOnce(&mut TransactionMut<'_>)) -> String {
    let (doc, ledger) = sample();
    assert_eq!(check(&ledger, &view(&doc)), Vec::<String>::new());
    let before = view(&doc);
    corrupt(&mut doc.transact_mut());
    assert!(
        !differences(&before, &view(&doc)).is_empty(),
        "the document was not changed, or replicas are not compared"
    );
    check(&ledger, &view(&doc)).join("; ")
}

#[test]
fn lost_edit_is_reported_in_every_root() {
    assert!(complaints_after(|txn| txn.get_or_insert_array(LIST).remove(txn, 1)).contains("LOST in the list"));
    let drop_token = |txn: &mut TransactionMut<'_>, root: &str| {
        let text = txn.get_or_insert_text(root);
        let len = text.get_string(txn).find(']').unwrap() + 1;
        text.remove_range(txn, 0, len as u32);
    };
    assert!(complaints_after(|txn| drop_token(txn, TEXT)).contains("LOST in the text"));
    assert!(complaints_after(|txn| drop_token(txn, LOG)).contains("LOST in the log"));
    let remove = |txn: &mut TransactionMut<'_>, root: &str| {
        let map = txn.get_or_insert_map(root);
        let key = map.keys(txn).next().unwrap().to_owned();
        map.remove(txn, &key);
    };
    assert!(complaints_after(|txn| remove(txn, MAP)).contains("LOST in the map"));
    assert!(complaints_after(|txn| remove(txn, COUNTER)).contains("LOST in the counter"));
    assert!(complaints_after(|txn| remove(txn, CHOICE)).contains("LOST in the choice"));
    assert!(complaints_after(|txn| txn.get_or_insert_array(LAST).remove(txn, 0)).contains("has no value"));
}

#[test]
fn doubled_edit_is_reported_in_every_root() {
    let again = |txn: &mut TransactionMut<'_>, root: &str| {
        let array = txn.get_or_insert_array(root);
        let first = edit::string_of(&array.get(txn, 0).unwrap()).unwrap();
        array.push_back(txn, first);
    };
    assert!(complaints_after(|txn| again(txn, LIST)).contains("DOUBLED in the list"));
    let again = |txn: &mut TransactionMut<'_>| {
        let choice = ChoiceRegister::new(CHOICE);
        let kept = choice.versions(txn).remove(0);
        let map = txn.get_or_insert_map(CHOICE);
        let any = map.get(txn, &kept.signature.id).unwrap();
        let Out::Any(any) = any else { panic!("a choice that is not a plain value") };
        map.insert(txn, Ulid::from_parts(1, 1).to_string(), any);
    };
    assert!(complaints_after(again).contains("DOUBLED in the choice"));
    let again = |txn: &mut TransactionMut<'_>, root: &str| {
        let text = txn.get_or_insert_text(root);
        let content = text.get_string(txn);
        text.push(txn, &content[..=content.find(']').unwrap()]);
    };
    assert!(complaints_after(|txn| again(txn, TEXT)).contains("DOUBLED in the text"));
    assert!(complaints_after(|txn| again(txn, LOG)).contains("DOUBLED in the log"));
    let count = |txn: &mut TransactionMut<'_>| {
        edit("d0-999", EditKind::Count, 3).apply(txn, &mut context()).unwrap();
    };
    assert!(complaints_after(count).contains("DOUBLED in the counter"));
}

#[test]
fn misplaced_or_unknown_content_is_reported() {
    let swap = |txn: &mut TransactionMut<'_>| {
        let log = txn.get_or_insert_text(LOG);
        let content = log.get_string(txn);
        let first = content[..=content.find(']').unwrap()].to_owned();
        log.remove_range(txn, 0, first.len() as u32);
        log.push(txn, &first);
    };
    assert!(complaints_after(swap).contains("comes after"));
    assert!(complaints_after(|txn| txn.get_or_insert_text(TEXT).insert(txn, 2, "[")).contains("not a token"));
    assert!(
        complaints_after(|txn| txn.get_or_insert_text(LOG).push(txn, "[d9-9]")).contains("never made in the log: d9-9")
    );
    let overwrite = |txn: &mut TransactionMut<'_>| {
        edit("d5-5", EditKind::Last, 0).apply(txn, &mut context()).unwrap();
    };
    assert!(complaints_after(overwrite).contains("overwritten or never written"));
    let under = |txn: &mut TransactionMut<'_>| {
        let map = txn.get_or_insert_map(MAP);
        let key = map.keys(txn).next().unwrap().to_owned();
        map.insert(txn, key, "other");
    };
    assert!(complaints_after(under).contains("the map has other under"));
}

#[test]
fn reappearing_deleted_token_and_present_failed_edit_are_reported() {
    let (doc, mut ledger) = sample();
    let deleted = ledger.entries.iter().find_map(|entry| match (&entry.outcome, entry.edit.kind) {
        (Outcome::Accepted(victims), EditKind::Delete) => Some(victims[0]),
        _ => None,
    });
    let deleted = deleted.unwrap();
    let text = doc.get_or_insert_text(TEXT);
    text.insert(&mut doc.transact_mut(), 0, &format!("[{deleted}]"));
    assert!(check(&ledger, &view(&doc)).join(";").contains("deleted but present"));

    let (doc, _) = sample();
    let pushed = ledger.entries.iter_mut().find(|entry| entry.edit.kind == EditKind::Push).unwrap();
    pushed.outcome = Outcome::Failed;
    assert!(check(&ledger, &view(&doc)).join(";").contains("failed but present"));
}

#[test]
fn edit_with_unknown_outcome_may_be_present_once_but_not_twice() {
    let (doc, mut ledger) = sample();
    ledger.add(edit("d0-900", EditKind::Push, 1), Outcome::Unknown);
    ledger.add(edit("d0-901", EditKind::Count, 4), Outcome::Unknown);
    assert_eq!(check(&ledger, &view(&doc)), Vec::<String>::new());
    for entry in ledger.entries.iter().rev().take(2) {
        entry.edit.apply(&mut doc.transact_mut(), &mut context()).unwrap();
    }
    assert_eq!(check(&ledger, &view(&doc)), Vec::<String>::new());
    for entry in ledger.entries.iter().rev().take(2) {
        entry.edit.apply(&mut doc.transact_mut(), &mut context()).unwrap();
    }
    let complaints = check(&ledger, &view(&doc)).join(";");
    assert!(complaints.contains("DOUBLED in the list: d0-900"), "{complaints}");
    assert!(complaints.contains("DOUBLED in the counter"), "{complaints}");
}

fn proposals(names: &[&str]) -> Ledger {
    let mut ledger = Ledger::default();
    for name in names {
        ledger.add(edit(name, EditKind::Proposal, 0), Outcome::Accepted(Vec::new()));
    }
    ledger
}

fn decision(name: &str, accepted: bool, version: u64, value: &str) -> Decision {
    Decision { proposal: id(name), accepted, version, value: Some(id(value)) }
}

#[test]
fn register_versions_must_form_one_chain() {
    let ledger = proposals(&["d0-1", "d1-1", "d0-2"]);
    let right = [
        decision("d0-1", true, 1, "d0-1"),
        decision("d1-1", false, 1, "d0-1"),
        decision("d0-2", true, 2, "d0-2"),
        decision("d0-2", true, 2, "d0-2"),
    ];
    let register = Register { version: 2, value: Some(id("d0-2")) };
    let complaints =
        |decisions: &[Decision], register: &Register| chain::check(&ledger, decisions, register).join("; ");
    assert_eq!(complaints(&right, &register), "");
    assert_eq!(complaints(&right[..1], &register), "", "proposals without a received decision may have any result");
    let both = [right[0].clone(), decision("d1-1", true, 1, "d1-1"), right[2].clone()];
    assert!(complaints(&both, &register).contains("both version 1"));
    let again = [right.as_slice(), &[decision("d0-1", true, 3, "d0-1")]].concat();
    assert!(complaints(&again, &register).contains("DOUBLED: d0-1"));
    let two_results = [right.as_slice(), &[decision("d1-1", true, 2, "d0-2")]].concat();
    assert!(complaints(&two_results, &register).contains("different results"));
    assert!(complaints(&right, &Register { version: 1, value: Some(id("d0-1")) }).contains("LOST"));
    assert!(complaints(&right, &Register { version: 3, value: Some(id("d0-2")) }).contains("DOUBLED"));
    assert!(complaints(&right, &Register { version: 2, value: Some(id("d1-1")) }).contains("not accepted"));
    assert!(complaints(&right, &Register { version: 2, value: None }).contains("the register is empty"));
}

#[test]
fn id_parses_only_its_canonical_spelling() {
    assert_eq!(id("d3-17").to_string(), "d3-17");
    for wrong in ["", "d3", "3-17", "d03-1", "d3-17x", "d-1-2", "d+1-2"] {
        assert!(wrong.parse::<Id>().is_err(), "{wrong} is accepted");
    }
}
