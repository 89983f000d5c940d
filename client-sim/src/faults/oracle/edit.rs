//! An edit: its id, its kind, and how it is applied to a document.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use syncline_client::Ulid;
use syncline_client::types::choice::{ChoiceRegister, Signature};
use syncline_client::types::clock::Hlc;
use syncline_client::types::counter::CounterRoot;
use syncline_client::types::lww_map::LwwMapRoot;
use syncline_client::types::register::REGISTERS_ROOT;
use syncline_client::types::value::Value;
use syncline_client::yrs::{Any, Array, GetString, Map, Out, ReadTxn, Text, TransactionMut, WriteTxn};

/// Root of a text with insertions and deletions of tokens.
pub(crate) const TEXT: &str = "text";
/// Root of a text to which tokens are only appended.
pub(crate) const LOG: &str = "log";
/// Root of a map in which each edit sets its own key.
pub(crate) const MAP: &str = "map";
/// Root of an array of ids.
pub(crate) const LIST: &str = "list";
/// Root of a counter.
pub(crate) const COUNTER: &str = "counter";
/// Root of a last-writer-wins map whose keys are overwritten.
pub(crate) const LAST: &str = "last";
/// Root of a choice register, which keeps all writes that were not superseded.
pub(crate) const CHOICE: &str = "choice";

/// Number of keys in [`LAST`].
const LAST_KEYS: u64 = 3;
/// Largest increment of the counter.
const MAX_AMOUNT: u64 = 9;

/// Identifies an edit by its device and its number on that device. Written as `d3-17`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id {
    /// Number of the device.
    pub device: u32,
    /// Number of the edit on its device, from 1.
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
            // Only the canonical spelling, so that ids can be searched for in texts.
            Some((device, number)) if (Id { device, number }).to_string() == text => Ok(Id { device, number }),
            _ => Err(format!("{text:?} is not the id of an edit")),
        }
    }
}

/// Kind of an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EditKind {
    /// Inserts its token between two others.
    Insert,
    /// Appends its token.
    Append,
    /// Deletes a token that the device sees.
    Delete,
    /// Sets its own key in a map.
    Map,
    /// Pushes its id to an array.
    Push,
    /// Adds to a counter.
    Count,
    /// Writes a key that other edits write, too; the last write wins.
    Last,
    /// Writes a choice: replaces the writes that it sees, and is kept beside those that it does not see.
    Choice,
    /// Proposes a value for a versioned register.
    Proposal,
}

impl EditKind {
    /// Every kind.
    pub(crate) const ALL: [EditKind; 9] = [
        EditKind::Insert,
        EditKind::Append,
        EditKind::Delete,
        EditKind::Map,
        EditKind::Push,
        EditKind::Count,
        EditKind::Last,
        EditKind::Choice,
        EditKind::Proposal,
    ];
}

impl fmt::Display for EditKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EditKind::Insert => "insert",
            EditKind::Append => "append",
            EditKind::Delete => "delete",
            EditKind::Map => "map",
            EditKind::Push => "push",
            EditKind::Count => "count",
            EditKind::Last => "last",
            EditKind::Choice => "choice",
            EditKind::Proposal => "proposal",
        })
    }
}

impl FromStr for EditKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        EditKind::ALL.into_iter().find(|kind| kind.to_string() == text).ok_or(format!("{text:?} is not a kind of edit"))
    }
}

/// State of a device that some edits need.
#[derive(Debug, Clone)]
pub(crate) struct EditContext {
    /// Hybrid logical clock that stamps writes of [`EditKind::Last`].
    pub clock: Hlc,
    /// Reading of the device's clock, which may be wrong, in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// One edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edit {
    /// Its id, which it writes into the document.
    pub id: Id,
    /// Its kind.
    pub kind: EditKind,
    /// Random number that selects the position, the increment, the key or the token to delete.
    pub dice: u64,
}

impl Edit {
    /// The increment of a [`EditKind::Count`].
    pub(crate) fn amount(&self) -> u64 {
        1 + self.dice % MAX_AMOUNT
    }

