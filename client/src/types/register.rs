//! A value with versions: whoever writes says which version it has seen, and the server takes one such write.
//!
//! Registers lie in the root Y.Map `syncline:registers`, one key each, written by the server alone (compare and set).
//! Here is what a key holds, and the decision: [`RegisterState::accept`]. Both need no more than yrs' `Any`.

use std::collections::HashMap;
use std::sync::Arc;

use thiserror::Error;
use yrs::{Any, Number};

/// The root Y.Map that holds all registers of a document.
pub const REGISTERS_ROOT: &str = "syncline:registers";

/// How many accepted writes a register remembers: a retry of one of them is answered as it was.
pub const MAX_RECENT_IDS: usize = 32;

/// The last version there can be, 2^53 - 1, and the last time.
const MAX_INTEGER: u64 = (1 << 53) - 1;

/// What a register holds.
#[derive(Debug, Clone, PartialEq)]
pub struct RegisterState {
    /// The value.
    pub value: Any,
    /// From 1, one more with each accepted write.
    pub version: u64,
    /// The write that made this version (ULID).
    pub id: String,
    /// Who made it.
    pub author: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The latest accepted writes, newest last; at most [`MAX_RECENT_IDS`].
    pub recent_ids: Vec<String>,
}

/// A wish to set a register.
#[derive(Debug, Clone, PartialEq)]
pub struct RegisterWrite {
    /// A ULID, made once for this write and kept over retries.
    pub id: String,
    /// The version and id that the writer had seen; `None` if nothing was ever written.
    pub based_on: Option<(u64, String)>,
    /// The new value.
    pub value: Any,
    /// Who writes.
    pub author: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// Someone else was first: nothing was changed.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("the register has changed since it was read: look at the present version and write again")]
pub struct RegisterConflict {
    /// What stands; `None` if nothing was ever written.
    pub current: Option<Box<RegisterState>>,
}

impl RegisterState {
    /// The state after `write`, or the conflict. A write that was accepted before (its id is among the latest) is
    /// accepted again, and changes nothing: the state is given back as it is.
    ///
    /// # Errors
    /// [`RegisterConflict`] if the write is not based on the current version.
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

    /// The state after `write`, from this one: [`RegisterState::accept`].
    ///
    /// # Errors
    /// [`RegisterConflict`].
    pub fn next(&self, write: &RegisterWrite) -> Result<Self, RegisterConflict> {
        Self::accept(Some(self), write)
    }

    /// `{v, n, id, by, at, ids}`, as the key of a register holds it.
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

    /// Reads what a key holds; `None` if it is no register.
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
    fn one_of_two_writes_on_the_same_version_is_taken() {
        let first = RegisterState::accept(None, &write("a", None)).unwrap();
        assert_eq!((first.version, first.id.as_str()), (1, "a"));
        let second = first.next(&write("b", Some((1, "a")))).unwrap();
        assert_eq!(second.next(&write("c", Some((1, "a")))).unwrap_err().current, Some(Box::new(second.clone())));
        assert!(second.next(&write("c", None)).is_err());
        assert!(second.next(&write("c", Some((2, "a")))).is_err(), "the right number of another history");
        assert!(RegisterState::accept(None, &write("c", Some((1, "a")))).is_err());
        assert_eq!(second.next(&write("c", Some((2, "b")))).unwrap().recent_ids, ["a", "b", "c"]);
    }

    #[test]
    fn a_retry_is_accepted_again_and_changes_nothing() {
        let first = RegisterState::accept(None, &write("a", None)).unwrap();
        let second = first.next(&write("b", Some((1, "a")))).unwrap();
        assert_eq!(second.next(&write("a", None)).unwrap(), second);
        let mut state = second;
        for number in 0..MAX_RECENT_IDS {
            let based_on = Some((state.version, state.id.clone()));
            state = state.next(&RegisterWrite { based_on, ..write(&number.to_string(), None) }).unwrap();
        }
        assert_eq!(state.recent_ids.len(), MAX_RECENT_IDS);
        assert!(state.next(&write("a", None)).is_err(), "too long ago to be known: a conflict, not a second write");
    }

    #[test]
    fn a_state_reads_as_it_was_written_and_junk_is_none() {
        let state = RegisterState::accept(None, &write("a", None)).unwrap();
        assert_eq!(RegisterState::from_any(&state.to_any()), Some(state.clone()));
        for junk in ["null", "7", "{}", r#"{"v":1,"n":0,"id":"a","by":"b","at":1,"ids":[]}"#] {
            assert_eq!(RegisterState::from_any(&Any::from_json(junk).unwrap()), None);
        }
        let by_npm = r#"{"v":1,"n":1,"id":"a","by":"b","at":1.79e12,"ids":["a"]}"#;
        assert_eq!(RegisterState::from_any(&Any::from_json(by_npm).unwrap()).unwrap().at_ms, 1_790_000_000_000);
    }
}
