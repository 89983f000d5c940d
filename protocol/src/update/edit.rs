//! PURE: small v1 updates that a server creates itself: set a key of a root map, delete an element.

use super::content::ANY;
use super::parse::{HAS_ORIGIN, HAS_PARENT_SUB};
use super::raw::Id;
use crate::varint::{write_var_bytes, write_var_uint};

/// An update that sets a key of a root map. `own`: the id of the new entry; `before`: the key's last entry; `place`: the
/// map and the key; `value`: lib0 `Any`; `replaced`: the entry that is deleted with it.
pub fn set_key(own: Id, before: Option<Id>, place: (&str, &str), value: &[u8], replaced: Option<Id>) -> Vec<u8> {
    let mut out = Vec::new();
    for number in [1, 1, own.client, own.clock] {
        write_var_uint(&mut out, number);
    }
    match before {
        Some(id) => {
            out.push(ANY | HAS_PARENT_SUB | HAS_ORIGIN);
            write_var_uint(&mut out, id.client);
            write_var_uint(&mut out, id.clock);
        }
        None => {
            // Its parent is a root type.
            out.extend([ANY | HAS_PARENT_SUB, 1]);
            write_var_bytes(&mut out, place.0.as_bytes());
            write_var_bytes(&mut out, place.1.as_bytes());
        }
    }
    write_var_uint(&mut out, 1);
    out.extend_from_slice(value);
    write_delete_set(replaced, &mut out);
    out
}

/// An update that deletes one element.
pub fn delete(id: Id) -> Vec<u8> {
    let mut out = vec![0];
    write_delete_set(Some(id), &mut out);
    out
}

/// Appends a delete set of one element, or of none.
fn write_delete_set(deleted: Option<Id>, out: &mut Vec<u8>) {
    write_var_uint(out, u64::from(deleted.is_some()));
    if let Some(Id { client, clock }) = deleted {
        for number in [client, 1, clock, 1] {
            write_var_uint(out, number);
        }
    }
}
