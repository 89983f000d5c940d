//! Versioned registers: a write names the version it is based on, and the server accepts one write per version.
//!
//! Registers are keys of the root Y.Map `syncline:registers`, written by the server only (compare and set). This module
//! defines the value of a key and the decision, [`RegisterState::accept`]. Both need only yrs' `Any`.

use std::collections::HashMap;
use std::sync::Arc;

use thiserror::Error;
use yrs::{Any, Number};

/// Name of the root Y.Map that holds all registers of a document.
pub const REGISTERS_ROOT: &str = "syncline:registers";

/// Number of accepted writes whose ids a register remembers: a retry of one of them is accepted again.
pub const MAX_RECENT_IDS: usize = 32;

/// The largest version number and the largest time, 2^53 - 1.
const MAX_INTEGER: u64 = (1 << 53) - 1;

/// The state of a register, as the server decided last.
#[derive(Debug, Clone, PartialEq)]
pub struct RegisterState {
    /// The current value.
    pub value: Any,
    /// The version number: 1 for the first accepted write, one more with each further one.
    pub version: u64,
    /// The id (ULID) of the write that created this version.
    pub id: String,
    /// The author of that write, as sent by its device.
    pub author: String,
    /// The time of that write by its device's clock, in milliseconds since 1970.
    pub at_ms: u64,
    /// Ids of the latest accepted writes, newest last; at most [`MAX_RECENT_IDS`].
    pub recent_ids: Vec<String>,
}

/// A proposed write to a register.
#[derive(Debug, Clone, PartialEq)]
pub struct RegisterWrite {
    /// A ULID, created once for this write and kept across retries.
    pub id: String,
    /// Version and id of the state that the writer had seen; `None` if the register was never written.
    pub based_on: Option<(u64, String)>,
    /// The new value.
    pub value: Any,
    /// The author.
    pub author: String,
    /// The time of the write, in milliseconds since 1970.
    pub at_ms: u64,
}

/// The write is not based on the current version, so it was not applied.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("the register has changed since it was read; read the current version and write again")]
pub struct RegisterConflict {
    /// The current state; `None` if the register was never written.
    pub current: Option<Box<RegisterState>>,
}

impl RegisterState {
    /// Returns the state after `write`. A retry of an accepted write (its id is among the recent ones) is accepted
    /// again and changes nothing: the current state is returned unchanged.
    ///
    /// # Errors
    /// [`RegisterConflict`] if the write is not based on the current version, or if version or time would exceed
    /// 2^53 - 1.
    pub fn accept(current: Option<&Self>, write: &RegisterWrite) -> Result<Self, RegisterConflict> {
        if let Some(state) = current.filter(|state| state.recent_ids.contains(&write.id)) {
            return Ok(state.clone());
        }
        let seen = write.based_on.as_ref().map(|(version, id)| (*version, id.as_str()));
        let version = current.map_or(0, |state| state.version);
        let exhausted = version >= MAX_INTEGER || write.at_ms > MAX_INTEGER;
        if seen != current.map(|state| (state.version, state.id.as_str())) || exhausted {
            return Err(RegisterConflict { current: current.cloned().map(Box::new) });
        }
        let mut recent_ids = current.map_or_else(Vec::new, |state| state.recent_ids.clone());
        recent_ids.push(write.id.clone());
        recent_ids.drain(..recent_ids.len().saturating_sub(MAX_RECENT_IDS));
        Ok(Self {
            value: write.value.clone(),
            version: version + 1,
            id: write.id.clone(),
            author: write.author.clone(),
            at_ms: write.at_ms,
            recent_ids,
        })
    }

    /// Returns the state after `write`, applied to this state; see [`RegisterState::accept`].
    ///
    /// # Errors
    /// [`RegisterConflict`] if the write is not based on this version.
    pub fn next(&self, write: &RegisterWrite) -> Result<Self, RegisterConflict> {
        Self::accept(Some(self), write)
    }

