//! The documents in `tests/fixtures/types`: this code writes the committed bytes, and reads documents written by npm
//! packages correctly. `tests/node/types.test.mjs` tests the other direction. `SYNCLINE_WRITE_FIXTURES=1` rewrites them.

#![allow(clippy::unwrap_used, reason = "test helpers")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use syncline_client::types::choice::Signature;
use syncline_client::types::register::REGISTERS_ROOT;
use syncline_client::types::{
    ChoiceRegister, CounterRoot, Hlc, LwwMapRoot, RegisterState, RegisterWrite, Value, registers,
};
use syncline_client::yrs::updates::decoder::Decode;
use syncline_client::yrs::{Any, Doc, Map, ReadTxn, StateVector, Transact, TransactionMut, Update, WriteTxn};

const NOW: u64 = 1_790_000_000_000;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/types").join(name)
}

fn json(text: &str) -> Value {
    Value::from_json(text).unwrap()
}

/// Merges the concurrent edits of two replicas.
fn merged(one: impl Fn(&mut TransactionMut<'_>), other: impl Fn(&mut TransactionMut<'_>)) -> Doc {
    let docs = [11, 22].map(Doc::with_client_id);
    one(&mut docs[0].transact_mut());
    other(&mut docs[1].transact_mut());
    let update = docs[1].transact().encode_state_as_update_v1(&StateVector::default());
    docs[0].transact_mut().apply_update(Update::decode_v1(&update).unwrap()).unwrap();
    let [doc, _] = docs;
    doc
}

fn lww_map() -> Doc {
    let map = LwwMapRoot::new("settings");
    let values = json(r#"{"l":[1,"two",null],"n":-1.5,"t":"Gr\u00fc\u00dfe \ud83d\ude00","y":true}"#);
    let one = |txn: &mut TransactionMut<'_>| {
        let mut clock = Hlc::new("device-a");
        map.set(txn, &mut clock, NOW + 5, "theme", &"dark".into()).unwrap();
        map.set(txn, &mut clock, NOW, "tie", &"a".into()).unwrap();
        map.set(txn, &mut clock, NOW, "values", &values).unwrap();
        map.set(txn, &mut clock, NOW, "bytes", &Value::Bytes(vec![0, 1, 255])).unwrap();
        map.set(txn, &mut clock, NOW, "gone", &1.into()).unwrap();
        map.remove(txn, &mut clock, NOW + 9, "gone").unwrap();
    };
    let other = |txn: &mut TransactionMut<'_>| {
        map.set(txn, &mut Hlc::new("device-b"), NOW, "theme", &"light".into()).unwrap();
        // The same stamp as device-a's second write: the greater device id wins.
        let mut clock = Hlc::new("device-b");
        clock.tick(NOW + 5, None);
        map.set(txn, &mut clock, NOW, "tie", &"b".into()).unwrap();
        map.set(txn, &mut Hlc::new("device-b"), NOW + 8, "gone", &2.into()).unwrap();
    };
    merged(one, other)
}

fn counter() -> Doc {
    let (likes, views) = (CounterRoot::new("likes"), CounterRoot::within("post", "views"));
    let one = |txn: &mut TransactionMut<'_>| {
        likes.increment(txn, 7).unwrap();
        views.increment(txn, 1 << 40).unwrap();
        txn.get_or_insert_map("post").insert(txn, "title", "hello");
    };
    let other = |txn: &mut TransactionMut<'_>| {
        likes.increment(txn, -9).unwrap();
        views.increment(txn, 1).unwrap();
    };
    merged(one, other)
}

fn sign(number: u64, author: &str) -> Signature {
    Signature { id: format!("01JZ0000000000000000{number:06}"), author: author.to_owned(), at_ms: NOW + number }
}

