//! Parses a replica's content into the ids of edits.

use std::collections::BTreeMap;

use syncline_client::types::choice::ChoiceRegister;
use syncline_client::types::lww_map::LwwMapRoot;
use syncline_client::types::registers::read_all;
use syncline_client::types::value::Value;
use syncline_client::yrs::updates::decoder::Decode;
use syncline_client::yrs::{Array, Doc, GetString, Map, ReadTxn, Transact, Update};

use super::chain::Register;
use super::edit::{CHOICE, Id, LAST, LIST, LOG, MAP, ROOTS, TEXT, counter, foreign_json, id_of, string_of};

/// The content of a replica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Clock of each client id.
    pub state_vector: BTreeMap<u64, u32>,
    /// The tokens of the text, in order.
    pub text: Vec<Id>,
    /// The tokens of the log, in order.
    pub log: Vec<Id>,
    /// Entries of the map.
    pub map: BTreeMap<String, String>,
    /// Elements of the array.
    pub list: Vec<String>,
    /// Value of the counter.
    pub counter: i64,
    /// Winning write of each key of the last-writer-wins map.
    pub last: BTreeMap<String, String>,
    /// The writes that the choice register keeps.
    pub choice: Vec<String>,
    /// Versioned registers by name.
    pub registers: BTreeMap<String, Register>,
    /// Other roots, as JSON.
    pub foreign: BTreeMap<String, String>,
    /// Descriptions of content that no edit can have written.
    pub unexpected: Vec<String>,
}

impl View {
    /// Reads a replica.
    pub(crate) fn of<T: ReadTxn>(txn: &T) -> Self {
        let mut view = View {
            state_vector: txn.state_vector().iter().map(|(client, clock)| (client.get(), *clock)).collect(),
            ..View::default()
        };
        for (root, into) in [(TEXT, &mut view.text), (LOG, &mut view.log)] {
            let content = txn.get_text(root).map(|text| text.get_string(txn)).unwrap_or_default();
            let (found, rest) = tokens(&content);
            into.extend(found.into_iter().map(|(_, _, id)| id));
            view.unexpected.extend(rest.into_iter().map(|part| format!("{root} holds {part:?}, which is not a token")));
        }
        for value in txn.get_array(LIST).iter().flat_map(|list| list.iter(txn)) {
            match string_of(&value) {
                Some(value) => view.list.push(value),
                None => view.unexpected.push(format!("{LIST} holds {value:?}")),
            }
        }
        for (key, value) in txn.get_map(MAP).iter().flat_map(|map| map.iter(txn)) {
            match string_of(&value) {
                Some(value) => drop(view.map.insert(key.to_owned(), value)),
                None => view.unexpected.push(format!("{MAP} holds {key}: {value:?}")),
            }
        }
        for (key, value) in LwwMapRoot::new(LAST).entries(txn) {
            match id_of(&value) {
                Some(id) => drop(view.last.insert(key, id.to_string())),
                None => view.unexpected.push(format!("{LAST} holds {key}: {value:?}")),
            }
        }
        for version in ChoiceRegister::new(CHOICE).versions(txn) {
            match id_of(&version.value) {
                Some(id) => view.choice.push(id.to_string()),
                None => view.unexpected.push(format!("{CHOICE} holds {version:?}")),
            }
        }
        match counter().value(txn) {
            Ok(value) => view.counter = value,
            Err(error) => view.unexpected.push(error.to_string()),
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
            view.unexpected.push("pending updates with missing dependencies".into());
        }
        view
    }

    /// Reads a document encoded as one v1 update.
    pub(crate) fn of_state(state: &[u8]) -> Result<Self, String> {
        let update = Update::decode_v1(state).map_err(|error| format!("cannot decode the state: {error}"))?;
        let doc = Doc::new();
        let mut txn = doc.transact_mut();
        txn.apply_update(update).map_err(|error| format!("cannot apply the state: {error}"))?;
        Ok(Self::of(&txn))
    }
}

/// Offset, length and id of a token; offset and length in bytes.
pub(super) type Token = (usize, usize, Id);

/// Returns the tokens of a text, and the text between them.
pub(super) fn tokens(content: &str) -> (Vec<Token>, Vec<String>) {
    let (mut found, mut rest) = (Vec::new(), Vec::new());
    let (mut at, mut rest_start) = (0, 0);
    while at < content.len() {
        let token = content[at..].strip_prefix('[').and_then(|after| {
            let end = after.find(']')?;
            Some((end + 2, after[..end].parse::<Id>().ok()?))
        });
        match token {
            Some((len, id)) => {
                if rest_start < at {
                    rest.push(content[rest_start..at].to_owned());
                }
                found.push((at, len, id));
                at += len;
                rest_start = at;
            }
            None => at += content[at..].chars().next().map_or(1, char::len_utf8),
        }
    }
    if rest_start < at {
        rest.push(content[rest_start..at].to_owned());
    }
    (found, rest)
}
