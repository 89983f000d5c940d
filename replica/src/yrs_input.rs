//! PURE: rewrites updates so that yrs 0.28.1 can apply them. yrs fails on some input that every Yjs client reads:
//!
//! - it joins adjacent structs one by one, each time copying their combined content: memory quadratic in their number.
//!   Fix: adjacent structs are joined beforehand;
//! - it fails on an item whose parent is not a type. Fix: the item becomes garbage, as in Yjs;
//! - it parses JSON with `serde_json`, which accepts neither lone surrogates nor integers beyond 64 bits. Fix: a lone
//!   surrogate becomes U+FFFD; any other JSON that yrs cannot parse becomes `null`;
//! - it reads one string too many of a list from Yjs before 13 (`ContentJSON`). Fix: the values become `Any`;
//! - it does not read the name of a `YXmlHook`. Fix: the hook becomes a map;
//! - it reads the number of a type as one byte. Fix: a padded number is written as one byte.

use std::borrow::Cow;
use std::collections::BTreeSet;

use syncline_protocol::update::Id;
use syncline_protocol::update::json_for_yrs;
use syncline_protocol::update::raw::{
    JoinPoint, Parent, RawSection, RawStruct, RawUpdate, write_gc, write_section_header,
};
use syncline_protocol::varint::write_var_uint;

use yrs::Any;
use yrs::updates::encoder::{Encoder, EncoderV1};

use crate::structs::StructWriter;

/// What must be known about a document to prepare its updates.
#[derive(Debug, Default)]
pub(crate) struct UpdatePreparer {
    /// The items that hold a type: the only ones that can be parents.
    types: BTreeSet<Id>,
}

impl UpdatePreparer {
    /// Rewrites a scanned update without missing dependencies for yrs. Borrows it if nothing has to be changed.
    pub(crate) fn prepare<'a>(&mut self, update: &'a [u8]) -> Cow<'a, [u8]> {
        self.record_types(update);
        if self.needs_no_change(update) {
            return Cow::Borrowed(update);
        }
        let mut raw = RawUpdate::new(update);
        let (mut out, mut sections) = (Vec::new(), 0);
        let (mut body, mut replacement) = (Vec::new(), Vec::new());
        while let Some(mut section) = raw.section() {
            let (client, start) = (section.client, section.clock);
            let mut written = StructWriter::at(0, usize::MAX);
            body.clear();
            for found in section.by_ref() {
                replacement.clear();
                if self.replace(&found, &mut replacement) {
                    if let Some(found) = RawSection::new(client, found.start, 1, &replacement).next() {
                        written.push(&found, || true, &mut body);
                    }
                } else {
                    written.push(&found, || true, &mut body);
                }
            }
            raw.resume_after(&section);
            write_section_header(written.structs(), client, start, &mut out);
            out.extend_from_slice(&body);
            sections += 1;
        }
        let mut whole = Vec::with_capacity(out.len() + raw.rest().len() + 4);
        write_var_uint(&mut whole, sections);
        whole.extend_from_slice(&out);
        whole.extend_from_slice(raw.rest());
        Cow::Owned(whole)
    }

    /// Records the types in an update. `prepare` calls it; call it directly for updates that yrs created.
    pub(crate) fn record_types(&mut self, update: &[u8]) {
        let mut raw = RawUpdate::new(update);
        while let Some(mut section) = raw.section() {
            let types = section.by_ref().filter(RawStruct::is_type);
            self.types.extend(types.map(|found| Id { client: found.client, clock: found.start }));
            raw.resume_after(&section);
        }
    }

    /// True when nothing has to be replaced or joined.
    fn needs_no_change(&self, update: &[u8]) -> bool {
        let (mut raw, mut replacement, mut needs_no_change) = (RawUpdate::new(update), Vec::new(), true);
        while let Some(mut section) = raw.section() {
            let mut before: Option<JoinPoint> = None;
            for found in section.by_ref() {
                needs_no_change &=
                    !before.is_some_and(|before| found.continues(&before)) && !self.replace(&found, &mut replacement);
                before = found.join_point();
                replacement.clear();
            }
            raw.resume_after(&section);
        }
        needs_no_change
    }

    /// Appends a replacement for a struct. Returns false, and appends nothing, if yrs can read the struct unchanged.
    fn replace(&self, found: &RawStruct<'_>, out: &mut Vec<u8>) -> bool {
        if let Some(Parent::Item(id)) = found.parent
            && !self.types.contains(&id)
        {
            write_gc(found.end - found.start, out);
            return true;
        }
        if let Some(readable) = found.json().and_then(json_for_yrs) {
            found.write_with_json(&readable, out);
        } else if let Some(texts) = found.json_texts() {
            found.write_with_values(&texts.into_iter().map(encode_json_value).collect::<Vec<_>>(), out);
        } else {
            return found.write_type_for_yrs(out);
        }
        true
    }
}

