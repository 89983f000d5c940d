//! The structs of an update as they are encoded: every field, and cuts at any clock. Of bytes that the scanner accepted.
//!
//! A cut struct is written as Yjs writes one from an offset on (yjs 13.6.33, `Item.write` and the `write` and `splice` of
//! each content): the rest has the element before it as its origin. Text is counted in UTF-16 code units; a surrogate pair
//! that is cut in two becomes U+FFFD on either side.

use std::ops::Range;

use super::content::{self, ANY, DELETED, JSON, STRING, TYPE};
use super::walk::{GC, HAS_ORIGIN, HAS_PARENT_SUB, HAS_RIGHT_ORIGIN, SKIP, TAG_BITS};
use super::{ScanError, Summary, walk};
use crate::varint::{ReadError, Reader, var_uint_len, write_var_bytes, write_var_uint};

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
    info: u8,
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

    /// The single value in an item of `Any` content, encoded.
    pub fn value(&self) -> Option<&'a [u8]> {
        let is_value = !self.is_skip() && self.info & TAG_BITS == ANY && self.end - self.start == 1;
        // The count, 1, is one byte.
        is_value.then(|| &self.bytes[self.content_at + 1..])
    }

    /// How more can be joined to this struct; `None`: nothing can.
    pub fn joint(&self) -> Option<Joint> {
        let count_at = self.content_at;
        let is_countable =
            self.is_gc() || (!self.is_skip() && matches!(self.info & TAG_BITS, DELETED | JSON | STRING | ANY));
        let count = Reader::new(&self.bytes[count_at..]).var_uint().ok().filter(|_| is_countable)?;
        Some(Joint { info: self.info, right_origin: self.right_origin, count_at, count })
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

    /// Cuts it, from its beginning on.
    pub fn cut(&self) -> Cutter<'_, 'a> {
        Cutter { of: self, clock: self.start, content: self.content(), is_halved: false }
    }

    /// What a counted content counts; nothing of any other.
    fn content(&self) -> &'a [u8] {
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

    fn write_head(&self, tag: u8, start: u64, out: &mut Vec<u8>) {
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
        let mut number = Vec::with_capacity(after);
        write_var_uint(&mut number, self.count);
        out[number_at..number_at + after].copy_from_slice(&number);
        out.extend_from_slice(content);
    }
}

/// A struct that is cut into parts, each beginning where the one before it ended.
#[derive(Debug)]
pub struct Cutter<'s, 'a> {
    of: &'s RawStruct<'a>,
    /// Where the next part begins.
    clock: u64,
    /// What is left of the content.
    content: &'a [u8],
    /// The first half of the surrogate pair that `content` begins with has been passed.
    is_halved: bool,
}

impl Cutter<'_, '_> {
    /// Where the next part begins.
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// Leaves out everything before `clock`.
    pub fn skip_to(&mut self, clock: u64) {
        self.pass(clock, &mut Vec::new());
    }

    /// Appends the elements before `clock`.
    pub fn write_to(&mut self, clock: u64, out: &mut Vec<u8>) {
        let (of, start) = (self.of, self.clock);
        if start == of.start && clock == of.end {
            self.clock = clock;
            return out.extend_from_slice(of.bytes);
        }
        let len = clock - start;
        if of.is_gc() || of.is_skip() {
            out.push(of.info);
        } else {
            of.write_head(of.info & TAG_BITS, start, out);
        }
        if of.info & TAG_BITS != STRING || of.is_skip() {
            write_var_uint(out, len);
            return self.pass(clock, out);
        }
        let mut text = Vec::new();
        self.pass(clock, &mut text);
        write_var_bytes(out, &text);
    }

    /// Appends the elements before `clock` as deleted ones: what they held is gone, where they lie is not.
    pub fn write_deleted_to(&mut self, clock: u64, out: &mut Vec<u8>) {
        if self.of.is_deleted() {
            return self.write_to(clock, out);
        }
        self.of.write_head(DELETED, self.clock, out);
        write_var_uint(out, clock - self.clock);
        self.skip_to(clock);
    }

    fn pass(&mut self, clock: u64, out: &mut Vec<u8>) {
        let len = clock - self.clock;
        self.clock = clock;
        match self.of.info & TAG_BITS {
            STRING if !self.of.is_skip() => self.pass_text(len, out),
            tag @ (JSON | ANY) if !self.of.is_skip() => {
                let passed = content::values(tag, self.content, len);
                out.extend_from_slice(passed);
                self.content = &self.content[passed.len()..];
            }
            _ => {}
        }
    }

    /// Passes `len` UTF-16 code units.
    fn pass_text(&mut self, mut len: u64, out: &mut Vec<u8>) {
        const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();
        if self.is_halved && len > 0 {
            self.is_halved = false;
            self.content = self.content.get(4..).unwrap_or_default();
            out.extend_from_slice(REPLACEMENT);
            len -= 1;
        }
        let (end, is_halved) = byte_of(self.content, len);
        out.extend_from_slice(&self.content[..end]);
        self.content = &self.content[end..];
        if is_halved {
            self.is_halved = true;
            out.extend_from_slice(REPLACEMENT);
        }
    }
}

/// Where in a text a UTF-16 code unit lies, and whether it is the second half of the character there.
fn byte_of(text: &[u8], unit: u64) -> (usize, bool) {
    let mut units = 0;
    for (at, &byte) in text.iter().enumerate() {
        if byte & 0xc0 == 0x80 {
            continue;
        }
        if units == unit {
            return (at, false);
        }
        units += 1 + u64::from(byte >= 0xf0);
        if units > unit {
            return (at, true);
        }
    }
    (text.len(), false)
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
        let (left, client, clock) = walk::read_section_head(&mut self.reader).ok()?;
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
    walk::read_deleted(&mut Reader::new(delete_set), |range| tell(range.client, range.start..range.end))
}

/// Appends a length and bytes: for who writes parts of an update.
pub fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_var_bytes(out, bytes);
}

/// Checks nothing but that the structs can be read; for tests.
#[doc(hidden)]
pub fn count_structs(update: &[u8]) -> u64 {
    let mut summary = Summary::default();
    let mut update = RawUpdate::new(update);
    while let Some(mut section) = update.section() {
        section.by_ref().for_each(|_| summary.structs += 1);
        update.after(&section);
    }
    summary.structs
}
