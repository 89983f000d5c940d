//! PURE: small v1 updates that a server creates itself: setting a key of a root map, deleting an element.

use super::content::ANY;
use super::id::Id;
use super::parse::{HAS_ORIGIN, HAS_PARENT_SUB};
use crate::varint::{write_var_bytes, write_var_uint};

/// Encodes an update that sets a key of a root map. `id`: the new entry; `origin`: the key's last entry; `path`: map and
/// key; `value`: lib0 `Any`; `replaced`: an entry that the update deletes.
pub fn set_key(id: Id, origin: Option<Id>, path: (&str, &str), value: &[u8], replaced: Option<Id>) -> Vec<u8> {
    let mut out = Vec::new();
    for number in [1, 1, id.client, id.clock] {
        write_var_uint(&mut out, number);
    }
    match origin {
        Some(id) => {
            out.push(ANY | HAS_PARENT_SUB | HAS_ORIGIN);
            write_var_uint(&mut out, id.client);
            write_var_uint(&mut out, id.clock);
        }
        None => {
            // 1: the parent is a root type.
            out.extend([ANY | HAS_PARENT_SUB, 1]);
            write_var_bytes(&mut out, path.0.as_bytes());
            write_var_bytes(&mut out, path.1.as_bytes());
        }
    }
    write_var_uint(&mut out, 1);
    out.extend_from_slice(value);
    write_delete_set(replaced, &mut out);
    out
}

/// Encodes an update that deletes one element.
pub fn delete(id: Id) -> Vec<u8> {
    let mut out = vec![0];
    write_delete_set(Some(id), &mut out);
    out
}

/// Appends a delete set of one element, or an empty one.
fn write_delete_set(deleted: Option<Id>, out: &mut Vec<u8>) {
    write_var_uint(out, u64::from(deleted.is_some()));
    if let Some(Id { client, clock }) = deleted {
        for number in [client, 1, clock, 1] {
            write_var_uint(out, number);
        }
    }
}
