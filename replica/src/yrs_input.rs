//! PURE: updates as yrs 0.28.1 can take them. What every Yjs client reads may be too much for yrs:
//!
//! - it joins neighbours one by one, each time with a copy of what they hold together: memory by the square of their number.
//!   So neighbours are joined before it sees them;
//! - an item whose parent is no type makes it fail. Yjs makes garbage of such an item, and so does this;
//! - it reads JSON with `serde_json`, which takes no half of a surrogate pair and no integer beyond 64 bits. The half becomes
//!   U+FFFD; what cannot be mended so becomes `null`;
//! - it reads one text too many of a list of before Yjs 13, whose values become `Any`, and not the name of a `YXmlHook`, which
//!   becomes a map;
//! - it reads the number of a type as one byte.

use std::borrow::Cow;
use std::collections::BTreeSet;

use syncline_protocol::update::json_for_yrs;
use syncline_protocol::update::raw::{
    Id, Joint, Parent, RawSection, RawStruct, RawUpdate, write_gc, write_section_head,
};
use syncline_protocol::varint::write_var_uint;

use yrs::Any;
use yrs::updates::encoder::{Encoder, EncoderV1};

use crate::structs::Written;

/// What must be known of a document to prepare updates of it.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    /// The items that hold a type: the only ones that can be parents.
    types: BTreeSet<Id>,
}

impl Intake {
    /// An update that was scanned and waits for nothing, as yrs can take it.
    pub(crate) fn prepare<'a>(&mut self, update: &'a [u8]) -> Cow<'a, [u8]> {
        self.note_types(update);
        if self.is_fine(update) {
            return Cow::Borrowed(update);
        }
        let mut raw = RawUpdate::new(update);
        let (mut out, mut sections) = (Vec::new(), 0);
        let (mut body, mut part) = (Vec::new(), Vec::new());
        while let Some(mut section) = raw.section() {
            let (client, start) = (section.client, section.clock);
            let mut written = Written::at(0, usize::MAX);
            body.clear();
            for found in section.by_ref() {
                part.clear();
                if self.replace(&found, &mut part) {
                    if let Some(found) = RawSection::new(client, found.start, 1, &part).next() {
                        written.push(&found, || true, &mut body);
                    }
                } else {
                    written.push(&found, || true, &mut body);
                }
            }
            raw.after(&section);
            write_section_head(written.structs(), client, start, &mut out);
            out.extend_from_slice(&body);
            sections += 1;
        }
        let mut whole = Vec::with_capacity(out.len() + raw.rest().len() + 4);
        write_var_uint(&mut whole, sections);
        whole.extend_from_slice(&out);
        whole.extend_from_slice(raw.rest());
        Cow::Owned(whole)
    }

    /// What was written here by yrs itself.
    pub(crate) fn note_types(&mut self, update: &[u8]) {
        let mut raw = RawUpdate::new(update);
        while let Some(mut section) = raw.section() {
            let types = section.by_ref().filter(RawStruct::is_type);
            self.types.extend(types.map(|found| Id { client: found.client, clock: found.start }));
            raw.after(&section);
        }
    }

    /// True when nothing has to be replaced or joined.
    fn is_fine(&self, update: &[u8]) -> bool {
        let (mut raw, mut part, mut is_fine) = (RawUpdate::new(update), Vec::new(), true);
        while let Some(mut section) = raw.section() {
            let mut before: Option<Joint> = None;
            for found in section.by_ref() {
                is_fine &= !before.is_some_and(|before| found.continues(&before)) && !self.replace(&found, &mut part);
                before = found.joint();
                part.clear();
            }
            raw.after(&section);
        }
        is_fine
    }

    /// Writes something else in place of a struct. False: it can stay.
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
            found.write_with_values(&texts.into_iter().map(value_of).collect::<Vec<_>>(), out);
        } else {
            return found.write_type_for_yrs(out);
        }
        true
    }
}

/// The value of a text in a list of before Yjs 13, encoded.
fn value_of(text: &str) -> Vec<u8> {
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

    /// The tree of one update, prepared.
    fn tree_of(update: &[u8]) -> Crdt {
        let mut tree = Crdt::default();
        tree.apply(&Intake::default().prepare(update)).expect("yrs takes it");
        tree
    }

    #[test]
    fn neighbours_are_joined() {
        // Client 1 types "a", then "b" behind it, then "c" before both.
        let update = [1, 3, 1, 0, 4, 1, 1, b't', 1, b'a', 0x84, 1, 0, 1, b'b', 0x44, 1, 0, 1, b'c', 0];
        let prepared = Intake::default().prepare(&update).into_owned();
        assert_eq!(prepared, [1, 2, 1, 0, 4, 1, 1, b't', 2, b'a', b'b', 0x44, 1, 0, 1, b'c', 0]);
        let tree = tree_of(&update);
        let txn = tree.doc.transact();
        assert_eq!(txn.get_text("t").expect("a text").get_string(&txn), "cab");
    }

    #[test]
    fn what_only_yjs_reads_is_made_readable() {
        // Client 1: a list of before Yjs 13 with 7 and undefined; client 2: a key that holds a hook; client 3 types into client
        // 1's list element, as if it were a type.
        let mut update = vec![3, 1, 3, 0, 4, 0, 1, 0, 1, b'x'];
        update.extend([1, 2, 0, 0x27, 1, 1, b'm', 1, b'k', 0x85, 0, 4, b'h', b'o', b'o', b'k']);
        update.extend([1, 1, 0, 2, 1, 1, b'l', 2, 1, b'7', 9]);
        update.extend(b"undefined");
        update.push(0);
        let tree = tree_of(&update);
        let txn = tree.doc.transact();
        let list = txn.get_array("l").expect("a list");
        assert_eq!(list.iter(&txn).collect::<Vec<_>>(), [Out::Any(Any::from(7)), Out::Any(Any::Undefined)]);
        assert!(matches!(txn.get_map("m").expect("a map").get(&txn, "k"), Some(Out::YMap(_))));
        assert_eq!(tree.known().len(), 3);
    }

    #[test]
    fn an_ordinary_update_is_not_copied() {
        let update = [1, 1, 1, 0, 4, 1, 1, b't', 1, b'a', 0];
        assert!(matches!(Intake::default().prepare(&update), Cow::Borrowed(_)));
    }
}
