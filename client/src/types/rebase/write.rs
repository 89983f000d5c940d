//! Copies parts of one document's tree into another document.

use std::collections::BTreeSet;
use std::sync::Arc;

use yrs::block::{EmbedPrelim, Prelim};
use yrs::branch::{Branch, BranchPtr};
use yrs::types::Attrs;
use yrs::{
    Any, Array, ArrayPrelim, ArrayRef, Doc, Map, MapPrelim, MapRef, OffsetKind, Options, Text, TextPrelim, TextRef,
    TransactionMut, WriteTxn, XmlElementPrelim, XmlFragmentPrelim, XmlTextPrelim,
};

use super::super::text_merge::trim;
use super::super::tree::{Content, Formats, Items, Kind, Node, Shared, Token};
use super::super::value::Value;
use super::kind_to_create;

/// The place where a copy is inserted.
enum Slot<'a> {
    Key(&'a MapRef, &'a str),
    Element(&'a ArrayRef, u32),
    Embed(&'a TextRef, u32, Attrs),
}

/// Returns the root of this name; creates it with the type of `like` if it does not exist.
pub(super) fn root_branch(txn: &mut TransactionMut<'_>, name: &str, like: &Shared) -> BranchPtr {
    fn pointer(branch: impl AsRef<Branch>) -> BranchPtr {
        BranchPtr::from(branch.as_ref())
    }
    match kind_to_create(like) {
        Kind::Text | Kind::XmlText => pointer(txn.get_or_insert_text(name)),
        Kind::Array => pointer(txn.get_or_insert_array(name)),
        Kind::Fragment | Kind::Element(_) => pointer(txn.get_or_insert_xml_fragment(name)),
        Kind::Map | Kind::Unknown => pointer(txn.get_or_insert_map(name)),
    }
}

/// Sets a key to a copy of `node`; returns false if it cannot be copied.
pub(super) fn put_key(txn: &mut TransactionMut<'_>, map: &MapRef, key: &str, node: &Node) -> bool {
    put(txn, Slot::Key(map, key), node)
}

/// Inserts a copy of `node`; returns false if it cannot be copied.
pub(super) fn insert_element(txn: &mut TransactionMut<'_>, array: &ArrayRef, at: u32, node: &Node) -> bool {
    put(txn, Slot::Element(array, at), node)
}

/// Replaces `old` at `at` by copies of `new` with as small a change as possible; returns false if a token cannot be
/// copied.
pub(super) fn insert_tokens(
    txn: &mut TransactionMut<'_>,
    live: BranchPtr,
    kind: OffsetKind,
    at: u32,
    old: &[Token],
    new: &[Token],
) -> bool {
    let text = TextRef::from(live);
    let plain = |token: &Token| {
        matches!(token.content, Content::Word(_)) && token.formats.iter().all(|formats| formats.is_empty())
    };
    if old.iter().chain(new).all(plain) {
        let [old, new] = [old, new].map(|tokens| tokens.iter().map(Token::word).collect::<String>());
        let (head, gone, inserted) = trim(&old, &new);
        let at = at + count(head, kind);
        text.remove_range(txn, at, count(gone, kind));
        insert_run(txn, &text, at, inserted, &Formats::new());
        return true;
    }
    text.remove_range(txn, at, old.iter().map(|token| len(token, kind)).sum());
    new.iter()
        .fold((at, true), |(at, done), token| {
            (at + len(token, kind), insert_token(txn, &text, kind, at, token) && done)
        })
        .1
}

fn insert_token(txn: &mut TransactionMut<'_>, text: &TextRef, kind: OffsetKind, mut at: u32, token: &Token) -> bool {
    match &token.content {
        Content::Embed(node) => {
            let formats = token.formats.first().map(|formats| attributes(formats)).unwrap_or_default();
            // Insert a placeholder, or all later positions would be off by one.
            put(txn, Slot::Embed(text, at, formats.clone()), node)
                || !put(txn, Slot::Embed(text, at, formats), &Node::Value(Value::Null))
        }
        Content::Word(word) => {
            let mut letters = word.chars().zip(&token.formats).peekable();
            while let Some((letter, formats)) = letters.next() {
                let mut run = String::from(letter);
                while let Some((letter, _)) = letters.next_if(|(_, others)| *others == formats) {
                    run.push(letter);
                }
                insert_run(txn, text, at, &run, formats);
                at += count(&run, kind);
            }
            true
        }
    }
}

fn insert_run(txn: &mut TransactionMut<'_>, text: &TextRef, at: u32, run: &str, formats: &Formats) {
    if run.is_empty() {
    } else if formats.is_empty() {
        text.insert(txn, at, run);
    } else {
        text.insert_with_attributes(txn, at, run, attributes(formats));
    }
}

/// Applies our format changes to words that exist in all three texts.
pub(super) fn set_formats(
    txn: &mut TransactionMut<'_>,
    live: BranchPtr,
    kind: OffsetKind,
    mut at: u32,
    [before, ours, theirs]: [&[Token]; 3],
) {
    let text = TextRef::from(live);
    for ((before, ours), theirs) in before.iter().zip(ours).zip(theirs) {
        let lens: Vec<u32> = match &ours.content {
            Content::Word(word) => word.chars().map(|letter| count(letter.encode_utf8(&mut [0; 4]), kind)).collect(),
            Content::Embed(_) => vec![1],
        };
        for (index, len) in lens.into_iter().enumerate() {
            let [was, is, current] = [before, ours, theirs].map(|token| token.formats.get(index));
            if let (Some(was), Some(is), Some(current)) = (was, is, current) {
                let changed = difference(was, is, current);
                if !changed.is_empty() {
                    text.format(txn, at, len, changed);
                }
            }
            at += len;
        }
    }
}

/// Returns the formats that changed from `was` to `is` and that `current` does not have yet; null removes a format.
fn difference(was: &Formats, is: &Formats, current: &Formats) -> Attrs {
    let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    names
        .into_iter()
        .filter(|name| was.get(*name) != is.get(*name) && current.get(*name) != is.get(*name))
        .map(|name| (Arc::from(name.as_str()), is.get(name).map_or(Any::Null, any)))
        .collect()
}

/// Returns the length of a token in the offset units of the document.
pub(super) fn len(token: &Token, kind: OffsetKind) -> u32 {
    match &token.content {
        Content::Word(word) => count(word, kind),
        Content::Embed(_) => 1,
    }
}

fn count(text: &str, kind: OffsetKind) -> u32 {
    match kind {
        OffsetKind::Bytes => text.len() as u32,
        OffsetKind::Utf16 => super::super::text_merge::utf16(text),
    }
}

fn attributes(formats: &Formats) -> Attrs {
    formats.iter().map(|(name, value)| (Arc::from(name.as_str()), any(value))).collect()
}

/// Converts a value that was read from a document, so it can be written to one.
fn any(value: &Value) -> Any {
    value.to_any().unwrap_or(Any::Null)
}

fn put(txn: &mut TransactionMut<'_>, slot: Slot<'_>, node: &Node) -> bool {
    match node {
        Node::Value(value) => {
            match slot {
                Slot::Key(map, key) => drop(map.insert(txn, key, any(value))),
                Slot::Element(array, at) => drop(array.insert(txn, at, any(value))),
                Slot::Embed(text, at, formats) => drop(text.insert_embed_with_attributes(txn, at, any(value), formats)),
            }
            true
        }
        Node::Doc(guid) => {
            // A subdocument syncs its content under its guid; its client id is replaced when it is loaded.
            let doc = Doc::with_options(Options::with_guid_and_client_id(guid.as_str().into(), txn.doc().client_id()));
            match slot {
                Slot::Key(map, key) => drop(map.insert(txn, key, doc)),
                Slot::Element(array, at) => drop(array.insert(txn, at, doc)),
                Slot::Embed(..) => return false,
            }
            true
        }
        Node::Shared(shared) => {
            let branch = match kind_to_create(shared) {
                Kind::Unknown | Kind::Map => create(txn, slot, MapPrelim::default()),
                Kind::Array => create(txn, slot, ArrayPrelim::default()),
                Kind::Text => create(txn, slot, TextPrelim::new("")),
                Kind::Element(tag) => create(txn, slot, XmlElementPrelim::empty(tag)),
                Kind::Fragment => create(txn, slot, XmlFragmentPrelim::default()),
                Kind::XmlText => create(txn, slot, XmlTextPrelim::new("")),
            };
            fill(txn, branch, shared)
        }
    }
}

fn create<P>(txn: &mut TransactionMut<'_>, slot: Slot<'_>, prelim: P) -> BranchPtr
where
    P: Prelim + Into<EmbedPrelim<P>>,
    P::Return: AsRef<Branch>,
{
    let created = match slot {
        Slot::Key(map, key) => map.insert(txn, key, prelim),
        Slot::Element(array, at) => array.insert(txn, at, prelim),
        Slot::Embed(text, at, formats) => text.insert_embed_with_attributes(txn, at, prelim, formats),
    };
    BranchPtr::from(created.as_ref())
}

fn fill(txn: &mut TransactionMut<'_>, branch: BranchPtr, shared: &Shared) -> bool {
    let map = MapRef::from(branch);
    let mut done = true;
    for (key, node) in &shared.keys {
        done &= put_key(txn, &map, key, node);
    }
    match &shared.items {
        Items::Array(nodes) => {
            let array = ArrayRef::from(branch);
            for node in nodes {
                let end = array.len(txn);
                done &= insert_element(txn, &array, end, node);
            }
        }
        Items::Text(tokens) => {
            let kind = txn.doc().offset_kind();
            done &= insert_tokens(txn, branch, kind, 0, &[], tokens);
        }
    }
    done
}
