//! Reads the structs of a scanned update with all their fields, and writes them.

use std::ops::Range;

use super::content::{self, ANY, DELETED, EMBED, FORMAT, JSON, MAP, STRING, TYPE, XML_HOOK};
use super::id::Id;
use super::parse::{GC, HAS_ORIGIN, HAS_PARENT_SUB, HAS_RIGHT_ORIGIN, SKIP, TAG_BITS};
use super::{ScanError, parse};
use crate::varint::{ReadError, Reader, var_uint_len, write_var_bytes, write_var_uint, write_var_uint_at};

/// The parent type of an item. Encoded only for items without origins; other items have the parent of their origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent<'a> {
    /// A root type, by name.
    Root(&'a [u8]),
    /// The type that is the content of the item with this id.
    Item(Id),
}

/// One struct: an item, a range of garbage (GC), or (in updates only) a skip.
#[derive(Debug, Clone, Copy)]
pub struct RawStruct<'a> {
    /// The client that created the struct.
    pub client: u64,
    /// The first clock.
    pub start: u64,
    /// The clock after the last one.
    pub end: u64,
    /// The first byte: content kind and flags.
    pub(super) info: u8,
    /// The left neighbour at creation.
    pub origin: Option<Id>,
    /// The right neighbour at creation.
    pub right_origin: Option<Id>,
    /// The parent type; only encoded for an item without origins.
    pub parent: Option<Parent<'a>>,
    /// The key in a map; only encoded for an item without origins.
    pub key: Option<&'a [u8]>,
    /// The encoded struct.
    pub bytes: &'a [u8],
    /// Offset of the content in `bytes`. For structs without content, the offset of their length.
    content_offset: usize,
}

/// What is needed to join the next struct to this one: the content kind, and the count that has to be raised.
#[derive(Debug, Clone, Copy)]
pub struct JoinPoint {
    info: u8,
    right_origin: Option<Id>,
    /// Offset of the count from the beginning of the struct.
    pub count_offset: usize,
    /// The count that precedes the content: bytes of text, number of values, or number of elements.
    pub count: u64,
}

impl<'a> RawStruct<'a> {
    /// Reads one struct.
    #[inline]
    pub fn read(reader: &mut Reader<'a>, client: u64, start: u64) -> Result<Self, ReadError> {
        let from = reader.rest();
        let info = reader.u8()?;
        let mut found = RawStruct {
            client,
            start,
            end: start,
            info,
            origin: None,
            right_origin: None,
            parent: None,
            key: None,
            bytes: from,
            content_offset: 1,
        };
        let len = if info == GC || info == SKIP {
            reader.var_uint()?
        } else {
            found.read_origins_and_parent(reader)?;
            found.content_offset = from.len() - reader.remaining();
            content::skip(reader, info & TAG_BITS)?
        };
        found.end = start + len;
        found.bytes = &from[..from.len() - reader.remaining()];
        Ok(found)
    }

    #[inline]
    fn read_origins_and_parent(&mut self, reader: &mut Reader<'a>) -> Result<(), ReadError> {
        let mut id = || Ok(Id { client: reader.var_uint()?, clock: reader.var_uint()? });
        if self.info & HAS_ORIGIN != 0 {
            self.origin = Some(id()?);
        }
        if self.info & HAS_RIGHT_ORIGIN != 0 {
            self.right_origin = Some(id()?);
        }
        if self.origin.is_none() && self.right_origin.is_none() {
            self.parent = Some(match reader.var_uint()? {
                0 => Parent::Item(Id { client: reader.var_uint()?, clock: reader.var_uint()? }),
                _ => Parent::Root(reader.var_bytes()?),
            });
            if self.info & HAS_PARENT_SUB != 0 {
                self.key = Some(reader.var_bytes()?);
            }
        }
        Ok(())
    }

    /// The elements that it depends on, at most two: its origins, or its parent.
    pub fn dependencies(&self) -> impl Iterator<Item = Id> + use<> {
        let parent = if let Some(Parent::Item(id)) = self.parent { Some(id) } else { None };
        [self.origin, self.right_origin, parent].into_iter().flatten()
    }

    /// True for a range of garbage: elements of which only the clocks are left.
    pub fn is_gc(&self) -> bool {
        self.info == GC
    }

    /// True for a skip: a gap in an update.
    pub fn is_skip(&self) -> bool {
        self.info == SKIP
    }

    /// True for structs that are deleted regardless of the delete set.
    pub fn is_deleted(&self) -> bool {
        self.info == GC || (!self.is_skip() && self.info & TAG_BITS == DELETED)
    }

    /// True for an item whose content is a type, which can be the parent of other items.
    pub fn is_type(&self) -> bool {
        self.info != SKIP && self.info & TAG_BITS == TYPE
    }

    /// False for structs that are certainly not an entry of a map. Only the first entry of a key is marked as an entry in
    /// every encoding: when Yjs or yrs merges updates, later entries lose the mark.
    pub fn may_be_entry(&self) -> bool {
        !self.is_gc() && !self.is_skip() && !matches!(self.info & TAG_BITS, STRING | FORMAT | EMBED)
    }

