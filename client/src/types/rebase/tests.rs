//! A base, our changes, and an unrelated history with the same content as the base.

use yrs::updates::decoder::Decode;
use yrs::{
    Any, GetString, MapPrelim, Out, ReadTxn, StateVector, Text, TextPrelim, Update, WriteTxn, XmlElementPrelim,
    XmlFragment, XmlTextPrelim,
};

use super::super::choice::Signature;
use super::super::clock::Hlc;
use super::*;

type Edit<'a> = &'a dyn Fn(&mut TransactionMut<'_>);

/// `base` is created twice, by unrelated clients; `mine` edits one copy, `theirs` the other.
struct Case {
    base: Doc,
    mine: Doc,
    onto: Doc,
}

impl Case {
    fn new(base: Edit<'_>, mine: Edit<'_>, theirs: Edit<'_>) -> Self {
        let docs = Self { base: doc(1), mine: doc(2), onto: doc(3) };
        base(&mut docs.base.transact_mut());
        let update = docs.base.transact().encode_state_as_update_v1(&StateVector::default());
        docs.mine.transact_mut().apply_update(Update::decode_v1(&update).unwrap()).unwrap();
        mine(&mut docs.mine.transact_mut());
        base(&mut docs.onto.transact_mut());
        theirs(&mut docs.onto.transact_mut());
        docs
    }

    fn run(&self) -> RebaseReport {
        let report = rebase(&self.base, &self.mine, &mut self.onto.transact_mut());
        let again = rebase(&self.base, &self.mine, &mut self.onto.transact_mut());
        assert_eq!(again.changes, 0, "a second rebase changes nothing");
        report
    }

    fn text(&self) -> String {
        let txn = self.onto.transact();
        txn.get_text("text").unwrap().get_string(&txn)
    }

    fn value(&self, root: &str) -> Value {
        read(&self.onto.transact()).keys[root].to_value()
    }
}

fn doc(client: u64) -> Doc {
    // Byte offsets, yrs' default, are the harder case: they must not be confused with UTF-16 offsets.
    Doc::with_client_id(client)
}

fn json(text: &str) -> Value {
    Value::from_json(text).unwrap()
}

fn text(start: u32, deleted: u32, inserted: &'static str) -> impl Fn(&mut TransactionMut<'_>) {
    move |txn| {
        let text = txn.get_or_insert_text("text");
        text.remove_range(txn, start, deleted);
        text.insert(txn, start, inserted);
    }
}

#[test]
fn text_changes_find_their_place_and_common_changes_apply_once() {
    let base = text(0, 0, "\u{1f600} one two three");
    let case = Case::new(&base, &text(9, 3, "2"), &text(0, 0, "well, "));
    assert_eq!(case.run(), RebaseReport { changes: 1, ..RebaseReport::default() });
    assert_eq!(case.text(), "well, \u{1f600} one 2 three");

    let case = Case::new(&base, &text(18, 0, " four five"), &text(18, 0, " four"));
    case.run();
    assert_eq!(case.text(), "\u{1f600} one two three four five");

    let case = Case::new(&base, &text(9, 3, "2"), &text(9, 3, "II"));
    let report = rebase(&case.base, &case.mine, &mut case.onto.transact_mut());
    assert_eq!(case.text(), "\u{1f600} one II 2 three");
    assert_eq!(report.conflicts[0].mine, Some("2".into()));
    assert_eq!(report.conflicts[0].theirs, Some("II".into()));
}

#[test]
fn formats_and_embeds_are_rebased() {
    let bold = || yrs::types::Attrs::from([("b".into(), Any::Bool(true))]);
    let mine = |txn: &mut TransactionMut<'_>| {
        let text = txn.get_or_insert_text("text");
        text.format(txn, 4, 3, bold());
        text.insert_embed(txn, 0, Any::from("picture"));
        text.insert_with_attributes(txn, 1, "new ", bold());
    };
    let case = Case::new(&text(0, 0, "one two"), &mine, &text(7, 0, "!"));
    rebase(&case.base, &case.mine, &mut case.onto.transact_mut());
    let txn = case.onto.transact();
    let chunks: Vec<_> = txn
        .get_text("text")
        .unwrap()
        .diff(&txn, yrs::types::text::YChange::identity)
        .into_iter()
        .map(|chunk| (chunk.insert.to_string(&txn), chunk.attributes.is_some()))
        .collect();
    let expected = [("picture", false), ("new ", true), ("one ", false), ("two", true), ("!", false)];
    assert_eq!(chunks, expected.map(|(text, bold)| (text.to_owned(), bold)));
}

