//! A document's content as a plain tree, for comparison with another document.
//!
//! A document loaded from updates does not know the types of its roots. Every shared type is therefore read as its
//! underlying parts: entries by key, and a sequence. A sequence of unknown type is a text if it contains any text.

use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

use yrs::branch::{Branch, BranchPtr};
use yrs::types::TypeRef;
use yrs::types::text::YChange;
use yrs::{Any, Array, ArrayRef, GetString, Map, MapRef, Out, ReadTxn, Text, TextRef};

use super::text_merge::words;
use super::value::Value;

/// Types nested deeper than this are read as null, so they all compare equal.
const MAX_DEPTH: usize = 256;

/// An entry or element of a shared type.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Value(Value),
    Shared(Shared),
    /// A subdocument, identified by its guid.
    Doc(String),
}

/// The type that a shared type was created with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A root that was not opened by type in this document, or a type of a newer version.
    Unknown,
    Map,
    Array,
    Text,
    Element(String),
    Fragment,
    XmlText,
}

/// The content of a shared type.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) kind: Kind,
    /// The CRDT id, the same in all replicas of one history.
    pub(super) id: String,
    pub(super) keys: BTreeMap<String, Node>,
    pub(super) items: Items,
    /// The shared type in its document; `None` for the document itself and for [`empty_shared`].
    pub(super) branch: Option<BranchPtr>,
}

/// The sequence of a shared type.
#[derive(Debug, Clone)]
pub(super) enum Items {
    Array(Vec<Node>),
    Text(Vec<Token>),
}

/// The formatting attributes of a character.
pub(super) type Formats = BTreeMap<String, Value>;

/// A word, a separator between words, or an embedded object.
#[derive(Debug, Clone)]
pub(super) struct Token {
    /// Equal for equal content, regardless of formats.
    pub(super) key: String,
    pub(super) content: Content,
    /// One for each character, or one for the embedded object.
    pub(super) formats: Vec<Rc<Formats>>,
}

/// The content of a [`Token`].
#[derive(Debug, Clone)]
pub(super) enum Content {
    Word(String),
    Embed(Node),
}

impl Token {
    /// Returns a space without formats.
    pub(super) fn space() -> Self {
        let content = Content::Word(" ".to_owned());
        Self { key: "word  ".to_owned(), content, formats: vec![Rc::default()] }
    }

    /// Returns the length in UTF-16 units, as Yjs counts.
    pub(super) fn utf16(&self) -> u32 {
        match &self.content {
            Content::Word(word) => super::text_merge::utf16(word),
            Content::Embed(_) => 1,
        }
    }

    /// Returns the word; empty for an embedded object.
    pub(super) fn word(&self) -> &str {
        match &self.content {
            Content::Word(word) => word,
            Content::Embed(_) => "",
        }
    }
}

impl Node {
    /// Returns the content if the node is a shared type.
    pub(super) fn shared(&self) -> Option<&Shared> {
        match self {
            Self::Shared(shared) => Some(shared),
            _ => None,
        }
    }

    /// Returns a string that is equal for equal content.
    pub(super) fn fingerprint(&self) -> String {
        let mut out = String::new();
        self.write_fingerprint(&mut out);
        out
    }

    fn write_fingerprint(&self, out: &mut String) {
        match self {
            // Debug, not JSON: NaN has a text, and a float never looks like an integer.
            Self::Value(value) => out.push_str(&format!("{value:?}")),
            Self::Doc(guid) => out.push_str(&format!("doc {guid:?}")),
            Self::Shared(shared) => shared.write_fingerprint(out),
        }
    }

    /// Converts the content to a value that can be shown to a user.
    pub(super) fn to_value(&self) -> Value {
        match self {
            Self::Value(value) => value.clone(),
            Self::Doc(guid) => Value::Text(guid.clone()),
            Self::Shared(shared) => match &shared.items {
                Items::Text(tokens) => Value::Text(tokens.iter().map(Token::word).collect()),
                Items::Array(items) if shared.keys.is_empty() && (shared.kind != Kind::Map || !items.is_empty()) => {
                    Value::List(items.iter().map(Self::to_value).collect())
                }
                Items::Array(_) => {
                    Value::Map(shared.keys.iter().map(|(key, node)| (key.clone(), node.to_value())).collect())
                }
            },
        }
    }
}

