//! The structs of an update as they are encoded: every field. Of bytes that the scanner accepted.

use std::ops::Range;

use super::content::{self, ANY, DELETED, EMBED, FORMAT, JSON, MAP, STRING, TYPE, XML_HOOK};
use super::parse::{GC, HAS_ORIGIN, HAS_PARENT_SUB, HAS_RIGHT_ORIGIN, SKIP, TAG_BITS};
use super::{ScanError, parse};
use crate::varint::{ReadError, Reader, var_uint_len, write_var_bytes, write_var_uint, write_var_uint_at};

/// One element of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// The client that made it.
    pub client: u64,
    /// Its number among that client's elements.
    pub clock: u64,
}

/// The type in which an item lies. Written only for an item without neighbours; the others lie where those do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent<'a> {
    /// A root type, by name.
    Root(&'a [u8]),
    /// The type that is the content of this item.
    Item(Id),
}

/// One struct: an item, a range of garbage, or (in an update only) a skip.
#[derive(Debug, Clone, Copy)]
pub struct RawStruct<'a> {
    /// Who made it.
    pub client: u64,
    /// Its first clock.
    pub start: u64,
    /// The clock after its last.
    pub end: u64,
    /// The first byte: the kind of content and what follows.
    pub(super) info: u8,
    /// The left neighbour when it was made.
    pub origin: Option<Id>,
    /// The right neighbour when it was made.
    pub right_origin: Option<Id>,
    /// Of an item without neighbours.
    pub parent: Option<Parent<'a>>,
    /// Its key in a map, of an item without neighbours.
    pub key: Option<&'a [u8]>,
    /// As it is encoded.
    pub bytes: &'a [u8],
    /// Where in these bytes the content begins, or the length of what has none.
    content_at: usize,
}

/// How two structs are joined: where the number lies that counts the content, and what it counts.
#[derive(Debug, Clone, Copy)]
pub struct Joint {
    info: u8,
    right_origin: Option<Id>,
    /// From the beginning of the struct to the number.
    pub count_at: usize,
    /// The number: bytes of text, or how many values, or how many elements.
    pub count: u64,
}