    /// The encoded value of an item with `Any` content, if it holds exactly one.
    pub fn value(&self) -> Option<&'a [u8]> {
        let is_value = !self.is_skip() && self.info & TAG_BITS == ANY && self.end - self.start == 1;
        is_value.then(|| self.counted_content().1)
    }

    /// The JSON of a formatting mark or an embedded object.
    pub fn json(&self) -> Option<&'a str> {
        let mut reader = Reader::new(&self.bytes[self.content_offset..]);
        match self.info & TAG_BITS {
            EMBED => reader.var_str().ok(),
            FORMAT => {
                reader.var_bytes().ok()?;
                reader.var_str().ok()
            }
            _ => None,
        }
    }

    /// The strings of a list from Yjs before 13 (`ContentJSON`): each is JSON or "undefined".
    pub fn json_texts(&self) -> Option<Vec<&'a str>> {
        if self.is_skip() || self.info & TAG_BITS != JSON {
            return None;
        }
        let mut reader = Reader::new(&self.bytes[self.content_offset..]);
        let count = reader.var_uint().ok()?;
        (0..count).map(|_| reader.var_str().ok()).collect()
    }

    /// Appends this struct with its content replaced by `values`, each encoded as lib0 `Any`.
    pub fn write_with_values(&self, values: &[Vec<u8>], out: &mut Vec<u8>) {
        self.write_header(ANY, self.start, out);
        write_var_uint(out, values.len() as u64);
        values.iter().for_each(|value| out.extend_from_slice(value));
    }

    /// Appends this item with its type rewritten for yrs: a `YXmlHook` becomes a map, and a padded type number becomes one
    /// byte. Returns false, and appends nothing, if the content is not a type or yrs can read it unchanged.
    pub fn write_type_for_yrs(&self, out: &mut Vec<u8>) -> bool {
        let content = &self.bytes[self.content_offset..];
        let mut reader = Reader::new(content);
        let Some(number) = reader.var_uint().ok().filter(|_| self.is_type()) else { return false };
        let is_padded = content.len() - reader.remaining() > 1;
        if number != XML_HOOK && !is_padded {
            return false;
        }
        self.write_header(TYPE, self.start, out);
        if number == XML_HOOK {
            write_var_uint(out, MAP);
        } else {
            write_var_uint(out, number);
            out.extend_from_slice(reader.rest());
        }
        true
    }

    /// Appends this struct with its JSON replaced. Only for structs whose [`RawStruct::json`] is `Some`.
    pub fn write_with_json(&self, json: &str, out: &mut Vec<u8>) {
        let mut reader = Reader::new(&self.bytes[self.content_offset..]);
        if self.info & TAG_BITS == FORMAT {
            reader.var_bytes().ok();
        }
        out.extend_from_slice(&self.bytes[..self.bytes.len() - reader.remaining()]);
        write_var_bytes(out, json.as_bytes());
    }

    /// The point at which the next struct can be joined to this one; `None` if its kind cannot be joined.
    pub fn join_point(&self) -> Option<JoinPoint> {
        let count_offset = self.content_offset;
        let is_countable =
            self.is_gc() || (!self.is_skip() && matches!(self.info & TAG_BITS, DELETED | JSON | STRING | ANY));
        let mut reader = Reader::new(&self.bytes[count_offset..]);
        let count = reader.var_uint().ok().filter(|_| is_countable)?;
        // A padded count cannot be overwritten in place: such a struct is not joined.
        let is_padded = self.bytes.len() - count_offset - reader.remaining() != var_uint_len(count);
        (!is_padded).then_some(JoinPoint { info: self.info, right_origin: self.right_origin, count_offset, count })
    }

    /// True if this struct continues the one that `before` belongs to, so that the two can be joined. The caller must
    /// check that either both are deleted or neither is.
    #[inline]
    pub fn continues(&self, before: &JoinPoint) -> bool {
        if self.is_gc() || before.info == GC {
            return self.info == before.info;
        }
        let tag = self.info & TAG_BITS;
        // The successor of a live map entry is another value of the key, not a continuation of the same value.
        let is_entry = (self.info | before.info) & HAS_PARENT_SUB != 0 && tag != DELETED;
        tag == before.info & TAG_BITS
            && matches!(tag, DELETED | JSON | STRING | ANY)
            && !is_entry
            && self.origin == self.start.checked_sub(1).map(|clock| Id { client: self.client, clock })
            && self.origin.is_some()
            && self.right_origin == before.right_origin
    }

    /// The count that precedes the content, and the content after it. Only for structs that have a
    /// [`RawStruct::join_point`].
    pub fn counted_content(&self) -> (u64, &'a [u8]) {
        let mut reader = Reader::new(&self.bytes[self.content_offset..]);
        let count = reader.var_uint().unwrap_or(0);
        (count, reader.rest())
    }

    /// The content after its count for text, JSON and `Any`; empty for every other kind.
    pub(super) fn content(&self) -> &'a [u8] {
        let content = &self.bytes[self.content_offset..];
        if self.is_gc() || self.is_skip() {
            return &[];
        }
        match self.info & TAG_BITS {
            STRING => Reader::new(content).var_bytes().unwrap_or_default(),
            JSON | ANY => self.counted_content().1,
            _ => &[],
        }
    }

    pub(super) fn write_header(&self, tag: u8, start: u64, out: &mut Vec<u8>) {
        if start == self.start {
            out.push(tag | self.info & !TAG_BITS);
            return out.extend_from_slice(&self.bytes[1..self.content_offset]);
        }
        out.push(tag | HAS_ORIGIN | self.info & (HAS_RIGHT_ORIGIN | HAS_PARENT_SUB));
        for id in [Some(Id { client: self.client, clock: start - 1 }), self.right_origin].into_iter().flatten() {
            write_var_uint(out, id.client);
            write_var_uint(out, id.clock);
        }
    }
}

