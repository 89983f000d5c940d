//! Imports JSON as a new document.

use std::sync::Arc;

use bytes::Bytes;
use data_encoding::BASE64;
use serde_json::Value;
use yrs::types::Attrs;
use yrs::{
    Any, Array, ArrayPrelim, ArrayRef, Map as _, MapPrelim, MapRef, ReadTxn, StateVector, Text, TextPrelim, Transact,
    TransactionMut, WriteTxn, Xml, XmlElementPrelim, XmlFragment, XmlTextPrelim, XmlTextRef,
};

use super::{JsonError, JsonObject};
use crate::crdt::{Crdt, catch_panic};

/// Creates a document from a JSON object, with `client` (53 bits) as author, and returns it as one v1 update.
pub fn from_json(json: &Value, client: u64) -> Result<Bytes, JsonError> {
    let roots = json.as_object().ok_or(JsonError::NotAnObject)?;
    let crdt = Crdt::with_client(client);
    catch_panic(|| {
        let mut txn = crdt.doc.transact_mut();
        for (key, value) in roots {
            JsonReader { txn: &mut txn, path: vec![key.clone()] }.root(&unescaped(key), value)?;
        }
        Ok(txn.encode_state_as_update_v1(&StateVector::default()).into())
    })?
}

fn unescaped(key: &str) -> String {
    key.strip_prefix('$').filter(|rest| rest.starts_with('$')).unwrap_or(key).to_owned()
}

