//! Reads the versioned registers of a document; only the server writes them.

use std::collections::BTreeMap;

use yrs::{Map, Out, ReadTxn};

use super::register::{REGISTERS_ROOT, RegisterState};

/// Returns the state of the named register; `None` if it was never written.
pub fn read<T: ReadTxn>(txn: &T, name: &str) -> Option<RegisterState> {
    match txn.get_map(REGISTERS_ROOT)?.get(txn, name)? {
        Out::Any(any) => RegisterState::from_any(&any),
        _ => None,
    }
}

/// Returns all registers by name. Malformed entries are skipped.
pub fn read_all<T: ReadTxn>(txn: &T) -> BTreeMap<String, RegisterState> {
    let Some(map) = txn.get_map(REGISTERS_ROOT) else { return BTreeMap::new() };
    map.iter(txn)
        .filter_map(|(name, out)| match out {
            Out::Any(any) => Some((name.to_owned(), RegisterState::from_any(&any)?)),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use yrs::{Any, Doc, Transact};

    use super::super::register::RegisterWrite;
    use super::*;

    #[test]
    fn registers_are_read_by_name() {
        let doc = Doc::with_client_id(1);
        assert_eq!(read(&doc.transact(), "a"), None);
        let write = RegisterWrite {
            id: "id".to_owned(),
            based_on: None,
            value: Any::from(7),
            author: "ann".to_owned(),
            at_ms: 1,
        };
        let state = RegisterState::accept(None, &write).unwrap();
        let map = doc.get_or_insert_map(REGISTERS_ROOT);
        map.insert(&mut doc.transact_mut(), "a", state.to_any());
        map.insert(&mut doc.transact_mut(), "junk", 1);
        assert_eq!(read(&doc.transact(), "a"), Some(state));
        assert_eq!(read(&doc.transact(), "junk"), None);
        assert_eq!(read_all(&doc.transact()).len(), 1);
    }
}