/// Appends the header of a client's section.
pub fn write_section_header(structs: u64, client: u64, clock: u64, out: &mut Vec<u8>) {
    for number in [structs, client, clock] {
        write_var_uint(out, number);
    }
}

/// Appends a range of garbage.
pub fn write_gc(len: u64, out: &mut Vec<u8>) {
    out.push(GC);
    write_var_uint(out, len);
}

/// Appends a skip: a gap in an update.
pub fn write_skip(len: u64, out: &mut Vec<u8>) {
    out.push(SKIP);
    write_var_uint(out, len);
}

impl JoinPoint {
    /// Joins `more` to the last struct in `out`, which begins at `at`. `more` must continue it.
    pub fn join(&mut self, more: &RawStruct<'_>, at: usize, out: &mut Vec<u8>) {
        let (count, content) = more.counted_content();
        let (count_start, before) = (at + self.count_offset, var_uint_len(self.count));
        self.count += count;
        let after = var_uint_len(self.count);
        if after > before {
            out.splice(count_start..count_start, std::iter::repeat_n(0, after - before));
        }
        write_var_uint_at(out, count_start, self.count);
        out.extend_from_slice(content);
    }
}

/// Iterator over the structs of one client in an update.
#[derive(Debug, Clone)]
pub struct RawSection<'a> {
    /// Client id.
    pub client: u64,
    /// The first clock of the next struct.
    pub clock: u64,
    /// Number of structs not read yet.
    pub left: u64,
    reader: Reader<'a>,
}

impl<'a> RawSection<'a> {
    /// Reads `structs` consecutive structs from `bytes`.
    pub fn new(client: u64, clock: u64, structs: u64, bytes: &'a [u8]) -> Self {
        Self { client, clock, left: structs, reader: Reader::new(bytes) }
    }

    /// True when the next struct is a range of garbage. Does not consume it.
    pub fn is_at_gc(&self) -> bool {
        self.left > 0 && self.rest().first() == Some(&GC)
    }

    /// The encoded structs that were not read yet, and everything after them.
    pub fn rest(&self) -> &'a [u8] {
        self.reader.rest()
    }
}

impl<'a> Iterator for RawSection<'a> {
    type Item = RawStruct<'a>;

    #[inline]
    fn next(&mut self) -> Option<RawStruct<'a>> {
        self.left = self.left.checked_sub(1)?;
        let found = RawStruct::read(&mut self.reader, self.client, self.clock).ok()?;
        self.clock = found.end;
        Some(found)
    }
}

/// Reader of an update that the scanner accepted, in one pass.
#[derive(Debug, Clone)]
pub struct RawUpdate<'a> {
    reader: Reader<'a>,
    sections: u64,
}

impl<'a> RawUpdate<'a> {
    /// Starts at the first section.
    pub fn new(update: &'a [u8]) -> Self {
        let mut reader = Reader::new(update);
        let sections = reader.var_uint().unwrap_or(0);
        Self { reader, sections }
    }

    /// The structs of the next client. Read them to the end, then pass the section to [`RawUpdate::resume_after`].
    pub fn section(&mut self) -> Option<RawSection<'a>> {
        self.sections = self.sections.checked_sub(1)?;
        let (left, client, clock) = parse::read_section_header(&mut self.reader).ok()?;
        Some(RawSection { client, clock, left, reader: self.reader })
    }

    /// Continues after a section that was read to its end.
    pub fn resume_after(&mut self, section: &RawSection<'a>) {
        self.reader = section.reader;
    }

    /// The bytes not read yet: after the last section, the delete set.
    pub fn rest(&self) -> &'a [u8] {
        self.reader.rest()
    }
}

/// Calls `visit` for every range of an encoded delete set.
///
/// # Errors
/// When the bytes are truncated or continue after the delete set.
pub fn read_delete_set(delete_set: &[u8], mut visit: impl FnMut(u64, Range<u64>)) -> Result<(), ScanError> {
    parse::read_delete_ranges(&mut Reader::new(delete_set), |range| visit(range.client, range.start..range.end))
}
