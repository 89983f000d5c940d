//! A value as applications know it: JSON and bytes, without lifetimes or generics, so that it crosses any language
//! boundary.
//!
//! Numbers are those of JavaScript. What is integral and within ±(2^53 - 1) reads as [`Value::Integer`], whoever wrote
//! it: npm yjs writes large integers as floats, and nobody can tell `1.0` from `1`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use data_encoding::BASE64;
use thiserror::Error;
use yrs::types::ToJson;
use yrs::{Any, Number, Out, ReadTxn};

/// The largest integer that every peer holds exactly: 2^53 - 1.
pub const MAX_INTEGER: i64 = (1 << 53) - 1;

/// How bytes look in JSON: `{"$bytes": "<base64>"}`.
const JSON_BYTES: &str = "$bytes";
/// How a map looks in JSON that would else be taken for bytes: `{"$map": {...}}`.
const JSON_MAP: &str = "$map";

/// What a register, an entry or a list holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// Nothing, and what JavaScript calls undefined.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number within ±[`MAX_INTEGER`].
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Values in order.
    List(Vec<Value>),
    /// Values by key.
    Map(BTreeMap<String, Value>),
}

/// Why a value cannot be stored or shown.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ValueError {
    /// JavaScript would round it.
    #[error("the integer {0} is beyond ±(2^53 - 1): store it as text")]
    IntegerRange(i64),
    /// JSON has no such number.
    #[error("JSON has neither NaN nor infinity")]
    NotFinite,
    /// The text is no JSON, or its marked bytes are no base64.
    #[error("not the JSON of a value: {0}")]
    Json(String),
}

impl Value {
    /// As Yjs stores it.
    ///
    /// # Errors
    /// [`ValueError::IntegerRange`].
    pub fn to_any(&self) -> Result<Any, ValueError> {
        Ok(match self {
            Self::Null => Any::Null,
            Self::Bool(flag) => Any::Bool(*flag),
            Self::Integer(number) if number.unsigned_abs() > MAX_INTEGER.unsigned_abs() => {
                return Err(ValueError::IntegerRange(*number));
            }
            Self::Integer(number) => Any::Number(Number::Int(*number)),
            Self::Float(number) => Any::Number(Number::Float(*number)),
            Self::Text(text) => Any::String(text.as_str().into()),
            Self::Bytes(bytes) => Any::Buffer(bytes.as_slice().into()),
            Self::List(values) => Any::Array(values.iter().map(Self::to_any).collect::<Result<Arc<[_]>, _>>()?),
            Self::Map(values) => {
                let map: Result<HashMap<_, _>, _> =
                    values.iter().map(|(key, value)| Ok((key.clone(), value.to_any()?))).collect();
                Any::Map(Arc::new(map?))
            }
        })
    }

    /// What Yjs stored. A BigInt beyond [`MAX_INTEGER`] becomes the nearest [`Value::Float`].
    pub fn from_any(any: &Any) -> Self {
        match any {
            Any::Null | Any::Undefined => Self::Null,
            Any::Bool(flag) => Self::Bool(*flag),
            Any::Number(Number::Int(number)) if number.unsigned_abs() > MAX_INTEGER.unsigned_abs() => {
                Self::Float(*number as f64)
            }
            Any::Number(Number::Int(number)) => Self::Integer(*number),
            Any::Number(Number::Float(number)) => Self::from_float(*number),
            Any::String(text) => Self::Text(text.to_string()),
            Any::Buffer(bytes) => Self::Bytes(bytes.to_vec()),
            Any::Array(values) => Self::List(values.iter().map(Self::from_any).collect()),
            Any::Map(values) => {
                Self::Map(values.iter().map(|(key, value)| (key.clone(), Self::from_any(value))).collect())
            }
        }
    }

