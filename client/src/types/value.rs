//! A value as applications see it: JSON plus bytes, without lifetimes or generics, so that it can cross a language
//! boundary.
//!
//! Numbers follow JavaScript. Every integral number within ±(2^53 - 1) reads as [`Value::Integer`], whatever its
//! encoding: npm yjs writes large integers as floats, and in JavaScript `1.0` and `1` are the same number.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use data_encoding::BASE64;
use thiserror::Error;
use yrs::types::ToJson;
use yrs::{Any, Number, Out, ReadTxn};

/// The largest integer that every peer represents exactly: 2^53 - 1.
pub const MAX_INTEGER: i64 = (1 << 53) - 1;

/// Key of the JSON form of bytes: `{"$bytes": "<base64>"}`.
const JSON_BYTES: &str = "$bytes";
/// Key of the JSON form of a map that would otherwise be read as bytes: `{"$map": {...}}`.
const JSON_MAP: &str = "$map";

/// A plain value: the content of a register, a map entry or a list element.
///
/// ```
/// use syncline_client::types::Value;
///
/// let value = Value::from_json(r#"{"title": "Bread", "hours": 24}"#)?;
/// let Value::Map(map) = &value else { unreachable!() };
/// assert_eq!(map["title"], "Bread".into());
/// assert_eq!(map["hours"], 24.into());
/// # Ok::<(), syncline_client::types::value::ValueError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// JSON `null`, and JavaScript's `undefined`.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number within ±[`MAX_INTEGER`].
    Integer(i64),
    /// Any other number, `-0.0` included.
    Float(f64),
    /// A string.
    Text(String),
    /// Binary data.
    Bytes(Vec<u8>),
    /// Values in order.
    List(Vec<Value>),
    /// Values by key.
    Map(BTreeMap<String, Value>),
}

/// Why a value cannot be stored, or cannot be converted from or to JSON.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ValueError {
    /// The integer is outside ±[`MAX_INTEGER`]; JavaScript peers would round it.
    #[error("the integer {0} is outside ±(2^53 - 1); store it as text")]
    IntegerRange(i64),
    /// The number is NaN or infinite.
    #[error("JSON cannot represent NaN or infinity")]
    NotFinite,
    /// The text is not valid JSON, or a `$bytes` string is not valid base64.
    #[error("invalid JSON for a value: {0}")]
    Json(String),
}

impl Value {
    /// Converts the value to the form that Yjs stores.
    ///
    /// # Errors
    /// [`ValueError::IntegerRange`] if an integer in it is outside ±[`MAX_INTEGER`].
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

    /// Converts a value stored by Yjs. A BigInt outside ±[`MAX_INTEGER`] becomes the nearest [`Value::Float`].
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

    /// Converts an entry of a shared type; a nested shared type becomes its current content.
    pub fn from_out<T: ReadTxn>(out: &Out, txn: &T) -> Self {
        Self::from_any(&out.to_json(txn))
    }

    /// Returns the string if the value is [`Value::Text`].
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Encodes the value as JSON text. Maps are sorted by key; bytes become `{"$bytes": "<base64>"}`.
    ///
    /// # Errors
    /// [`ValueError::NotFinite`] if a number in it is NaN or infinite.
    pub fn to_json(&self) -> Result<String, ValueError> {
        Ok(self.to_json_value()?.to_string())
    }

    /// Parses JSON text. Integers outside ±[`MAX_INTEGER`] become floats, as in JavaScript.
    ///
    /// # Errors
    /// [`ValueError::Json`] if the text is not valid JSON or its marked bytes are not valid base64.
    pub fn from_json(text: &str) -> Result<Self, ValueError> {
        let json = serde_json::from_str(text).map_err(|error| ValueError::Json(error.to_string()))?;
        Self::from_json_value(json)
    }

    /// Converts the value to `serde_json`, in the same form as [`Value::to_json`].
    ///
    /// # Errors
    /// [`ValueError::NotFinite`] if a number in it is NaN or infinite.
    pub fn to_json_value(&self) -> Result<serde_json::Value, ValueError> {
        use serde_json::Value as Json;
        Ok(match self {
            Self::Null => Json::Null,
            Self::Bool(flag) => Json::Bool(*flag),
            Self::Integer(number) => Json::from(*number),
            Self::Float(number) => Json::Number(serde_json::Number::from_f64(*number).ok_or(ValueError::NotFinite)?),
            Self::Text(text) => Json::String(text.clone()),
            Self::Bytes(bytes) => object_with(JSON_BYTES, Json::String(BASE64.encode(bytes))),
            Self::List(values) => Json::Array(values.iter().map(Self::to_json_value).collect::<Result<_, _>>()?),
            Self::Map(values) => {
                let object: Result<serde_json::Map<_, _>, _> =
                    values.iter().map(|(key, value)| Ok((key.clone(), value.to_json_value()?))).collect();
                let marked = values.len() == 1 && values.keys().all(|key| key == JSON_BYTES || key == JSON_MAP);
                if marked { object_with(JSON_MAP, Json::Object(object?)) } else { Json::Object(object?) }
            }
        })
    }

    /// Converts from `serde_json`, the inverse of [`Value::to_json_value`].
    ///
    /// # Errors
    /// [`ValueError::Json`] if marked bytes are not valid base64.
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
        // -0 stays a float: as an integer it would lose its sign.
        let whole = number.trunc() == number && number.abs() <= MAX_INTEGER as f64;
        if whole && (number != 0.0 || number.is_sign_positive()) {
            Self::Integer(number as i64)
        } else {
            Self::Float(number)
        }
    }
}

fn object_with(key: &str, value: serde_json::Value) -> serde_json::Value {
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

/// Returns the string under `key` of a stored map.
pub(super) fn text_field(map: &HashMap<String, Any>, key: &str) -> Option<String> {
    match map.get(key) {
        Some(Any::String(text)) => Some(text.to_string()),
        _ => None,
    }
}

/// Returns the whole number under `key` of a stored map, in whichever encoding it was written.
pub(super) fn integer_field(map: &HashMap<String, Any>, key: &str) -> Option<i64> {
    integer(map.get(key)?)
}

/// Returns the whole number within ±[`MAX_INTEGER`], in whichever encoding it was written.
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
    fn values_roundtrip_through_yjs_and_json() {
        for value in samples() {
            assert_eq!(Value::from_any(&value.to_any().unwrap()), value);
            assert_eq!(Value::from_json(&value.to_json().unwrap()).unwrap(), value);
        }
    }

    #[test]
    fn whole_floats_become_integers_and_out_of_range_is_rejected() {
        assert_eq!(Value::from_any(&Any::Number(Number::Float(1_099_511_627_776.0))), Value::Integer(1 << 40));
        assert_eq!(Value::Integer(1 << 53).to_any(), Err(ValueError::IntegerRange(1 << 53)));
        assert_eq!(Value::Float(f64::NAN).to_json(), Err(ValueError::NotFinite));
        assert!(matches!(Value::from_json("{\"$bytes\":\"?\"}"), Err(ValueError::Json(_))));
    }
}
