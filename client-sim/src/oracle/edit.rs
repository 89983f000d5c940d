//! An edit: its id, its kind, and how it gets into a document.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use syncline_client::Ulid;
use syncline_client::types::choice::{ChoiceRegister, Signature};
use syncline_client::types::clock::Hlc;
use syncline_client::types::counter::Counter;
use syncline_client::types::lww_map::LwwMap;
use syncline_client::types::register::REGISTERS_ROOT;
use syncline_client::types::value::Value;
use syncline_client::yrs::{Any, Array, GetString, Map, Out, ReadTxn, Text, TransactionMut, WriteTxn};

/// Root names, one for each way to edit.
pub const TEXT: &str = "text";
/// Only appended to.
pub const LOG: &str = "log";
/// Unique keys.
pub const MAP: &str = "map";
/// A list of ids.
pub const LIST: &str = "list";
/// A counter.
pub const COUNTER: &str = "counter";
/// Keys that are written over.
pub const LAST: &str = "last";
/// Writes that were not superseded.
pub const CHOICE: &str = "choice";

/// Keys in [`LAST`].
const LAST_KEYS: u64 = 3;
/// Largest increment.
const MAX_AMOUNT: u64 = 9;

/// Which edit: the device, and the edit's number there. As text: `d3-17`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    /// The device.
    pub device: u32,
    /// Counts the device's edits, from 1.
    pub number: u32,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "d{}-{}", self.device, self.number)
    }
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.strip_prefix('d').and_then(|rest| rest.split_once('-'));
        let parsed = parts.and_then(|(device, number)| Some((device.parse().ok()?, number.parse().ok()?)));
        match parsed {
            // One way to write it, so that ids can be found in texts.
            Some((device, number)) if (Id { device, number }).to_string() == text => Ok(Id { device, number }),
            _ => Err(format!("{text:?} is no id of an edit")),
        }
    }
}

/// What an edit does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Inserts its token between two others.
    Insert,
    /// Appends its token.
    Append,
    /// Deletes a token that it sees.
    Delete,
    /// Sets a key of its own in a map.
    Map,
    /// Pushes its id to a list.
    Push,
    /// Adds to a counter.
    Count,
    /// Writes a key that others write too: the last one stays.
    Last,
    /// Writes a choice: replaces what it sees, and stays beside what it does not see.
    Choice,
    /// Proposes a value for a versioned register.
    Proposal,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 9] = [
        Kind::Insert,
        Kind::Append,
        Kind::Delete,
        Kind::Map,
        Kind::Push,
        Kind::Count,
        Kind::Last,
        Kind::Choice,
        Kind::Proposal,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Insert => "insert",
            Kind::Append => "append",
            Kind::Delete => "delete",
            Kind::Map => "map",
            Kind::Push => "push",
            Kind::Count => "count",
            Kind::Last => "last",
            Kind::Choice => "choice",
            Kind::Proposal => "proposal",
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Kind::ALL.into_iter().find(|kind| kind.to_string() == text).ok_or(format!("{text:?} is no kind of edit"))
    }
}

/// What a device edits with.
#[derive(Debug, Clone)]
pub struct Pen {
    /// Stamps writes of which the last stays.
    pub clock: Hlc,
    /// What the device's clock shows, right or wrong.
    pub now_ms: u64,
}

/// One edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edit {
    /// Which.
    pub id: Id,
    /// What it does.
    pub kind: Kind,
    /// A random number, for what depends on the document: the place, the amount, the token to delete.
    pub dice: u64,
}

impl Edit {
    /// What a [`Kind::Count`] adds.
    pub fn amount(&self) -> u64 {
        1 + self.dice % MAX_AMOUNT
    }

    /// The key a [`Kind::Last`] writes.
    pub fn key(&self) -> String {
        format!("k{}", self.dice % LAST_KEYS)
    }

    /// The token of an edit of a text.
    pub fn token(&self) -> String {
        format!("[{}]", self.id)
    }

    /// Does it. What it replaced; `None` when there was nothing to do.
    pub fn apply(&self, txn: &mut TransactionMut<'_>, pen: &mut Pen) -> Option<Vec<Id>> {
        let id = self.id.to_string();
        match self.kind {
            Kind::Insert => {
                let text = txn.get_or_insert_text(TEXT);
                let content = text.get_string(txn);
                let places: Vec<usize> =
                    std::iter::once(0).chain(content.match_indices(']').map(|(at, _)| at + 1)).collect();
                text.insert(txn, pick(&places, self.dice).unwrap_or(0) as u32, &self.token());
            }
            Kind::Append => {
                let log = txn.get_or_insert_text(LOG);
                log.push(txn, &self.token());
            }
            Kind::Delete => {
                let text = txn.get_or_insert_text(TEXT);
                let content = text.get_string(txn);
                let tokens: Vec<(usize, usize, Id)> = super::view::tokens(&content).0;
                let (at, len, victim) = pick(&tokens, self.dice)?;
                text.remove_range(txn, at as u32, len as u32);
                return Some(vec![victim]);
            }
            Kind::Map => drop(txn.get_or_insert_map(MAP).insert(txn, id.clone(), id)),
            Kind::Push => drop(txn.get_or_insert_array(LIST).push_back(txn, id)),
            Kind::Count => {
                // It cannot overflow: a scenario has thousands of edits, not 10^15.
                drop(counter().increment(txn, self.amount() as i64));
            }
            Kind::Last => {
                let before = LwwMap::new(LAST).get(txn, &self.key()).as_ref().and_then(id_of);
                drop(LwwMap::new(LAST).set(txn, &mut pen.clock, pen.now_ms, &self.key(), &Value::Text(id)));
                return Some(before.into_iter().collect());
            }
            Kind::Choice => {
                let choice = ChoiceRegister::new(CHOICE);
                let seen = choice.versions(txn).iter().filter_map(|version| id_of(&version.value)).collect();
                let unique = u128::from(self.dice) << 16 | u128::from(self.id.number);
                let signature = Signature {
                    id: Ulid::from_parts(pen.now_ms, unique).to_string(),
                    author: format!("device {}", self.id.device),
                    at_ms: pen.now_ms,
                };
                drop(choice.write(txn, &Value::Text(id), &signature));
                return Some(seen);
            }
            // Not an edit of the document: the server decides it.
            Kind::Proposal => return None,
        }
        Some(Vec::new())
    }
}

fn pick<T: Copy>(from: &[T], dice: u64) -> Option<T> {
    (!from.is_empty()).then(|| from[(dice % from.len() as u64) as usize])
}

/// A value that is a string.
pub(super) fn text(value: &Out) -> Option<String> {
    match value {
        Out::Any(Any::String(text)) => Some(text.to_string()),
        _ => None,
    }
}

/// The counter of a document.
pub(super) fn counter() -> Counter {
    Counter::new(COUNTER)
}

/// The id that a value is.
pub(super) fn id_of(value: &Value) -> Option<Id> {
    match value {
        Value::Text(text) => text.parse().ok(),
        _ => None,
    }
}

/// Names of all roots of [`Edit::apply`], so that a reader knows what is none of ours.
pub const ROOTS: [&str; 8] = [TEXT, LOG, MAP, LIST, COUNTER, LAST, CHOICE, REGISTERS_ROOT];

/// The JSON of a root that no edit of ours makes.
pub(super) fn foreign_json<T: ReadTxn>(txn: &T, name: &str) -> String {
    use syncline_client::yrs::types::ToJson;
    let mut json = String::new();
    if let Some(map) = txn.get_map(name) {
        map.to_json(txn).to_json(&mut json);
    }
    json
}
