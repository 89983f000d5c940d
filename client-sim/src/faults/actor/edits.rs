//! The edits of an actor, on the same root types as in `tests/node/support/scenario-edits.mjs`. Each edit writes its id
//! into the document, so that a test can look for every edit at the end.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use rand::RngExt;
use syncline_client::Ulid;
use syncline_client::types::choice::Signature;
use syncline_client::types::{ChoiceRegister, CounterRoot, Hlc, LwwMapRoot, Value};
use syncline_client::yrs::{Any, Array, GetString, Map, Out, Text, TransactionMut, WriteTxn};

/// Keys that `put` and `last` write.
const KEYS: u64 = 3;
/// Largest increment of `count`.
const MAX_AMOUNT: u64 = 9;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ActorEditKind {
    Insert,
    Append,
    Delete,
    Map,
    Push,
    Put,
    Count,
    Last,
    Choice,
}

/// One edit of an actor.
#[derive(Debug, Clone)]
pub(super) struct ActorEdit {
    kind: ActorEditKind,
    /// Device name, a dash, any suffix.
    pub(super) id: String,
    /// Random number that selects the position, the increment or the key.
    dice: u64,
}

impl ActorEdit {
    pub(super) fn new(kind: &str, id: &str, dice: u64) -> Result<Self> {
        let kind = match kind {
            "insert" | "text" => ActorEditKind::Insert,
            "append" => ActorEditKind::Append,
            "delete" => ActorEditKind::Delete,
            "map" => ActorEditKind::Map,
            "push" | "array" => ActorEditKind::Push,
            "put" => ActorEditKind::Put,
            "count" | "counter" => ActorEditKind::Count,
            "last" => ActorEditKind::Last,
            "choice" => ActorEditKind::Choice,
            _ => bail!("{kind:?} is not a kind of edit"),
        };
        Ok(Self { kind, id: id.to_owned(), dice })
    }

    fn amount(&self) -> u64 {
        1 + self.dice % MAX_AMOUNT
    }

    fn key(&self) -> String {
        format!("k{}", self.dice % KEYS)
    }

    fn author(&self) -> &str {
        self.id.split('-').next().unwrap_or(&self.id)
    }

    /// Applies the edit. Returns the ids of the edits that it replaced, or `None` when there was nothing to do.
    pub(super) fn apply(&self, txn: &mut TransactionMut<'_>) -> Result<Option<Vec<String>>> {
        let id = self.id.clone();
        let mut replaced = Vec::new();
        match self.kind {
            ActorEditKind::Insert => {
                let text = txn.get_or_insert_text("text");
                let content = text.get_string(txn);
                let ends = content.match_indices(']').map(|(at, _)| at + 1);
                let places: Vec<usize> = std::iter::once(0).chain(ends).collect();
                text.insert(txn, self.pick(&places).unwrap_or(0) as u32, &format!("[{id}]"));
            }
            ActorEditKind::Append => {
                let log = txn.get_or_insert_text("log");
                log.push(txn, &format!("[{id}]"));
            }
            ActorEditKind::Delete => {
                let text = txn.get_or_insert_text("text");
                let content = text.get_string(txn);
                let ends = content.match_indices(']').map(|(at, _)| at);
                let tokens: Vec<_> = content.match_indices('[').map(|(at, _)| at).zip(ends).collect();
                let Some((begin, end)) = self.pick(&tokens) else { return Ok(None) };
                text.remove_range(txn, begin as u32, (end + 1 - begin) as u32);
                replaced.push(content[begin + 1..end].to_owned());
            }
            ActorEditKind::Map => drop(txn.get_or_insert_map("map").insert(txn, id.clone(), id)),
            ActorEditKind::Push => drop(txn.get_or_insert_array("list").push_back(txn, id)),
            ActorEditKind::Put => {
                let map = txn.get_or_insert_map("keys");
                replaced.extend(map.get(txn, &self.key()).and_then(|before| string_of(&before)));
                map.insert(txn, self.key(), id);
            }
            ActorEditKind::Count => drop(CounterRoot::new("counter").increment(txn, self.amount() as i64)?),
            ActorEditKind::Last => {
                let map = LwwMapRoot::new("last");
                let before = map.get(txn, &self.key());
                replaced.extend(before.and_then(string_in));
                map.set(txn, &mut Hlc::new(self.author()), now_ms(), &self.key(), &Value::Text(id))?;
            }
            ActorEditKind::Choice => {
                let choice = ChoiceRegister::new("choice");
                replaced.extend(choice.versions(txn).into_iter().filter_map(|version| string_in(version.value)));
                let ulid = Ulid::from_parts(now_ms(), rand::rng().random());
                let signature = Signature { id: ulid.to_string(), author: self.author().to_owned(), at_ms: now_ms() };
                choice.write(txn, &Value::Text(id), &signature)?;
            }
        }
        Ok(Some(replaced))
    }

    fn pick<T: Copy>(&self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[(self.dice % from.len() as u64) as usize])
    }
}

fn string_of(value: &Out) -> Option<String> {
    match value {
        Out::Any(Any::String(text)) => Some(text.to_string()),
        _ => None,
    }
}

fn string_in(value: Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