#[test]
fn keys_are_merged_three_ways() {
    let set = |pairs: &'static [(&'static str, i32)]| {
        move |txn: &mut TransactionMut<'_>| {
            let map = txn.get_or_insert_map("map");
            for (key, value) in pairs {
                if *value < 0 {
                    map.remove(txn, key);
                } else {
                    map.insert(txn, *key, *value);
                }
            }
        }
    };
    let base = set(&[("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1)]);
    let mine = set(&[("a", 2), ("b", -1), ("c", -1), ("d", 2), ("new", 1)]);
    let theirs = set(&[("c", 3), ("d", 3), ("e", 3)]);
    let case = Case::new(&base, &mine, &theirs);
    let report = rebase(&case.base, &case.mine, &mut case.onto.transact_mut());
    assert_eq!(case.value("map"), json(r#"{"a":2,"c":3,"d":2,"e":3,"new":1}"#));
    let conflict = |key: &str, mine, theirs| RebaseConflict {
        path: vec![PathStep::Key("map".to_owned()), PathStep::Key(key.to_owned())],
        mine,
        theirs,
    };
    assert_eq!(report.conflicts, [conflict("c", None, Some(3.into())), conflict("d", Some(2.into()), Some(3.into()))]);
}

#[test]
fn nested_types_change_in_place_and_new_ones_are_copied() {
    let base = |txn: &mut TransactionMut<'_>| {
        let map = txn.get_or_insert_map("map");
        let inner = map.insert(txn, "inner", MapPrelim::from([("k", 1)]));
        inner.insert(txn, "text", TextPrelim::new("one two"));
    };
    let inner = |txn: &mut TransactionMut<'_>| match txn.get_or_insert_map("map").get(txn, "inner") {
        Some(Out::YMap(inner)) => inner,
        _ => panic!("no inner map"),
    };
    let mine = |txn: &mut TransactionMut<'_>| {
        let Some(Out::YText(text)) = inner(txn).get(txn, "text") else { panic!("no text") };
        text.insert(txn, 0, "zero ");
        let new = txn.get_or_insert_map("map").insert(txn, "new", MapPrelim::from([("x", 1)]));
        new.insert(txn, "deep", TextPrelim::new("deep"));
    };
    let theirs = |txn: &mut TransactionMut<'_>| {
        inner(txn).insert(txn, "k", 2);
    };
    let case = Case::new(&base, &mine, &theirs);
    assert!(case.run().conflicts.is_empty());
    let expected = r#"{"inner":{"k":2,"text":"zero one two"},"new":{"x":1,"deep":"deep"}}"#;
    assert_eq!(case.value("map"), json(expected));
}

#[test]
fn arrays_merge_by_element_and_maps_in_them_by_key() {
    let base = |txn: &mut TransactionMut<'_>| {
        let array = txn.get_or_insert_array("array");
        array.insert_range(txn, 0, [1, 2, 3]);
        array.push_back(txn, MapPrelim::from([("done", false), ("star", false)]));
        array.push_back(txn, MapPrelim::from([("done", false)]));
    };
    let mark = |index: u32, key: &'static str| {
        move |txn: &mut TransactionMut<'_>| {
            let Some(Out::YMap(map)) = txn.get_or_insert_array("array").get(txn, index) else { panic!("no map") };
            map.insert(txn, key, true);
        }
    };
    let mine = |txn: &mut TransactionMut<'_>| {
        mark(3, "done")(txn);
        let array = txn.get_or_insert_array("array");
        array.remove(txn, 1);
        array.push_back(txn, 9);
    };
    let theirs = |txn: &mut TransactionMut<'_>| {
        mark(3, "star")(txn);
        let array = txn.get_or_insert_array("array");
        array.insert(txn, 0, 0);
        array.push_back(txn, 9);
    };
    let case = Case::new(&base, &mine, &theirs);
    assert!(case.run().conflicts.is_empty());
    let expected = r#"[0,1,3,{"done":true,"star":true},{"done":false},9]"#;
    assert_eq!(case.value("array"), json(expected));
}