    /// The key that a [`EditKind::Last`] writes.
    pub(crate) fn key(&self) -> String {
        format!("k{}", self.dice % LAST_KEYS)
    }

    /// The token of an edit of a text.
    pub(crate) fn token(&self) -> String {
        format!("[{}]", self.id)
    }

    /// Applies the edit. Returns the ids that it replaced, or `None` when there was nothing to do.
    pub(crate) fn apply(&self, txn: &mut TransactionMut<'_>, context: &mut EditContext) -> Option<Vec<Id>> {
        let id = self.id.to_string();
        match self.kind {
            EditKind::Insert => {
                let text = txn.get_or_insert_text(TEXT);
                let content = text.get_string(txn);
                let places: Vec<usize> =
                    std::iter::once(0).chain(content.match_indices(']').map(|(at, _)| at + 1)).collect();
                text.insert(txn, pick(&places, self.dice).unwrap_or(0) as u32, &self.token());
            }
            EditKind::Append => {
                let log = txn.get_or_insert_text(LOG);
                log.push(txn, &self.token());
            }
            EditKind::Delete => {
                let text = txn.get_or_insert_text(TEXT);
                let content = text.get_string(txn);
                let tokens: Vec<(usize, usize, Id)> = super::view::tokens(&content).0;
                let (at, len, victim) = pick(&tokens, self.dice)?;
                text.remove_range(txn, at as u32, len as u32);
                return Some(vec![victim]);
            }
            EditKind::Map => drop(txn.get_or_insert_map(MAP).insert(txn, id.clone(), id)),
            EditKind::Push => drop(txn.get_or_insert_array(LIST).push_back(txn, id)),
            EditKind::Count => {
                // Cannot overflow: a scenario has thousands of edits, not 10^15.
                drop(counter().increment(txn, self.amount() as i64));
            }
            EditKind::Last => {
                let before = LwwMapRoot::new(LAST).get(txn, &self.key()).as_ref().and_then(id_of);
                drop(LwwMapRoot::new(LAST).set(txn, &mut context.clock, context.now_ms, &self.key(), &Value::Text(id)));
                return Some(before.into_iter().collect());
            }
            EditKind::Choice => {
                let choice = ChoiceRegister::new(CHOICE);
                let seen = choice.versions(txn).iter().filter_map(|version| id_of(&version.value)).collect();
                let unique = u128::from(self.dice) << 16 | u128::from(self.id.number);
                let signature = Signature {
                    id: Ulid::from_parts(context.now_ms, unique).to_string(),
                    author: format!("device {}", self.id.device),
                    at_ms: context.now_ms,
                };
                drop(choice.write(txn, &Value::Text(id), &signature));
                return Some(seen);
            }
            // Proposals are not applied to the document: the server decides them.
            EditKind::Proposal => return None,
        }
        Some(Vec::new())
    }
}

fn pick<T: Copy>(from: &[T], dice: u64) -> Option<T> {
    (!from.is_empty()).then(|| from[(dice % from.len() as u64) as usize])
}

/// Returns the string of a value that is one.
pub(super) fn string_of(value: &Out) -> Option<String> {
    match value {
        Out::Any(Any::String(text)) => Some(text.to_string()),
        _ => None,
    }
}

/// The counter of a document.
pub(super) fn counter() -> CounterRoot {
    CounterRoot::new(COUNTER)
}

/// Parses a text value as an id.
pub(super) fn id_of(value: &Value) -> Option<Id> {
    match value {
        Value::Text(text) => text.parse().ok(),
        _ => None,
    }
}

/// Names of all roots that [`Edit::apply`] writes. Any other root is unexpected.
pub(crate) const ROOTS: [&str; 8] = [TEXT, LOG, MAP, LIST, COUNTER, LAST, CHOICE, REGISTERS_ROOT];

/// The JSON of a root that no edit writes.
pub(super) fn foreign_json<T: ReadTxn>(txn: &T, name: &str) -> String {
    use syncline_client::yrs::types::ToJson;
    let mut json = String::new();
    if let Some(map) = txn.get_map(name) {
        map.to_json(txn).to_json(&mut json);
    }
    json
}