impl<'a> RawStruct<'a> {
    /// Reads the struct at which `reader` stands.
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
            content_at: 1,
        };
        let len = if info == GC || info == SKIP {
            reader.var_uint()?
        } else {
            found.read_links(reader)?;
            found.content_at = from.len() - reader.remaining();
            content::skip(reader, info & TAG_BITS)?
        };
        found.end = start + len;
        found.bytes = &from[..from.len() - reader.remaining()];
        Ok(found)
    }

    #[inline]
    fn read_links(&mut self, reader: &mut Reader<'a>) -> Result<(), ReadError> {
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

    /// True for a range of garbage: elements of which nothing but the clocks is left.
    pub fn is_gc(&self) -> bool {
        self.info == GC
    }

    /// True for a hole in an update.
    pub fn is_skip(&self) -> bool {
        self.info == SKIP
    }

    /// True for what every reader takes for deleted, whatever the delete set says.
    pub fn is_deleted(&self) -> bool {
        self.info == GC || (!self.is_skip() && self.info & TAG_BITS == DELETED)
    }

    /// True for an item that holds a type, which can be the parent of others.
    pub fn is_type(&self) -> bool {
        self.info != SKIP && self.info & TAG_BITS == TYPE
    }

    /// False for content that only texts and lists have. Only the first entry of a key carries the mark of a map entry in every
    /// encoding: the others lose it when Yjs or yrs merges updates.
    pub fn may_be_entry(&self) -> bool {
        !self.is_gc() && !self.is_skip() && !matches!(self.info & TAG_BITS, STRING | FORMAT | EMBED)
    }

    /// The single value in an item of `Any` content, encoded.
    pub fn value(&self) -> Option<&'a [u8]> {
        let is_value = !self.is_skip() && self.info & TAG_BITS == ANY && self.end - self.start == 1;
        is_value.then(|| self.counted_content().1)
    }

    /// The JSON of a format or an embedded object.
    pub fn json(&self) -> Option<&'a str> {
        let mut reader = Reader::new(&self.bytes[self.content_at..]);
        match self.info & TAG_BITS {
            EMBED => reader.var_str().ok(),
            FORMAT => {
                reader.var_bytes().ok()?;
                reader.var_str().ok()
            }
            _ => None,
        }
    }

    /// The texts of a list of before Yjs 13 (`ContentJSON`): each is JSON, or "undefined".
    pub fn json_texts(&self) -> Option<Vec<&'a str>> {
        if self.is_skip() || self.info & TAG_BITS != JSON {
            return None;
        }
        let mut reader = Reader::new(&self.bytes[self.content_at..]);
        let count = reader.var_uint().ok()?;
        (0..count).map(|_| reader.var_str().ok()).collect()
    }

    /// Appends this struct with values in place of its content, each encoded as lib0 `Any`.
    pub fn write_with_values(&self, values: &[Vec<u8>], out: &mut Vec<u8>) {
        self.write_head(ANY, self.start, out);
        write_var_uint(out, values.len() as u64);
        values.iter().for_each(|value| out.extend_from_slice(value));
    }

    /// Appends this item with its type as yrs reads it: a `YXmlHook` is a map, and its number is one byte. False: it is no type, or
    /// yrs reads it.
    pub fn write_type_for_yrs(&self, out: &mut Vec<u8>) -> bool {
        let content = &self.bytes[self.content_at..];
        let mut reader = Reader::new(content);
        let Some(number) = reader.var_uint().ok().filter(|_| self.is_type()) else { return false };
        let is_padded = content.len() - reader.remaining() > 1;
        if number != XML_HOOK && !is_padded {
            return false;
        }
        self.write_head(TYPE, self.start, out);
        if number == XML_HOOK {
            write_var_uint(out, MAP);
        } else {
            write_var_uint(out, number);
            out.extend_from_slice(reader.rest());
        }
        true
    }

    /// Appends this struct, whose [`RawStruct::json`] there is, with another JSON.
    pub fn write_with_json(&self, json: &str, out: &mut Vec<u8>) {
        let mut reader = Reader::new(&self.bytes[self.content_at..]);
        if self.info & TAG_BITS == FORMAT {
            reader.var_bytes().ok();
        }
        out.extend_from_slice(&self.bytes[..self.bytes.len() - reader.remaining()]);
        write_var_bytes(out, json.as_bytes());
    }

    /// How more can be joined to this struct; `None`: nothing can.
    pub fn joint(&self) -> Option<Joint> {
        let count_at = self.content_at;
        let is_countable =
            self.is_gc() || (!self.is_skip() && matches!(self.info & TAG_BITS, DELETED | JSON | STRING | ANY));
        let mut reader = Reader::new(&self.bytes[count_at..]);
        let count = reader.var_uint().ok().filter(|_| is_countable)?;
        // A padded number cannot be written anew in its place: such a struct stays alone.
        let is_padded = self.bytes.len() - count_at - reader.remaining() != var_uint_len(count);
        (!is_padded).then_some(Joint { info: self.info, right_origin: self.right_origin, count_at, count })
    }

    /// True if this struct goes on where the one with this joint ends, so that the two can be one. Whether both are deleted,
    /// or neither, is the caller's to know.
    #[inline]
    pub fn continues(&self, before: &Joint) -> bool {
        if self.is_gc() || before.info == GC {
            return self.info == before.info;
        }
        let tag = self.info & TAG_BITS;
        // A live entry of a map is followed by its successor, which is another value, not more of the same one.
        let is_entry = (self.info | before.info) & HAS_PARENT_SUB != 0 && tag != DELETED;
        tag == before.info & TAG_BITS
            && matches!(tag, DELETED | JSON | STRING | ANY)
            && !is_entry
            && self.origin == self.start.checked_sub(1).map(|clock| Id { client: self.client, clock })
            && self.origin.is_some()
            && self.right_origin == before.right_origin
    }

    /// The content without the number that counts it, and that number. Only of what has a [`RawStruct::joint`].
    pub fn counted_content(&self) -> (u64, &'a [u8]) {
        let mut reader = Reader::new(&self.bytes[self.content_at..]);
        let count = reader.var_uint().unwrap_or(0);
        (count, reader.rest())
    }

    /// What a counted content counts; nothing of any other.
    pub(super) fn content(&self) -> &'a [u8] {
        let content = &self.bytes[self.content_at..];
        if self.is_gc() || self.is_skip() {
            return &[];
        }
        match self.info & TAG_BITS {
            STRING => Reader::new(content).var_bytes().unwrap_or_default(),
            JSON | ANY => self.counted_content().1,
            _ => &[],
        }
    }

    pub(super) fn write_head(&self, tag: u8, start: u64, out: &mut Vec<u8>) {
        if start == self.start {
            out.push(tag | self.info & !TAG_BITS);
            return out.extend_from_slice(&self.bytes[1..self.content_at]);
        }
        out.push(tag | HAS_ORIGIN | self.info & (HAS_RIGHT_ORIGIN | HAS_PARENT_SUB));
        for id in [Some(Id { client: self.client, clock: start - 1 }), self.right_origin].into_iter().flatten() {
            write_var_uint(out, id.client);
            write_var_uint(out, id.clock);
        }
    }
}

