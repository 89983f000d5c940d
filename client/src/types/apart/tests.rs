//! Two replicas of one base, edited concurrently.

use yrs::updates::decoder::Decode;
use yrs::{Any, Array, Map, MapPrelim, MapRef, Options, StateVector, Text, TransactionMut, Update, WriteTxn};

use super::super::choice::{ChoiceRegister, Signature};
use super::super::clock::Hlc;
use super::super::register::{RegisterState, RegisterWrite};
use super::*;

type Edit<'a> = &'a dyn Fn(&mut TransactionMut<'_>);

fn copy(doc: &Doc, client: u64) -> Doc {
    let copy = Doc::with_options(Options {
        offset_kind: yrs::OffsetKind::Utf16,
        ..Options::with_client_id(yrs::ClientID::new(client))
    });
    let update = yrs::ReadTxn::encode_state_as_update_v1(&doc.transact(), &StateVector::default());
    copy.transact_mut().apply_update(Update::decode_v1(&update).unwrap()).unwrap();
    copy
}

fn overlaps(base: Edit<'_>, mine: Edit<'_>, theirs: Edit<'_>) -> Vec<Overlap> {
    let docs = [1, 2, 3].map(|client| copy(&Doc::with_client_id(9), client));
    base(&mut docs[0].transact_mut());
    let (one, other) = (copy(&docs[0], 2), copy(&docs[0], 3));
    mine(&mut one.transact_mut());
    theirs(&mut other.transact_mut());
    let found = both_changed(&docs[0], &one, &other);
    // The result is the same for documents loaded from updates, whose root types are unknown.
    assert_eq!(both_changed(&copy(&docs[0], 4), &copy(&one, 5), &copy(&other, 6)), found);
    found
}

fn keys(path: &[&str]) -> Vec<PathStep> {
    path.iter().map(|key| PathStep::Key((*key).to_owned())).collect()
}

fn nested(txn: &mut TransactionMut<'_>) -> MapRef {
    let map = txn.get_or_insert_map("map");
    match map.get(txn, "inner") {
        Some(yrs::Out::YMap(inner)) => inner,
        _ => map.insert(txn, "inner", MapPrelim::default()),
    }
}

#[test]
fn keys_set_by_both_are_found_with_their_paths() {
    let base = |txn: &mut TransactionMut<'_>| {
        let inner = nested(txn);
        for key in ["both", "mine", "alike"] {
            inner.insert(txn, key, 0);
        }
    };
    let edit = |other: &'static str, value: i32| {
        move |txn: &mut TransactionMut<'_>| {
            let inner = nested(txn);
            inner.insert(txn, "both", value);
            inner.insert(txn, "alike", 7);
            inner.insert(txn, other, 1);
        }
    };
    let alike = Overlap { path: keys(&["map", "inner", "alike"]), place: Place::Key, alike: true };
    let both = Overlap { path: keys(&["map", "inner", "both"]), place: Place::Key, alike: false };
    assert_eq!(overlaps(&base, &edit("mine", 1), &edit("theirs", 2)), [alike, both]);
}

#[test]
fn texts_overlap_only_where_changes_touch() {
    let base = |txn: &mut TransactionMut<'_>| txn.get_or_insert_text("text").push(txn, "\u{1f600} one two three");
    let insert = |at: u32, chunk: &'static str| {
        move |txn: &mut TransactionMut<'_>| txn.get_or_insert_text("text").insert(txn, at, chunk)
    };
    assert_eq!(overlaps(&base, &insert(3, "x"), &insert(13, "y")), []);
    let found = overlaps(&base, &insert(6, "x"), &insert(6, "y"));
    assert_eq!(found, [Overlap { path: keys(&["text"]), place: Place::Text(6..6), alike: false }]);
    let remove = |txn: &mut TransactionMut<'_>| txn.get_or_insert_text("text").remove_range(txn, 3, 8);
    let found = overlaps(&base, &remove, &insert(8, "y"));
    assert_eq!(found, [Overlap { path: keys(&["text"]), place: Place::Text(3..11), alike: false }]);
    let bold = |txn: &mut TransactionMut<'_>| {
        let bold = yrs::types::Attrs::from([("b".into(), Any::Bool(true))]);
        txn.get_or_insert_text("text").format(txn, 3, 3, bold);
    };
    let found = overlaps(&base, &bold, &insert(4, "y"));
    assert_eq!(found, [Overlap { path: keys(&["text"]), place: Place::Text(3..6), alike: false }]);
}