    /// What an entry of a shared type holds; a nested shared type is given as its present content.
    pub fn from_out<T: ReadTxn>(out: &Out, txn: &T) -> Self {
        Self::from_any(&out.to_json(txn))
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// As JSON text, maps in the order of their keys; bytes are `{"$bytes": "<base64>"}`.
    ///
    /// # Errors
    /// [`ValueError::NotFinite`].
    pub fn to_json(&self) -> Result<String, ValueError> {
        Ok(self.to_json_value()?.to_string())
    }

    /// From JSON text. Integers beyond [`MAX_INTEGER`] become floats, as in JavaScript.
    ///
    /// # Errors
    /// [`ValueError::Json`].
    pub fn from_json(text: &str) -> Result<Self, ValueError> {
        let json = serde_json::from_str(text).map_err(|error| ValueError::Json(error.to_string()))?;
        Self::from_json_value(json)
    }

    /// As `serde_json` has it.
    ///
    /// # Errors
    /// [`ValueError::NotFinite`].
    pub fn to_json_value(&self) -> Result<serde_json::Value, ValueError> {
        use serde_json::Value as Json;
        Ok(match self {
            Self::Null => Json::Null,
            Self::Bool(flag) => Json::Bool(*flag),
            Self::Integer(number) => Json::from(*number),
            Self::Float(number) => Json::Number(serde_json::Number::from_f64(*number).ok_or(ValueError::NotFinite)?),
            Self::Text(text) => Json::String(text.clone()),
            Self::Bytes(bytes) => one(JSON_BYTES, Json::String(BASE64.encode(bytes))),
            Self::List(values) => Json::Array(values.iter().map(Self::to_json_value).collect::<Result<_, _>>()?),
            Self::Map(values) => {
                let object: Result<serde_json::Map<_, _>, _> =
                    values.iter().map(|(key, value)| Ok((key.clone(), value.to_json_value()?))).collect();
                let marked = values.len() == 1 && values.keys().all(|key| key == JSON_BYTES || key == JSON_MAP);
                if marked { one(JSON_MAP, Json::Object(object?)) } else { Json::Object(object?) }
            }
        })
    }

    /// From what `serde_json` has.
    ///
    /// # Errors
    /// [`ValueError::Json`] for marked bytes that are no base64.
    pub fn from_json_value(json: serde_json::Value) -> Result<Self, ValueError> {
        use serde_json::Value as Json;
        Ok(match json {
            Json::Null => Self::Null,
            Json::Bool(flag) => Self::Bool(flag),
            Json::Number(number) => match number.as_i64() {
                Some(whole) if whole.unsigned_abs() <= MAX_INTEGER.unsigned_abs() => Self::Integer(whole),
                _ => Self::from_float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::Text(text),
            Json::Array(values) => Self::List(values.into_iter().map(Self::from_json_value).collect::<Result<_, _>>()?),
            Json::Object(mut object) if object.len() == 1 => {
                if let Some(Json::String(bytes)) = object.get(JSON_BYTES) {
                    let bytes = BASE64.decode(bytes.as_bytes()).map_err(|error| ValueError::Json(error.to_string()))?;
                    return Ok(Self::Bytes(bytes));
                }
                match object.remove(JSON_MAP) {
                    Some(Json::Object(inner)) => Self::map_of(inner)?,
                    Some(other) => Self::map_of(serde_json::Map::from_iter([(JSON_MAP.to_owned(), other)]))?,
                    None => Self::map_of(object)?,
                }
            }
            Json::Object(object) => Self::map_of(object)?,
        })
    }

    fn map_of(object: serde_json::Map<String, serde_json::Value>) -> Result<Self, ValueError> {
        let map: Result<_, _> =
            object.into_iter().map(|(key, value)| Ok((key, Self::from_json_value(value)?))).collect();
        Ok(Self::Map(map?))
    }

    fn from_float(number: f64) -> Self {
        // -0 is a float: as an integer it would lose its sign.
        let whole = number.trunc() == number && number.abs() <= MAX_INTEGER as f64;
        if whole && (number != 0.0 || number.is_sign_positive()) {
            Self::Integer(number as i64)
        } else {
            Self::Float(number)
        }
    }
}

fn one(key: &str, value: serde_json::Value) -> serde_json::Value {
    serde_json::Value::Object(serde_json::Map::from_iter([(key.to_owned(), value)]))
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Bool(flag)
    }
}

/// A text field of a stored map.
pub(super) fn text_field(map: &HashMap<String, Any>, key: &str) -> Option<String> {
    match map.get(key) {
        Some(Any::String(text)) => Some(text.to_string()),
        _ => None,
    }
}

/// A whole number of a stored map, whichever encoding it came in.
pub(super) fn integer_field(map: &HashMap<String, Any>, key: &str) -> Option<i64> {
    integer(map.get(key)?)
}

/// A whole number within ±[`MAX_INTEGER`], whichever encoding it came in.
pub(super) fn integer(any: &Any) -> Option<i64> {
    match Value::from_any(any) {
        Value::Integer(number) => Some(number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Value> {
        let map = |key: &str, value| Value::Map(BTreeMap::from([(key.to_owned(), value)]));
        vec![
            Value::Null,
            true.into(),
            Value::Integer(-MAX_INTEGER),
            Value::Float(-0.0),
            Value::Float(1.5),
            "Gr\u{fc}\u{df}e \u{1f600}".into(),
            Value::Bytes(vec![0, 255, 7]),
            Value::List(vec![1.into(), Value::List(vec![])]),
            map("a", Value::Null),
            map("$bytes", "not bytes".into()),
            map("$map", map("$bytes", "AAAA".into())),
        ]
    }

    #[test]
    fn every_value_survives_yjs_and_json() {
        for value in samples() {
            assert_eq!(Value::from_any(&value.to_any().unwrap()), value);
            assert_eq!(Value::from_json(&value.to_json().unwrap()).unwrap(), value);
        }
    }

    #[test]
    fn whole_floats_read_as_integers_and_what_javascript_cannot_hold_is_refused() {
        assert_eq!(Value::from_any(&Any::Number(Number::Float(1_099_511_627_776.0))), Value::Integer(1 << 40));
        assert_eq!(Value::Integer(1 << 53).to_any(), Err(ValueError::IntegerRange(1 << 53)));
        assert_eq!(Value::Float(f64::NAN).to_json(), Err(ValueError::NotFinite));
        assert!(matches!(Value::from_json("{\"$bytes\":\"?\"}"), Err(ValueError::Json(_))));
    }
}