impl Shared {
    /// Returns a string that is equal for equal content.
    pub(super) fn fingerprint(&self) -> String {
        let mut out = String::new();
        self.write_fingerprint(&mut out);
        out
    }

    fn write_fingerprint(&self, out: &mut String) {
        // The type of a root is unknown in a document loaded from updates.
        if !self.is_root() {
            out.push_str(&format!("{:?}", self.kind));
        }
        out.push('{');
        for (key, node) in &self.keys {
            out.push_str(&format!("{key:?}:"));
            node.write_fingerprint(out);
            out.push(',');
        }
        out.push_str("}[");
        match &self.items {
            Items::Array(nodes) => {
                for node in nodes {
                    node.write_fingerprint(out);
                    out.push(',');
                }
            }
            Items::Text(tokens) => {
                for token in tokens {
                    out.push_str(&format!("{:?}", token.key));
                    for formats in &token.formats {
                        out.push_str(&format!("{formats:?}"));
                    }
                }
            }
        }
        out.push(']');
    }

    /// Returns the tokens of a text; empty for any other type.
    pub(super) fn tokens(&self) -> &[Token] {
        match &self.items {
            Items::Text(tokens) => tokens,
            Items::Array(_) => &[],
        }
    }

    /// Returns the elements of an array; empty for any other type.
    pub(super) fn elements(&self) -> &[Node] {
        match &self.items {
            Items::Array(nodes) => nodes,
            Items::Text(_) => &[],
        }
    }

    fn is_root(&self) -> bool {
        self.id.is_empty() || self.id.starts_with('\'')
    }
}

/// Reads the whole document as a shared type whose keys are the roots.
pub(super) fn read<T: ReadTxn>(txn: &T) -> Shared {
    let mut keys = BTreeMap::new();
    for (name, out) in txn.root_refs() {
        if let Some(branch) = out.try_branch() {
            keys.insert(name.to_owned(), Node::Shared(read_branch(branch, txn, 0)));
        }
    }
    Shared { kind: Kind::Map, id: String::new(), keys, items: Items::Array(Vec::new()), branch: None }
}

/// Returns an empty shared type, the base of a newly created one.
pub(super) fn empty_shared(kind: Kind) -> Shared {
    Shared { kind, id: String::new(), keys: BTreeMap::new(), items: Items::Array(Vec::new()), branch: None }
}

fn read_node<T: ReadTxn>(out: &Out, txn: &T, depth: usize) -> Node {
    match out {
        Out::Any(any) => Node::Value(Value::from_any(any)),
        Out::YDoc(doc) => Node::Doc(doc.guid().to_string()),
        other => match other.try_branch() {
            Some(branch) if depth < MAX_DEPTH => Node::Shared(read_branch(branch, txn, depth + 1)),
            _ => Node::Value(Value::Null),
        },
    }
}

fn read_branch<T: ReadTxn>(branch: &Branch, txn: &T, depth: usize) -> Shared {
    let pointer = BranchPtr::from(branch);
    let kind = match branch.type_ref() {
        TypeRef::Map => Kind::Map,
        TypeRef::Array => Kind::Array,
        TypeRef::Text => Kind::Text,
        TypeRef::XmlElement(tag) => Kind::Element(tag.to_string()),
        TypeRef::XmlFragment => Kind::Fragment,
        TypeRef::XmlText => Kind::XmlText,
        _ => Kind::Unknown,
    };
    let map = MapRef::from(pointer);
    let keys = map.iter(txn).map(|(key, out)| (key.to_owned(), read_node(&out, txn, depth))).collect();
    let text = TextRef::from(pointer);
    let is_text = match kind {
        Kind::Text | Kind::XmlText => true,
        Kind::Unknown => !text.get_string(txn).is_empty(),
        _ => false,
    };
    let items = if is_text {
        Items::Text(read_text(&text, txn, depth))
    } else {
        Items::Array(ArrayRef::from(pointer).iter(txn).map(|out| read_node(&out, txn, depth)).collect())
    };
    Shared { kind, id: format!("{:?}", branch.id()), keys, items, branch: Some(pointer) }
}