#[test]
fn xml_changes_in_place() {
    let base = |txn: &mut TransactionMut<'_>| {
        let root = txn.get_or_insert_xml_fragment("xml");
        let paragraph = root.push_back(txn, XmlElementPrelim::empty("p"));
        paragraph.push_back(txn, XmlTextPrelim::new("hello world"));
    };
    let mine = |txn: &mut TransactionMut<'_>| {
        let root = txn.get_or_insert_xml_fragment("xml");
        let Some(yrs::XmlOut::Element(paragraph)) = root.get(txn, 0) else { panic!("no paragraph") };
        yrs::Xml::insert_attribute(&paragraph, txn, "class", "x");
        let Some(yrs::XmlOut::Text(text)) = paragraph.get(txn, 0) else { panic!("no text") };
        text.insert(txn, 5, ",");
        root.push_back(txn, XmlElementPrelim::empty("hr"));
    };
    let case = Case::new(&base, &mine, &|_| {});
    assert!(case.run().conflicts.is_empty());
    let txn = case.onto.transact();
    let xml = txn.get_xml_fragment("xml").unwrap().get_string(&txn);
    assert_eq!(xml, r#"<p class="x">hello, world</p><hr></hr>"#);
}

#[test]
fn offline_types_merge_by_their_own_rules() {
    let base = |txn: &mut TransactionMut<'_>| {
        CounterRoot::new("likes").increment(txn, 5).unwrap();
        LwwMapRoot::new("lww").set(txn, &mut Hlc::new("a"), 10, "k", &1.into()).unwrap();
        sign(txn, 1);
    };
    let mine = |txn: &mut TransactionMut<'_>| {
        CounterRoot::new("likes").increment(txn, 2).unwrap();
        let mut clock = Hlc::new("b");
        LwwMapRoot::new("lww").set(txn, &mut clock, 30, "k", &2.into()).unwrap();
        LwwMapRoot::new("lww").set(txn, &mut clock, 30, "old", &2.into()).unwrap();
        sign(txn, 2);
        txn.get_or_insert_map(REGISTERS_ROOT).insert(txn, "price", 1);
    };
    let theirs = |txn: &mut TransactionMut<'_>| {
        CounterRoot::new("likes").increment(txn, 100).unwrap();
        LwwMapRoot::new("lww").set(txn, &mut Hlc::new("c"), 20, "k", &3.into()).unwrap();
        LwwMapRoot::new("lww").set(txn, &mut Hlc::new("c"), 40, "old", &3.into()).unwrap();
        sign(txn, 3);
    };
    let case = Case::new(&base, &mine, &theirs);
    let report = rebase(&case.base, &case.mine, &mut case.onto.transact_mut());
    assert_eq!(report.skipped, [[PathStep::Key(REGISTERS_ROOT.to_owned())]]);
    let txn = case.onto.transact();
    assert_eq!(CounterRoot::new("likes").value(&txn), Ok(107));
    assert_eq!(LwwMapRoot::new("lww").get(&txn, "k"), Some(2.into()));
    assert_eq!(LwwMapRoot::new("lww").get(&txn, "old"), Some(3.into()));
    let versions = ChoiceRegister::new("title").versions(&txn);
    assert_eq!(versions.into_iter().map(|version| version.value).collect::<Vec<_>>(), [2.into(), 3.into()]);
}

fn sign(txn: &mut TransactionMut<'_>, id: i64) {
    let signature = Signature { id: format!("{id:026}"), author: "ann".to_owned(), at_ms: 1 };
    ChoiceRegister::new("title").write(txn, &id.into(), &signature).unwrap();
}