#[test]
fn array_elements_and_nested_types_are_found() {
    let base = |txn: &mut TransactionMut<'_>| {
        let array = txn.get_or_insert_array("array");
        array.insert_range(txn, 0, [1, 2, 3]);
        array.push_back(txn, MapPrelim::from([("k", 0)]));
    };
    let put = |index: u32, value: i32| {
        move |txn: &mut TransactionMut<'_>| {
            let array = txn.get_or_insert_array("array");
            array.remove(txn, index);
            array.insert(txn, index, value);
        }
    };
    assert_eq!(overlaps(&base, &put(0, 8), &put(2, 9)), []);
    let found = overlaps(&base, &put(1, 8), &put(1, 9));
    assert_eq!(found, [Overlap { path: keys(&["array"]), place: Place::Elements(1..2), alike: false }]);
    let inside = |value: i32| {
        move |txn: &mut TransactionMut<'_>| {
            let array = txn.get_or_insert_array("array");
            array.insert(txn, 0, value);
            let Some(yrs::Out::YMap(map)) = array.get(txn, 4) else { panic!("the map moved") };
            map.insert(txn, "k", value);
        }
    };
    let path = vec![PathStep::Key("array".to_owned()), PathStep::Index(3), PathStep::Key("k".to_owned())];
    assert_eq!(
        overlaps(&base, &inside(8), &inside(9)),
        [
            Overlap { path: keys(&["array"]), place: Place::Elements(0..0), alike: false },
            Overlap { path, place: Place::Key, alike: false },
        ]
    );
}

#[test]
fn registers_lww_maps_and_choices_are_reported_by_name() {
    let register = |author: &'static str| {
        move |txn: &mut TransactionMut<'_>| {
            let write = RegisterWrite {
                id: author.to_owned(),
                based_on: None,
                value: Any::from(1),
                author: author.to_owned(),
                at_ms: 1,
            };
            let state = RegisterState::accept(None, &write).unwrap();
            txn.get_or_insert_map(REGISTERS_ROOT).insert(txn, "price", state.to_any());
        }
    };
    let found = overlaps(&|_| {}, &register("a"), &register("b"));
    assert_eq!(found, [Overlap { path: keys(&[REGISTERS_ROOT, "price"]), place: Place::Register, alike: false }]);

    let lww = |device: &'static str, key: &'static str| {
        move |txn: &mut TransactionMut<'_>| {
            LwwMapRoot::new("lww").set(txn, &mut Hlc::new(device), 5, key, &device.into()).unwrap();
        }
    };
    let found = overlaps(&|_| {}, &lww("a", "k"), &lww("b", "k"));
    assert_eq!(found, [Overlap { path: keys(&["lww", "k"]), place: Place::Key, alike: false }]);
    assert_eq!(overlaps(&|_| {}, &lww("a", "k"), &lww("b", "other")), [], "different keys of one map");

    let choice = |id: u64| {
        move |txn: &mut TransactionMut<'_>| {
            let signature = Signature { id: format!("{id:026}"), author: "a".to_owned(), at_ms: 1 };
            ChoiceRegister::new("choice").write(txn, &(id as i64).into(), &signature).unwrap();
        }
    };
    let found = overlaps(&choice(1), &choice(2), &choice(3));
    assert_eq!(found, [Overlap { path: keys(&["choice"]), place: Place::Choice, alike: false }]);
}
