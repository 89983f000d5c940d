//! JSON export and import of documents with every kind of content.

use serde_json::{Value, json};
use yrs::types::Attrs;
use yrs::{Any, Array, Doc, Map, MapPrelim, ReadTxn, StateVector, Text, TextPrelim, Transact, XmlElementPrelim};
use yrs::{Xml, XmlFragment, XmlTextPrelim};

use crate::{JsonError, Replica, from_json};

fn json_of(update: Vec<u8>) -> Value {
    let update = bytes::Bytes::from(update);
    Replica::load(std::iter::once(update)).unwrap().to_json().unwrap()
}

fn everything() -> Vec<u8> {
    let doc = Doc::with_client_id(1);
    let (plain, rich) = (doc.get_or_insert_text("plain"), doc.get_or_insert_text("rich"));
    let (map, list) = (doc.get_or_insert_map("map"), doc.get_or_insert_array("list"));
    let xml = doc.get_or_insert_xml_fragment("xml");
    doc.get_or_insert_text("nothing");
    let mut txn = doc.transact_mut();
    plain.insert(&mut txn, 0, "a😀b");
    rich.insert(&mut txn, 0, "normal ");
    let bold = Attrs::from([("bold".into(), Any::Bool(true))]);
    rich.insert_with_attributes(&mut txn, 7, "bold", bold);
    rich.insert_embed_with_attributes(&mut txn, 11, Any::from_json(r#"{"image":"a.png"}"#).unwrap(), Attrs::new());
    map.insert(&mut txn, "number", 1.5);
    map.insert(&mut txn, "bytes", Any::Buffer(vec![1, 2, 255].into()));
    map.insert(&mut txn, "$money", 3);
    map.insert(&mut txn, "value", Any::from_json(r#"{"a":[1,null,true]}"#).unwrap());
    map.insert(&mut txn, "endless", f64::INFINITY);
    map.insert(&mut txn, "undefined", Any::Undefined);
    map.insert(&mut txn, "text", TextPrelim::new("inner"));
    map.insert(&mut txn, "map", MapPrelim::from([("deep", "down")]));
    list.insert_range(&mut txn, 0, [Any::from("a string"), Any::from(2)]);
    list.push_back(&mut txn, MapPrelim::from([("done", true)]));
    let paragraph = xml.push_back(&mut txn, XmlElementPrelim::empty("p"));
    paragraph.insert_attribute(&mut txn, "align", "left");
    paragraph.insert_attribute(&mut txn, "level", Any::from(2));
    paragraph.push_back(&mut txn, XmlTextPrelim::new("hello"));
    xml.push_back(&mut txn, XmlElementPrelim::empty("br"));
    txn.encode_state_as_update_v1(&StateVector::default())
}

fn everything_as_json() -> Value {
    json!({
        "plain": { "$text": "a😀b" },
        "rich": { "$delta": [
            { "insert": "normal " },
            { "insert": "bold", "attributes": { "bold": true } },
            { "insert": { "image": "a.png" } },
        ] },
        "map": {
            "number": 1.5,
            "bytes": { "$bytes": "AQL/" },
            "$$money": 3,
            "value": { "a": [1, null, true] },
            "endless": { "$number": "inf" },
            "undefined": { "$undefined": true },
            "text": { "$text": "inner" },
            "map": { "deep": "down" },
        },
        "list": ["a string", 2, { "done": true }],
        "xml": { "$xml": [
            { "$element": "p", "attributes": { "align": "left", "level": 2 }, "children": [{ "$text": "hello" }] },
            { "$element": "br", "children": [] },
        ] },
    })
}

#[test]
fn root_types_are_inferred_from_their_content() {
    assert_eq!(json_of(everything()), everything_as_json());
}

#[test]
fn imported_json_exports_as_the_same_json() {
    let update = from_json(&everything_as_json(), 7).unwrap();
    assert_eq!(json_of(update.to_vec()), everything_as_json());
    // Objects become shared types that can be edited concurrently: the plain value is a `YMap` now.
    let replica = Replica::load(std::iter::once(update)).unwrap();
    let txn = replica.crdt.doc.transact();
    let map = txn.get_map("map").unwrap();
    assert!(matches!(map.get(&txn, "value"), Some(yrs::Out::YMap(_))));
}

#[test]
fn top_level_string_becomes_a_text() {
    let update = from_json(&json!({ "title": "Hello" }), 7).unwrap();
    assert_eq!(json_of(update.to_vec()), json!({ "title": { "$text": "Hello" } }));
}

#[test]
fn import_error_names_the_path_and_the_cause() {
    for (json, expected) in [
        (json!([1]), "must be an object"),
        (json!({ "a": 1 }), "a: a top-level value must be"),
        (json!({ "a": { "b": { "$bytes": "?" } } }), "a.b: invalid base64"),
        (json!({ "a": { "b": [{ "$what": 1 }] } }), "\"$what\" is not allowed"),
        (json!({ "a": { "$delta": [{ "retain": 1 }] } }), "a.0: an entry of a delta"),
        (json!({ "a": { "$xml": [{ "b": 1 }] } }), "a.0: an XML node must be"),
    ] {
        let error = from_json(&json, 7).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn document_too_deep_for_json_is_refused() {
    let doc = Doc::with_client_id(1);
    let mut map = doc.get_or_insert_map("map");
    let mut txn = doc.transact_mut();
    for _ in 0..200 {
        map = map.insert(&mut txn, "m", MapPrelim::default());
    }
    let update = txn.encode_state_as_update_v1(&StateVector::default());
    let replica = Replica::load(std::iter::once(update.into())).unwrap();
    assert_eq!(replica.to_json(), Err(JsonError::TooDeep));
}