fn read_text<T: ReadTxn>(text: &TextRef, txn: &T, depth: usize) -> Vec<Token> {
    let mut tokens = Vec::new();
    // Formats split words, possibly at other positions in another replica: words are split from the unformatted run.
    let mut run = (String::new(), Vec::new());
    for chunk in text.diff(txn, YChange::identity) {
        let formats: Formats = chunk
            .attributes
            .iter()
            .flat_map(|attributes| attributes.iter())
            .map(|(name, value)| (name.to_string(), Value::from_any(value)))
            .collect();
        let formats = Rc::new(formats);
        if let Out::Any(Any::String(part)) = &chunk.insert {
            run.0.push_str(part);
            run.1.extend(part.chars().map(|_| Rc::clone(&formats)));
            continue;
        }
        split_run(&mut run, &mut tokens);
        let node = read_node(&chunk.insert, txn, depth);
        tokens.push(Token {
            key: format!("embed {}", node.fingerprint()),
            content: Content::Embed(node),
            formats: vec![formats],
        });
    }
    split_run(&mut run, &mut tokens);
    tokens
}

fn split_run(run: &mut (String, Vec<Rc<Formats>>), tokens: &mut Vec<Token>) {
    let mut formats = std::mem::take(&mut run.1).into_iter();
    for word in words(&std::mem::take(&mut run.0)) {
        tokens.push(Token {
            key: format!("word {word}"),
            content: Content::Word(word.to_owned()),
            formats: formats.by_ref().take(word.chars().count()).collect(),
        });
    }
}

/// Returns a comparable key for each element of `other`. A nested type is identified by its CRDT id; in a history that
/// shares no ids with the base, by the nested type of the base that has the same content.
pub(super) fn element_keys(base: &[Node], other: &[Node]) -> Vec<String> {
    let ids: HashSet<&str> = base.iter().filter_map(Node::shared).map(|shared| shared.id.as_str()).collect();
    let same_history = other.iter().filter_map(Node::shared).any(|shared| ids.contains(shared.id.as_str()));
    let mut by_content: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    if !same_history {
        for shared in base.iter().rev().filter_map(Node::shared) {
            by_content.entry(shared.fingerprint()).or_default().push(&shared.id);
        }
    }
    let key = |node: &Node| match node {
        Node::Shared(shared) if same_history && ids.contains(shared.id.as_str()) => format!("id {}", shared.id),
        Node::Shared(shared) => match by_content.get_mut(&shared.fingerprint()).and_then(Vec::pop) {
            Some(id) => format!("id {id}"),
            None => shared.fingerprint(),
        },
        other => other.fingerprint(),
    };
    other.iter().map(key).collect()
}

#[cfg(test)]
mod tests {
    use yrs::updates::decoder::Decode;
    use yrs::{Doc, MapPrelim, StateVector, Transact, Update, XmlElementPrelim, XmlFragment};

    use super::*;

    #[test]
    fn document_reads_the_same_with_known_and_unknown_root_types() {
        let doc = Doc::with_client_id(1);
        let (map, array) = (doc.get_or_insert_map("map"), doc.get_or_insert_array("array"));
        let (text, xml) = (doc.get_or_insert_text("text"), doc.get_or_insert_xml_fragment("xml"));
        {
            let mut txn = doc.transact_mut();
            let inner = map.insert(&mut txn, "inner", MapPrelim::default());
            inner.insert(&mut txn, "k", 1);
            array.push_back(&mut txn, 7);
            text.push(&mut txn, "hello \u{1f600} world");
            xml.push_back(&mut txn, XmlElementPrelim::empty("p"));
        }
        let copy = Doc::with_client_id(2);
        let update = doc.transact().encode_state_as_update_v1(&StateVector::default());
        copy.transact_mut().apply_update(Update::decode_v1(&update).unwrap()).unwrap();
        let (one, other) = (read(&doc.transact()), read(&copy.transact()));
        assert_eq!(other.keys["map"].shared().unwrap().kind, Kind::Unknown);
        assert_eq!(one.keys.len(), 4);
        for (name, root) in &one.keys {
            assert_eq!(root.fingerprint(), other.keys[name].fingerprint(), "{name}");
            assert_eq!(root.to_value(), other.keys[name].to_value(), "{name}");
        }
        assert_eq!(one.keys["text"].to_value(), "hello \u{1f600} world".into());
    }
}
