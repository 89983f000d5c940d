//! PURE: updates as yrs 0.28.1 can take them. What every Yjs client reads may be too much for yrs:
//!
//! - it joins neighbours one by one, each time with a copy of what they hold together: memory by the square of their number.
//!   So neighbours are joined before it sees them;
//! - an item whose parent is no type makes it fail. Yjs makes garbage of such an item, and so does this;
//! - it reads JSON with `serde_json`, which takes no half of a surrogate pair and no integer beyond 64 bits. The half becomes
//!   U+FFFD; what cannot be mended so becomes `null`.

use std::borrow::Cow;
use std::collections::BTreeSet;

use syncline_protocol::update::json_for_yrs;
use syncline_protocol::update::raw::{Id, Parent, RawSection, RawStruct, RawUpdate, write_gc, write_section_head};
use syncline_protocol::varint::write_var_uint;

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
        let mut raw = RawUpdate::new(update);
        let (mut out, mut sections, mut is_same) = (Vec::new(), 0, true);
        let (mut body, mut part) = (Vec::new(), Vec::new());
        while let Some(mut section) = raw.section() {
            let (client, start, structs) = (section.client, section.clock, section.left);
            let mut written = Written::default();
            body.clear();
            for found in section.by_ref() {
                part.clear();
                if self.replace(&found, &mut part) {
                    is_same = false;
                    if let Some(found) = RawSection::new(client, found.start, 1, &part).next() {
                        written.push(&found, || true, 0, &mut body);
                    }
                } else {
                    written.push(&found, || true, 0, &mut body);
                }
            }
            raw.after(&section);
            is_same &= written.structs() == structs;
            write_section_head(written.structs(), client, start, &mut out);
            out.extend_from_slice(&body);
            sections += 1;
        }
        if is_same {
            return Cow::Borrowed(update);
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

    /// Writes something else in place of a struct. False: it can stay.
    fn replace(&self, found: &RawStruct<'_>, out: &mut Vec<u8>) -> bool {
        if let Some(Parent::Item(id)) = found.parent
            && !self.types.contains(&id)
        {
            write_gc(found.end - found.start, out);
            return true;
        }
        match found.json().and_then(json_for_yrs) {
            Some(readable) => {
                found.write_with_json(&readable, out);
                true
            }
            None => false,
        }
    }
}
