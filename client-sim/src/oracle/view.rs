//! A replica's content, taken apart into ids.

use std::collections::BTreeMap;

use syncline_client::types::choice::ChoiceRegister;
use syncline_client::types::lww_map::LwwMap;
use syncline_client::types::registers::read_all;
use syncline_client::types::value::Value;
use syncline_client::yrs::updates::decoder::Decode;
use syncline_client::yrs::{Array, Doc, GetString, Map, ReadTxn, Transact, Update};

use super::chain::Register;
use super::edit::{CHOICE, Id, LAST, LIST, LOG, MAP, ROOTS, TEXT, counter, foreign_json, id_of, text};

/// What a replica holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Client id to clock.
    pub state_vector: BTreeMap<u64, u32>,
    /// The tokens of the text, in order.
    pub text: Vec<Id>,
    /// The tokens of the log, in order.
    pub log: Vec<Id>,
    /// Key to value.
    pub map: BTreeMap<String, String>,
    /// The list.
    pub list: Vec<String>,
    /// The counter's value.
    pub counter: i64,
    /// Key to the last write.
    pub last: BTreeMap<String, String>,
    /// The writes that stand.
    pub choice: Vec<String>,
    /// Registers, as the server decided.
    pub registers: BTreeMap<String, Register>,
    /// Other roots, as JSON.
    pub foreign: BTreeMap<String, String>,
    /// What no edit can have made.
    pub debris: Vec<String>,
}

impl View {
    /// Looks at a replica.
    pub fn of<T: ReadTxn>(txn: &T) -> Self {
        let mut view = View {
            state_vector: txn.state_vector().iter().map(|(client, clock)| (client.get(), *clock)).collect(),
            ..View::default()
        };
        for (root, into) in [(TEXT, &mut view.text), (LOG, &mut view.log)] {
            let content = txn.get_text(root).map(|text| text.get_string(txn)).unwrap_or_default();
            let (found, debris) = tokens(&content);
            into.extend(found.into_iter().map(|(_, _, id)| id));
            view.debris.extend(debris.into_iter().map(|piece| format!("{root} holds {piece:?}, which is no token")));
        }
        for value in txn.get_array(LIST).iter().flat_map(|list| list.iter(txn)) {
            match text(&value) {
                Some(value) => view.list.push(value),
                None => view.debris.push(format!("{LIST} holds {value:?}")),
            }
        }
        for (key, value) in txn.get_map(MAP).iter().flat_map(|map| map.iter(txn)) {
            match text(&value) {
                Some(value) => drop(view.map.insert(key.to_owned(), value)),
                None => view.debris.push(format!("{MAP} holds {key}: {value:?}")),
            }
        }
        for (key, value) in LwwMap::new(LAST).entries(txn) {
            match id_of(&value) {
                Some(id) => drop(view.last.insert(key, id.to_string())),
                None => view.debris.push(format!("{LAST} holds {key}: {value:?}")),
            }
        }
        for version in ChoiceRegister::new(CHOICE).versions(txn) {
            match id_of(&version.value) {
                Some(id) => view.choice.push(id.to_string()),
                None => view.debris.push(format!("{CHOICE} holds {version:?}")),
            }
        }
        match counter().value(txn) {
            Ok(value) => view.counter = value,
            Err(error) => view.debris.push(error.to_string()),
        }
        for (name, state) in read_all(txn) {
            let value = id_of(&Value::from_any(&state.value));
            view.registers.insert(name, Register { version: state.version, value });
        }
        let names = txn.root_refs().map(|(name, _)| name.to_owned());
        for name in names.filter(|name| !ROOTS.contains(&name.as_str())).collect::<Vec<_>>() {
            let json = foreign_json(txn, &name);
            view.foreign.insert(name, json);
        }
        if txn.has_missing_updates() {
            view.debris.push("updates wait for others that never came".into());
        }
        view
    }

    /// Looks at an encoded state.
    pub fn of_state(state: &[u8]) -> Result<Self, String> {
        let update = Update::decode_v1(state).map_err(|error| format!("a state cannot be read: {error}"))?;
        let doc = Doc::new();
        let mut txn = doc.transact_mut();
        txn.apply_update(update).map_err(|error| format!("a state cannot be applied: {error}"))?;
        Ok(Self::of(&txn))
    }
}

/// A token: its first byte, its length, its id.
pub(super) type Token = (usize, usize, Id);

/// The tokens of a text with their places, and everything between them.
pub(super) fn tokens(content: &str) -> (Vec<Token>, Vec<String>) {
    let (mut found, mut debris) = (Vec::new(), Vec::new());
    let (mut at, mut loose) = (0, 0);
    while at < content.len() {
        let token = content[at..].strip_prefix('[').and_then(|rest| {
            let end = rest.find(']')?;
            Some((end + 2, rest[..end].parse::<Id>().ok()?))
        });
        match token {
            Some((len, id)) => {
                if loose < at {
                    debris.push(content[loose..at].to_owned());
                }
                found.push((at, len, id));
                at += len;
                loose = at;
            }
            None => at += content[at..].chars().next().map_or(1, char::len_utf8),
        }
    }
    if loose < at {
        debris.push(content[loose..at].to_owned());
    }
    (found, debris)
}