    /// Encodes the state as the value of a register's key: `{v, n, id, by, at, ids}`.
    pub fn to_any(&self) -> Any {
        let ids: Vec<Any> = self.recent_ids.iter().map(|id| Any::from(id.as_str())).collect();
        Any::Map(Arc::new(HashMap::from([
            ("v".to_owned(), self.value.clone()),
            ("n".to_owned(), Any::Number(Number::Int(self.version as i64))),
            ("id".to_owned(), Any::from(self.id.as_str())),
            ("by".to_owned(), Any::from(self.author.as_str())),
            ("at".to_owned(), Any::Number(Number::Int(self.at_ms as i64))),
            ("ids".to_owned(), Any::Array(ids.into())),
        ])))
    }

    /// Decodes the value of a register's key; `None` if it is malformed.
    pub fn from_any(any: &Any) -> Option<Self> {
        let Any::Map(map) = any else { return None };
        let text = |key: &str| match map.get(key) {
            Some(Any::String(text)) => Some(text.to_string()),
            _ => None,
        };
        let number = |key: &str| match map.get(key) {
            Some(Any::Number(number)) => {
                number.as_i64().and_then(|number| u64::try_from(number).ok()).filter(|number| *number <= MAX_INTEGER)
            }
            _ => None,
        };
        let Some(Any::Array(ids)) = map.get("ids") else { return None };
        let ids: Option<Vec<_>> = ids
            .iter()
            .map(|id| match id {
                Any::String(id) => Some(id.to_string()),
                _ => None,
            })
            .collect();
        Some(Self {
            value: map.get("v")?.clone(),
            version: number("n").filter(|version| *version > 0)?,
            id: text("id")?,
            author: text("by")?,
            at_ms: number("at")?,
            recent_ids: ids.filter(|ids| ids.len() <= MAX_RECENT_IDS)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(id: &str, based_on: Option<(u64, &str)>) -> RegisterWrite {
        let based_on = based_on.map(|(version, id)| (version, id.to_owned()));
        let value = Any::from(format!("value of {id}"));
        RegisterWrite { id: id.to_owned(), based_on, value, author: "ann".to_owned(), at_ms: 1_790_000_000_000 }
    }

    #[test]
    fn one_of_two_writes_on_the_same_version_is_accepted() {
        let first = RegisterState::accept(None, &write("a", None)).unwrap();
        assert_eq!((first.version, first.id.as_str()), (1, "a"));
        let second = first.next(&write("b", Some((1, "a")))).unwrap();
        assert_eq!(second.next(&write("c", Some((1, "a")))).unwrap_err().current, Some(Box::new(second.clone())));
        assert!(second.next(&write("c", None)).is_err());
        assert!(second.next(&write("c", Some((2, "a")))).is_err(), "same version number, other id");
        assert!(RegisterState::accept(None, &write("c", Some((1, "a")))).is_err());
        assert_eq!(second.next(&write("c", Some((2, "b")))).unwrap().recent_ids, ["a", "b", "c"]);
    }

    #[test]
    fn retry_is_accepted_and_changes_nothing() {
        let first = RegisterState::accept(None, &write("a", None)).unwrap();
        let second = first.next(&write("b", Some((1, "a")))).unwrap();
        assert_eq!(second.next(&write("a", None)).unwrap(), second);
        let mut state = second;
        for number in 0..MAX_RECENT_IDS {
            let based_on = Some((state.version, state.id.clone()));
            state = state.next(&RegisterWrite { based_on, ..write(&number.to_string(), None) }).unwrap();
        }
        assert_eq!(state.recent_ids.len(), MAX_RECENT_IDS);
        assert!(state.next(&write("a", None)).is_err(), "a forgotten id is a conflict, not a second write");
    }

    #[test]
    fn state_roundtrips_and_malformed_values_are_none() {
        let state = RegisterState::accept(None, &write("a", None)).unwrap();
        assert_eq!(RegisterState::from_any(&state.to_any()), Some(state.clone()));
        for junk in ["null", "7", "{}", r#"{"v":1,"n":0,"id":"a","by":"b","at":1,"ids":[]}"#] {
            assert_eq!(RegisterState::from_any(&Any::from_json(junk).unwrap()), None);
        }
        let by_npm = r#"{"v":1,"n":1,"id":"a","by":"b","at":1.79e12,"ids":["a"]}"#;
        assert_eq!(RegisterState::from_any(&Any::from_json(by_npm).unwrap()).unwrap().at_ms, 1_790_000_000_000);
    }
}
