//! The map on one and two replicas; random histories are tested in `client/tests/types_convergence.rs`.

use yrs::updates::decoder::Decode;
use yrs::{Doc, StateVector, Transact, Update};

use super::*;

const NOW: u64 = 1_790_000_000_000;
const DAY: u64 = 24 * 3_600_000;

fn map() -> LwwMapRoot {
    LwwMapRoot::new("settings")
}

fn exchange(one: &Doc, other: &Doc) {
    for (from, to) in [(one, other), (other, one)] {
        let update = from.transact().encode_state_as_update_v1(&StateVector::default());
        to.transact_mut().apply_update(Update::decode_v1(&update).unwrap()).unwrap();
    }
}

#[test]
fn newest_write_wins_regardless_of_client_ids() {
    for clients in [[1, 2], [2, 1]] {
        let [one, two] = clients.map(Doc::with_client_id);
        map().set(&mut one.transact_mut(), &mut Hlc::new("a"), NOW + 5, "theme", &"dark".into()).unwrap();
        map().set(&mut two.transact_mut(), &mut Hlc::new("b"), NOW, "theme", &"light".into()).unwrap();
        exchange(&one, &two);
        for doc in [&one, &two] {
            assert_eq!(map().get(&doc.transact(), "theme"), Some("dark".into()));
        }
    }
}

#[test]
fn removal_wins_and_loses_by_its_stamp() {
    let [one, two] = [1, 2].map(Doc::with_client_id);
    let (mut a, mut b) = (Hlc::new("a"), Hlc::new("b"));
    map().set(&mut one.transact_mut(), &mut a, NOW, "k", &1.into()).unwrap();
    exchange(&one, &two);
    assert!(map().remove(&mut one.transact_mut(), &mut a, NOW + 2, "k").is_some());
    map().set(&mut two.transact_mut(), &mut b, NOW + 1, "k", &2.into()).unwrap();
    exchange(&one, &two);
    assert_eq!(map().get(&one.transact(), "k"), None);
    assert_eq!(map().entries(&two.transact()), BTreeMap::new());
    assert_eq!(map().remove(&mut one.transact_mut(), &mut a, NOW + 3, "k"), None);
}

#[test]
fn ties_go_to_the_greater_device_id() {
    let [one, two] = [2, 1].map(Doc::with_client_id);
    map().set(&mut one.transact_mut(), &mut Hlc::new("device-a"), NOW, "k", &"z".into()).unwrap();
    map().set(&mut two.transact_mut(), &mut Hlc::new("device-b"), NOW, "k", &"b".into()).unwrap();
    exchange(&one, &two);
    assert_eq!(map().get(&one.transact(), "k"), Some("b".into()));
    assert_eq!(map().get(&two.transact(), "k"), Some("b".into()));
}

#[test]
fn restamp_corrects_unsent_writes_of_a_clock_a_day_ahead() {
    let [ahead, right] = [1, 2].map(Doc::with_client_id);
    let (mut a, mut b) = (Hlc::new("a"), Hlc::new("b"));
    let stamp = map().set(&mut ahead.transact_mut(), &mut a, NOW + DAY, "k", &"ahead".into()).unwrap();
    let own = [("k".to_owned(), stamp), ("gone".to_owned(), 7)];
    assert_eq!(
        map().restamp(&mut ahead.transact_mut(), "a", &own, -1_000),
        [],
        "an offset of one second is not corrected"
    );
    let done = map().restamp(&mut ahead.transact_mut(), "a", &own, -(DAY as i64));
    a.correct(-(DAY as i64));
    assert_eq!(done, [Restamped { key: "k".to_owned(), from: stamp, to: stamp_of(NOW) }]);
    map().set(&mut right.transact_mut(), &mut b, NOW + 1, "k", &"right".into()).unwrap();
    exchange(&ahead, &right);
    assert_eq!(map().get(&ahead.transact(), "k"), Some("right".into()));
    assert_eq!(a.tick(NOW + 1, None), stamp_of(NOW + 1));
}

#[test]
fn stamp_from_the_far_future_affects_only_its_key() {
    let doc = Doc::with_client_id(1);
    map().set(&mut doc.transact_mut(), &mut Hlc::new("mad"), NOW + 9_000 * DAY, "poisoned", &1.into()).unwrap();
    let mut clock = Hlc::new("sane");
    let other = map().set(&mut doc.transact_mut(), &mut clock, NOW, "other", &1.into()).unwrap();
    assert!(other <= stamp_of(NOW + MAX_DRIFT_MS) + 1);
    map().set(&mut doc.transact_mut(), &mut clock, NOW, "poisoned", &2.into()).unwrap();
    assert_eq!(map().get(&doc.transact(), "poisoned"), Some(2.into()), "a write that has seen the stamp wins over it");
}

#[test]
fn sweep_keeps_winning_writes_and_young_removals() {
    let doc = Doc::with_client_id(1);
    let mut clock = Hlc::new("a");
    map().set(&mut doc.transact_mut(), &mut clock, NOW, "kept", &1.into()).unwrap();
    map().set(&mut doc.transact_mut(), &mut clock, NOW, "old", &1.into()).unwrap();
    map().remove(&mut doc.transact_mut(), &mut clock, NOW, "old");
    map().sweep(&mut doc.transact_mut(), NOW + DAY, 2 * DAY);
    assert_eq!(map().winners(&doc.transact()).len(), 2, "a young removal is kept");
    map().sweep(&mut doc.transact_mut(), NOW + 3 * DAY, 2 * DAY);
    assert_eq!(map().winners(&doc.transact()).len(), 1);
    assert_eq!(map().get(&doc.transact(), "kept"), Some(1.into()));
}

#[test]
fn malformed_entries_are_ignored() {
    let doc = Doc::with_client_id(1);
    let array = doc.get_or_insert_array("settings");
    let mut txn = doc.transact_mut();
    for junk in [Any::Null, Any::from(7), Any::from_json(r#"{"Key":"k","Timestamp":-1,"Value":1}"#).unwrap()] {
        array.push_back(&mut txn, junk);
    }
    assert_eq!(map().winners(&txn), BTreeMap::new());
    assert!(map().set(&mut txn, &mut Hlc::new("a"), NOW, "k", &Value::Integer(i64::MAX)).is_err());
    assert_eq!(array.len(&txn), 3);
}