/// What a JSON value becomes in the document.
enum JsonKind<'a> {
    Text(&'a Value),
    Delta(&'a Vec<Value>),
    Xml(&'a Vec<Value>),
    Element(&'a str),
    List(&'a Vec<Value>),
    Map(&'a JsonObject),
    Plain(Any),
}

struct JsonReader<'a, 'doc> {
    txn: &'a mut TransactionMut<'doc>,
    /// Path of the current value, for errors.
    path: Vec<String>,
}

impl JsonReader<'_, '_> {
    fn fail<T>(&self, what: impl Into<String>) -> Result<T, JsonError> {
        Err(JsonError::Unusable { path: self.path.join("."), what: what.into() })
    }

    fn within<T>(
        &mut self,
        step: impl ToString,
        read: impl FnOnce(&mut Self) -> Result<T, JsonError>,
    ) -> Result<T, JsonError> {
        self.path.push(step.to_string());
        let done = read(self)?;
        self.path.pop();
        Ok(done)
    }

    fn root(&mut self, name: &str, value: &Value) -> Result<(), JsonError> {
        let attributes = value.get("attributes").filter(|_| !matches!(self.classify(value), Ok(JsonKind::Map(_))));
        if attributes.is_some() {
            return self.fail("attributes of a text or list at the top level are not supported");
        }
        match self.classify(value)? {
            JsonKind::Plain(Any::String(text)) => {
                let root = self.txn.get_or_insert_text(name);
                root.insert(self.txn, 0, &text);
                Ok(())
            }
            JsonKind::Text(text) => {
                let root = self.txn.get_or_insert_text(name);
                self.plain_text(&root, text)
            }
            JsonKind::Delta(delta) => {
                let root = self.txn.get_or_insert_text(name);
                self.delta(&root, delta)
            }
            JsonKind::Xml(nodes) => {
                let root = self.txn.get_or_insert_xml_fragment(name);
                self.nodes(&root, nodes)
            }
            JsonKind::List(values) => {
                let root = self.txn.get_or_insert_array(name);
                self.list(&root, values)
            }
            JsonKind::Map(object) => {
                let root = self.txn.get_or_insert_map(name);
                self.map(&root, object)
            }
            JsonKind::Element(_) | JsonKind::Plain(_) => {
                self.fail("a top-level value must be a text, list, map or XML fragment")
            }
        }
    }

    fn classify<'v>(&self, value: &'v Value) -> Result<JsonKind<'v>, JsonError> {
        let object = match value {
            Value::Array(values) => return Ok(JsonKind::List(values)),
            Value::Object(object) => object,
            plain_value => return self.plain_value(plain_value).map(JsonKind::Plain),
        };
        let Some((tag, value)) = object.iter().find(|(key, _)| key.starts_with('$') && !key.starts_with("$$")) else {
            return Ok(JsonKind::Map(object));
        };
        match (tag.as_str(), value) {
            ("$text", value) => Ok(JsonKind::Text(value)),
            ("$delta", Value::Array(delta)) => Ok(JsonKind::Delta(delta)),
            ("$xml", Value::Array(nodes)) => Ok(JsonKind::Xml(nodes)),
            ("$list", Value::Array(values)) => Ok(JsonKind::List(values)),
            ("$element", Value::String(tag)) => Ok(JsonKind::Element(tag)),
            ("$document", _) => self.fail("subdocuments are not supported"),
            _ => self.plain_value(&Value::Object(object.clone())).map(JsonKind::Plain),
        }
    }

    /// A value without shared types in it.
    fn plain_value(&self, value: &Value) -> Result<Any, JsonError> {
        Ok(match value {
            Value::Null => Any::Null,
            Value::Bool(value) => Any::Bool(*value),
            Value::String(text) => Any::String(text.as_str().into()),
            Value::Number(number) => match number.as_i64() {
                Some(number) => Any::from(number),
                None => Any::from(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::Array(values) => {
                let values: Result<Vec<Any>, JsonError> = values.iter().map(|value| self.plain_value(value)).collect();
                Any::Array(values?.into())
            }
            Value::Object(object) => match object.iter().next() {
                Some((tag, value)) if object.len() == 1 && tag.starts_with('$') && !tag.starts_with("$$") => {
                    return self.tagged_value(tag, value);
                }
                _ => {
                    let pairs = object.iter().map(|(key, value)| Ok((unescaped(key), self.plain_value(value)?)));
                    Any::Map(Arc::new(pairs.collect::<Result<_, JsonError>>()?))
                }
            },
        })
    }

    fn tagged_value(&self, tag: &str, value: &Value) -> Result<Any, JsonError> {
        match (tag, value) {
            ("$undefined", _) => Ok(Any::Undefined),
            ("$number", Value::String(number)) => match number.parse::<f64>() {
                Ok(number) => Ok(Any::from(number)),
                Err(_) => self.fail(format!("{number:?} is not a number")),
            },
            ("$bytes", Value::String(bytes)) => match BASE64.decode(bytes.as_bytes()) {
                Ok(bytes) => Ok(Any::Buffer(bytes.into())),
                Err(error) => self.fail(format!("invalid base64: {error}")),
            },
            _ => self.fail(format!("{tag:?} is not allowed here; to use it as a plain key, put a second $ before it")),
        }
    }

    fn map(&mut self, map: &MapRef, object: &JsonObject) -> Result<(), JsonError> {
        for (key, value) in object {
            self.within(key, |reader| reader.entry(map, unescaped(key), value))?;
        }
        Ok(())
    }

    fn entry(&mut self, map: &MapRef, key: String, value: &Value) -> Result<(), JsonError> {
        match self.classify(value)? {
            JsonKind::Plain(plain_value) => {
                map.insert(self.txn, key, plain_value);
                Ok(())
            }
            JsonKind::Text(text) => {
                let inner = map.insert(self.txn, key, TextPrelim::new(""));
                self.plain_text(&inner, text)
            }
            JsonKind::Delta(delta) => {
                let inner = map.insert(self.txn, key, TextPrelim::new(""));
                self.delta(&inner, delta)
            }
            JsonKind::List(values) => {
                let inner = map.insert(self.txn, key, ArrayPrelim::default());
                self.list(&inner, values)
            }
            JsonKind::Map(object) => {
                let inner = map.insert(self.txn, key, MapPrelim::default());
                self.map(&inner, object)
            }
            JsonKind::Xml(nodes) => {
                let inner = map.insert(self.txn, key, yrs::XmlFragmentPrelim::default());
                self.nodes(&inner, nodes)
            }
            JsonKind::Element(_) => self.fail("an XML element must be inside an XML fragment or element"),
        }
    }

    fn list(&mut self, list: &ArrayRef, values: &[Value]) -> Result<(), JsonError> {
        // Adjacent plain values are inserted together, so that they become one item of the document.
        let mut run: Vec<Any> = Vec::new();
        for (index, value) in values.iter().enumerate() {
            let kind = self.classify(value)?;
            if let JsonKind::Plain(plain_value) = kind {
                run.push(plain_value);
                continue;
            }
            self.flush(list, &mut run);
            self.within(index, |reader| reader.element(list, kind))?;
        }
        self.flush(list, &mut run);
        Ok(())
    }

    fn flush(&mut self, list: &ArrayRef, run: &mut Vec<Any>) {
        if !run.is_empty() {
            let end = list.len(self.txn);
            list.insert_range(self.txn, end, std::mem::take(run));
        }
    }

    fn element(&mut self, list: &ArrayRef, kind: JsonKind<'_>) -> Result<(), JsonError> {
        match kind {
            JsonKind::Plain(plain_value) => {
                list.push_back(self.txn, plain_value);
                Ok(())
            }
            JsonKind::Text(text) => {
                let inner = list.push_back(self.txn, TextPrelim::new(""));
                self.plain_text(&inner, text)
            }
            JsonKind::Delta(delta) => {
                let inner = list.push_back(self.txn, TextPrelim::new(""));
                self.delta(&inner, delta)
            }
            JsonKind::List(values) => {
                let inner = list.push_back(self.txn, ArrayPrelim::default());
                self.list(&inner, values)
            }
            JsonKind::Map(object) => {
                let inner = list.push_back(self.txn, MapPrelim::default());
                self.map(&inner, object)
            }
            JsonKind::Xml(nodes) => {
                let inner = list.push_back(self.txn, yrs::XmlFragmentPrelim::default());
                self.nodes(&inner, nodes)
            }
            JsonKind::Element(_) => self.fail("an XML element must be inside an XML fragment or element"),
        }
    }

    fn plain_text(&mut self, text: &impl Text, value: &Value) -> Result<(), JsonError> {
        let Value::String(value) = value else { return self.fail("\"$text\" must be a string") };
        text.insert(self.txn, 0, value);
        Ok(())
    }

    fn delta(&mut self, text: &impl Text, delta: &[Value]) -> Result<(), JsonError> {
        for (index, delta_entry) in delta.iter().enumerate() {
            self.within(index, |reader| reader.delta_entry(text, delta_entry))?;
        }
        Ok(())
    }

    fn delta_entry(&mut self, text: &impl Text, delta_entry: &Value) -> Result<(), JsonError> {
        let Some(insert) = delta_entry.get("insert") else {
            return self.fail("an entry of a delta must have \"insert\"");
        };
        let attributes = match delta_entry.get("attributes") {
            Some(Value::Object(object)) => {
                let pairs = object.iter().map(|(key, value)| Ok((unescaped(key).into(), self.plain_value(value)?)));
                pairs.collect::<Result<Attrs, JsonError>>()?
            }
            Some(_) => return self.fail("\"attributes\" must be an object"),
            None => Attrs::new(),
        };
        let end = text.len(self.txn);
        match (insert, self.classify(insert)?) {
            (Value::String(typed), _) => text.insert_with_attributes(self.txn, end, typed, attributes),
            (plain_value, JsonKind::Map(_) | JsonKind::Plain(_) | JsonKind::List(_)) => {
                let embed = self.plain_value(plain_value)?;
                text.insert_embed_with_attributes(self.txn, end, embed, attributes);
            }
            _ => return self.fail("shared types within a text are not supported"),
        }
        Ok(())
    }

    fn nodes(&mut self, parent: &impl XmlFragment, nodes: &[Value]) -> Result<(), JsonError> {
        for (index, node) in nodes.iter().enumerate() {
            self.within(index, |reader| reader.node(parent, node))?;
        }
        Ok(())
    }

    fn node(&mut self, parent: &impl XmlFragment, node: &Value) -> Result<(), JsonError> {
        match self.classify(node)? {
            JsonKind::Element(tag) => {
                let element = parent.push_back(self.txn, XmlElementPrelim::empty(tag));
                self.attributes(&element, node.get("attributes"))?;
                match node.get("children") {
                    Some(Value::Array(children)) => self.nodes(&element, children),
                    None => Ok(()),
                    Some(_) => self.fail("\"children\" must be a list"),
                }
            }
            JsonKind::Plain(Any::String(text)) => {
                parent.push_back(self.txn, XmlTextPrelim::new(text.as_ref()));
                Ok(())
            }
            JsonKind::Text(text) => {
                let inner = self.xml_text(parent, node)?;
                self.plain_text(&inner, text)
            }
            JsonKind::Delta(delta) => {
                let inner = self.xml_text(parent, node)?;
                self.delta(&inner, delta)
            }
            _ => self.fail("an XML node must be an element or a text"),
        }
    }

    fn xml_text(&mut self, parent: &impl XmlFragment, node: &Value) -> Result<XmlTextRef, JsonError> {
        let text = parent.push_back(self.txn, XmlTextPrelim::new(""));
        self.attributes(&text, node.get("attributes"))?;
        Ok(text)
    }

    fn attributes(&mut self, of: &impl Xml, attributes: Option<&Value>) -> Result<(), JsonError> {
        let Some(attributes) = attributes else { return Ok(()) };
        let Value::Object(attributes) = attributes else { return self.fail("\"attributes\" must be an object") };
        for (key, value) in attributes {
            let value = self.plain_value(value)?;
            of.insert_attribute(self.txn, unescaped(key), value);
        }
        Ok(())
    }
}
