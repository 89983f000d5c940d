//! Exports a document as JSON.
//!
//! A root type that was never opened as a certain type has no type tag, so its type is inferred from its content: text,
//! embeds or formatting marks make it a text, XML nodes a fragment, other elements a list, keys alone a map.

use data_encoding::BASE64;
use serde_json::{Value, json};
use yrs::branch::{Branch, BranchPtr};
use yrs::types::text::YChange;
use yrs::types::{Attrs, TypeRef};
use yrs::{Any, Array, ArrayRef, Map as _, MapRef, Number, Out, ReadTxn, Text, TextRef};

use super::{JsonError, JsonObject, MAX_JSON_DEPTH};

/// Every root type that is not empty, as JSON.
pub(crate) fn to_json<T: ReadTxn>(txn: &T) -> Result<Value, JsonError> {
    let mut roots = JsonObject::new();
    for (name, root) in txn.root_refs() {
        if let Some(branch) = root.try_branch()
            && let Some(value) = shared(txn, branch, 0)?
        {
            roots.insert(escaped(name), value);
        }
    }
    Ok(Value::Object(roots))
}

/// Escapes a key that starts with `$`, which marks the tags of this format.
fn escaped(key: &str) -> String {
    if key.starts_with('$') { format!("${key}") } else { key.to_owned() }
}

/// A shared type as JSON. `None` for an empty root, which could be of any type.
fn shared<T: ReadTxn>(txn: &T, branch: &Branch, depth: usize) -> Result<Option<Value>, JsonError> {
    if depth > MAX_JSON_DEPTH {
        return Err(JsonError::TooDeep);
    }
    let pointer = BranchPtr::from(branch);
    let keys = keys(txn, &MapRef::from(pointer), depth)?;
    let tagged = |tag: &str, value: Value| JsonObject::from_iter([(tag.to_owned(), value)]);
    let mut object = match inferred_type(txn, branch, keys.is_empty()) {
        Some(TypeRef::Map) => return Ok(Some(Value::Object(keys))),
        Some(TypeRef::Text | TypeRef::XmlText) => text(txn, &TextRef::from(pointer), depth)?,
        Some(TypeRef::XmlElement(tag)) => {
            let mut element = tagged("$element", Value::String(tag.to_string()));
            element.insert("children".into(), elements(txn, pointer, depth)?);
            element
        }
        Some(TypeRef::XmlFragment) => tagged("$xml", elements(txn, pointer, depth)?),
        Some(TypeRef::Array) if keys.is_empty() => return elements(txn, pointer, depth).map(Some),
        Some(_) => tagged("$list", elements(txn, pointer, depth)?),
        None => return Ok(None),
    };
    if !keys.is_empty() {
        object.insert("attributes".into(), Value::Object(keys));
    }
    Ok(Some(Value::Object(object)))
}

/// The type of a branch, inferred from its content if it has no type tag.
fn inferred_type<T: ReadTxn>(txn: &T, branch: &Branch, has_no_keys: bool) -> Option<TypeRef> {
    match branch.type_ref() {
        TypeRef::Undefined => {}
        known => return Some(known.clone()),
    }
    let pointer = BranchPtr::from(branch);
    let pieces = TextRef::from(pointer).diff(txn, YChange::identity);
    let is_xml = |out: &Out| matches!(out, Out::YXmlElement(_) | Out::YXmlText(_) | Out::YXmlFragment(_));
    if pieces.iter().any(|piece| matches!(piece.insert, Out::Any(_)) || piece.attributes.is_some()) {
        Some(TypeRef::Text)
    } else if !pieces.is_empty() && pieces.iter().all(|piece| is_xml(&piece.insert)) {
        Some(TypeRef::XmlFragment)
    } else if branch.len() > 0 {
        Some(TypeRef::Array)
    } else {
        (!has_no_keys).then_some(TypeRef::Map)
    }
}

fn keys<T: ReadTxn>(txn: &T, map: &MapRef, depth: usize) -> Result<JsonObject, JsonError> {
    map.iter(txn).map(|(key, value)| Ok((escaped(key), out(txn, &value, depth)?))).collect()
}

fn elements<T: ReadTxn>(txn: &T, pointer: BranchPtr, depth: usize) -> Result<Value, JsonError> {
    ArrayRef::from(pointer).iter(txn).map(|element| out(txn, &element, depth)).collect()
}

/// A text as a plain string, or as a delta if it has formatting or embeds.
fn text<T: ReadTxn>(txn: &T, text: &TextRef, depth: usize) -> Result<JsonObject, JsonError> {
    let pieces = text.diff(txn, YChange::identity);
    let plain = pieces.iter().map(|piece| match &piece.insert {
        Out::Any(Any::String(text)) if piece.attributes.is_none() => Some(&**text),
        _ => None,
    });
    if let Some(plain) = plain.collect::<Option<String>>() {
        return Ok(JsonObject::from_iter([("$text".to_owned(), Value::String(plain))]));
    }
    let delta: Result<Vec<Value>, JsonError> = pieces
        .iter()
        .map(|piece| {
            let mut object = JsonObject::from_iter([("insert".to_owned(), out(txn, &piece.insert, depth)?)]);
            if let Some(attributes) = &piece.attributes {
                object.insert("attributes".into(), formats(attributes, depth)?);
            }
            Ok(Value::Object(object))
        })
        .collect();
    Ok(JsonObject::from_iter([("$delta".to_owned(), Value::Array(delta?))]))
}

fn formats(attributes: &Attrs, depth: usize) -> Result<Value, JsonError> {
    let pairs = attributes.iter().map(|(key, value)| Ok((escaped(key), any(value, depth + 1)?)));
    pairs.collect::<Result<JsonObject, JsonError>>().map(Value::Object)
}

fn out<T: ReadTxn>(txn: &T, value: &Out, depth: usize) -> Result<Value, JsonError> {
    match value {
        Out::Any(value) => any(value, depth + 1),
        Out::YDoc(doc) => Ok(json!({ "$document": doc.guid().as_ref() })),
        shared_type => match shared_type.try_branch() {
            Some(branch) => Ok(shared(txn, branch, depth + 1)?.unwrap_or(Value::Null)),
            None => Ok(Value::Null),
        },
    }
}

fn any(value: &Any, depth: usize) -> Result<Value, JsonError> {
    if depth > MAX_JSON_DEPTH {
        return Err(JsonError::TooDeep);
    }
    Ok(match value {
        Any::Null => Value::Null,
        Any::Undefined => json!({ "$undefined": true }),
        Any::Bool(value) => Value::Bool(*value),
        Any::Number(Number::Int(number)) => Value::from(*number),
        Any::Number(Number::Float(number)) => match serde_json::Number::from_f64(*number) {
            Some(number) => Value::Number(number),
            None => json!({ "$number": number.to_string() }),
        },
        Any::String(text) => Value::String(text.to_string()),
        Any::Buffer(bytes) => json!({ "$bytes": BASE64.encode(bytes) }),
        Any::Array(values) => values.iter().map(|value| any(value, depth + 1)).collect::<Result<_, _>>()?,
        Any::Map(values) => {
            let pairs = values.iter().map(|(key, value)| Ok((escaped(key), any(value, depth + 1)?)));
            Value::Object(pairs.collect::<Result<_, JsonError>>()?)
        }
    })
}