/// The encoded `Any` value for a string of a list from Yjs before 13.
fn encode_json_value(text: &str) -> Vec<u8> {
    let readable = json_for_yrs(text);
    let value = match text {
        "undefined" => Any::Undefined,
        _ => Any::from_json(readable.as_deref().unwrap_or(text)).unwrap_or(Any::Undefined),
    };
    let mut encoder = EncoderV1::new();
    value.encode(&mut encoder);
    encoder.to_vec()
}

#[cfg(test)]
mod tests {
    use yrs::{Any, Array, GetString, Map, Out, ReadTxn, Transact};

    use super::*;
    use crate::Crdt;

    /// The tree built from one prepared update.
    fn tree_from(update: &[u8]) -> Crdt {
        let mut tree = Crdt::default();
        tree.apply(&UpdatePreparer::default().prepare(update)).expect("yrs applies the prepared update");
        tree
    }

    #[test]
    fn adjacent_structs_are_joined() {
        // Client 1 types "a", then "b" after it, then "c" before both.
        let update = [1, 3, 1, 0, 4, 1, 1, b't', 1, b'a', 0x84, 1, 0, 1, b'b', 0x44, 1, 0, 1, b'c', 0];
        let prepared = UpdatePreparer::default().prepare(&update).into_owned();
        assert_eq!(prepared, [1, 2, 1, 0, 4, 1, 1, b't', 2, b'a', b'b', 0x44, 1, 0, 1, b'c', 0]);
        let tree = tree_from(&update);
        let txn = tree.doc.transact();
        assert_eq!(txn.get_text("t").expect("a text").get_string(&txn), "cab");
    }

    #[test]
    fn content_that_only_yjs_reads_is_rewritten_for_yrs() {
        // Client 1: a list from Yjs before 13 with 7 and undefined. Client 2: a key whose value is a hook. Client 3: a
        // letter whose parent is client 1's list element, which is not a type.
        let mut update = vec![3, 1, 3, 0, 4, 0, 1, 0, 1, b'x'];
        update.extend([1, 2, 0, 0x27, 1, 1, b'm', 1, b'k', 0x85, 0, 4, b'h', b'o', b'o', b'k']);
        update.extend([1, 1, 0, 2, 1, 1, b'l', 2, 1, b'7', 9]);
        update.extend(b"undefined");
        update.push(0);
        let tree = tree_from(&update);
        let txn = tree.doc.transact();
        let list = txn.get_array("l").expect("a list");
        assert_eq!(list.iter(&txn).collect::<Vec<_>>(), [Out::Any(Any::from(7)), Out::Any(Any::Undefined)]);
        assert!(matches!(txn.get_map("m").expect("a map").get(&txn, "k"), Some(Out::YMap(_))));
        assert_eq!(tree.known().len(), 3);
    }

    #[test]
    fn ordinary_update_is_borrowed() {
        let update = [1, 1, 1, 0, 4, 1, 1, b't', 1, b'a', 0];
        assert!(matches!(UpdatePreparer::default().prepare(&update), Cow::Borrowed(_)));
    }
}