fn choice() -> Doc {
    let register = ChoiceRegister::new("title");
    let one = |txn: &mut TransactionMut<'_>| {
        register.write(txn, &"draft".into(), &sign(1, "ann")).unwrap();
        register.write(txn, &"A".into(), &sign(2, "ann")).unwrap();
    };
    let other = |txn: &mut TransactionMut<'_>| {
        // The same write sent again by another replica: it stays superseded.
        register.write(txn, &"draft".into(), &sign(1, "ann")).unwrap();
    };
    let doc = merged(one, other);
    let third = Doc::with_client_id(33);
    register.write(&mut third.transact_mut(), &json(r#"{"b":[1]}"#), &sign(3, "bob")).unwrap();
    let update = third.transact().encode_state_as_update_v1(&StateVector::default());
    doc.transact_mut().apply_update(Update::decode_v1(&update).unwrap()).unwrap();
    doc
}

fn register() -> Doc {
    let write = |id: u64, based_on, value: Any| {
        let Signature { id, author, at_ms } = sign(id, "ann");
        RegisterWrite { id, based_on, value, author, at_ms }
    };
    let first = RegisterState::accept(None, &write(1, None, Any::from(10))).unwrap();
    let second = first.next(&write(2, Some((1, first.id.clone())), Any::from("twelve"))).unwrap();
    let doc = Doc::with_client_id(11);
    doc.get_or_insert_map(REGISTERS_ROOT).insert(&mut doc.transact_mut(), "price", second.to_any());
    doc
}

/// Returns the content of a document, as in `expected.json`.
fn content(name: &str, doc: &Doc) -> serde_json::Value {
    let txn = doc.transact();
    let value = |value: &Value| value.to_json_value().unwrap();
    match name {
        "lww-map" => {
            let winners = LwwMapRoot::new("settings").winners(&txn).into_iter().map(|(key, entry)| {
                let shown = entry
                    .value
                    .as_ref()
                    .map_or_else(|| serde_json::json!({}), |shown| serde_json::json!({ "value": value(shown) }));
                let serde_json::Value::Object(mut object) = shown else { unreachable!() };
                object.insert("stamp".to_owned(), entry.stamp.into());
                object.insert("device".to_owned(), entry.device.into());
                (key, serde_json::Value::Object(object))
            });
            serde_json::Value::Object(winners.collect())
        }
        "counter" => serde_json::json!({
            "likes": CounterRoot::new("likes").value(&txn).unwrap(),
            "post/views": CounterRoot::within("post", "views").value(&txn).unwrap(),
        }),
        "choice" => ChoiceRegister::new("title")
            .versions(&txn)
            .iter()
            .map(|version| {
                let Signature { id, author, at_ms } = &version.signature;
                serde_json::json!({ "id": id, "author": author, "at": at_ms, "value": value(&version.value) })
            })
            .collect(),
        _ => {
            let all = registers::read_all(&txn).into_iter().map(|(name, state)| {
                let RegisterState { value: current, version, id, author, at_ms, recent_ids } = state;
                let current = value(&Value::from_any(&current));
                let state = serde_json::json!({
                    "value": current, "version": version, "id": id, "author": author, "at": at_ms, "ids": recent_ids,
                });
                (name, state)
            });
            serde_json::Value::Object(all.collect())
        }
    }
}

fn load(name: &str) -> Doc {
    let doc = Doc::with_client_id(1);
    doc.transact_mut().apply_update(decode(&std::fs::read(path(name)).unwrap())).unwrap();
    doc
}

fn decode(bytes: &[u8]) -> Update {
    Update::decode_v1(bytes).unwrap()
}

#[test]
fn code_writes_the_committed_documents() {
    let created = [("lww-map", lww_map()), ("counter", counter()), ("choice", choice()), ("register", register())];
    let contents: BTreeMap<&str, _> = created.iter().map(|(name, doc)| (*name, content(name, doc))).collect();
    let expected = serde_json::to_string_pretty(&contents).unwrap() + "\n";
    if std::env::var("SYNCLINE_WRITE_FIXTURES").is_ok() {
        for (name, doc) in &created {
            let update = doc.transact().encode_state_as_update_v1(&StateVector::default());
            std::fs::write(path(&format!("{name}.bin")), update).unwrap();
        }
        std::fs::write(path("expected.json"), &expected).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path("expected.json")).unwrap(), expected);
    for (name, doc) in &created {
        let committed = std::fs::read(path(&format!("{name}.bin"))).unwrap();
        let today = doc.transact().encode_state_as_update_v1(&StateVector::default());
        // Not the bytes: the order of keys in a plain map is not defined.
        assert_eq!(committed.len(), today.len(), "{name}");
        assert!(decode(&committed) == decode(&today), "{name}");
        assert_eq!(content(name, &load(&format!("{name}.bin"))), contents[name], "{name}");
    }
}

#[test]
fn documents_written_by_npm_are_read() {
    let expected: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(&std::fs::read_to_string(path("by-npm.json")).unwrap()).unwrap();
    assert_eq!(expected.len(), 3);
    for (name, expected) in expected {
        let doc = load(&format!("{name}.by-npm.bin"));
        assert_eq!(content(&name, &doc), expected, "{name}");
    }
}

#[test]
fn map_written_by_y_lwwmap_is_read_and_edited() {
    let doc = load("lww-map.by-y-lwwmap.bin");
    let map = LwwMapRoot::new("settings");
    let shown: serde_json::Map<_, _> =
        map.entries(&doc.transact()).into_iter().map(|(key, value)| (key, value.to_json_value().unwrap())).collect();
    let expected = serde_json::json!({
        "theme": "dark", "n": -1.5, "list": [1, "two", null], "bytes": { "$bytes": "AAH/" }, "nested": "in a Y.Text",
    });
    assert_eq!(serde_json::Value::Object(shown), expected);
    assert_eq!(map.winner(&doc.transact(), "gone").unwrap().value, None);
    // The clock of `y-lwwmap` was equal to ours or ahead: a write that has seen its entries wins anyway.
    map.set(&mut doc.transact_mut(), &mut Hlc::new("device-a"), NOW - 1_000_000, "theme", &"light".into()).unwrap();
    assert_eq!(map.get(&doc.transact(), "theme"), Some("light".into()));
}