/// Appends what a client's structs begin with.
pub fn write_section_head(structs: u64, client: u64, clock: u64, out: &mut Vec<u8>) {
    for number in [structs, client, clock] {
        write_var_uint(out, number);
    }
}

/// Appends a range of garbage.
pub fn write_gc(len: u64, out: &mut Vec<u8>) {
    out.push(GC);
    write_var_uint(out, len);
}

impl Joint {
    /// Appends `more`, which continues the struct that `out` ends with, to it; that struct begins at `at`.
    pub fn join(&mut self, more: &RawStruct<'_>, at: usize, out: &mut Vec<u8>) {
        let (count, content) = more.counted_content();
        let (number_at, before) = (at + self.count_at, var_uint_len(self.count));
        self.count += count;
        let after = var_uint_len(self.count);
        if after > before {
            out.splice(number_at..number_at, std::iter::repeat_n(0, after - before));
        }
        write_var_uint_at(out, number_at, self.count);
        out.extend_from_slice(content);
    }
}

/// One client's structs in an update.
#[derive(Debug, Clone)]
pub struct RawSection<'a> {
    /// The client.
    pub client: u64,
    /// The clock of the next struct.
    pub clock: u64,
    /// How many structs are left.
    pub left: u64,
    reader: Reader<'a>,
}

impl<'a> RawSection<'a> {
    /// `structs` of them, encoded one after the other.
    pub fn new(client: u64, clock: u64, structs: u64, bytes: &'a [u8]) -> Self {
        Self { client, clock, left: structs, reader: Reader::new(bytes) }
    }

    /// True when the next struct is a range of garbage; it is not read.
    pub fn is_at_gc(&self) -> bool {
        self.left > 0 && self.rest().first() == Some(&GC)
    }

    /// What is left, encoded.
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

/// An update that the scanner accepted, read once from its beginning to its end.
#[derive(Debug, Clone)]
pub struct RawUpdate<'a> {
    reader: Reader<'a>,
    sections: u64,
}

impl<'a> RawUpdate<'a> {
    /// From the beginning.
    pub fn new(update: &'a [u8]) -> Self {
        let mut reader = Reader::new(update);
        let sections = reader.var_uint().unwrap_or(0);
        Self { reader, sections }
    }

    /// The next client's structs. They are to be read to their end, and given back by [`RawUpdate::after`].
    pub fn section(&mut self) -> Option<RawSection<'a>> {
        self.sections = self.sections.checked_sub(1)?;
        let (left, client, clock) = parse::read_section_head(&mut self.reader).ok()?;
        Some(RawSection { client, clock, left, reader: self.reader })
    }

    /// Goes on behind a section that was read to its end.
    pub fn after(&mut self, section: &RawSection<'a>) {
        self.reader = section.reader;
    }

    /// The bytes not read yet: behind the last section, the delete set.
    pub fn rest(&self) -> &'a [u8] {
        self.reader.rest()
    }
}

/// Reads a delete set, as an update ends with.
///
/// # Errors
/// When the bytes are cut short or go on behind it.
pub fn read_delete_set(delete_set: &[u8], mut tell: impl FnMut(u64, Range<u64>)) -> Result<(), ScanError> {
    parse::read_deleted(&mut Reader::new(delete_set), |range| tell(range.client, range.start..range.end))
}
