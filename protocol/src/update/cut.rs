//! Splits a struct into parts, each encoded as Yjs encodes a struct from an offset on (yjs 13.6.33, `Item.write` and the
//! `write` and `splice` of each content): every part but the first has the element before it as its origin. Text is
//! counted in UTF-16 code units; each half of a split surrogate pair becomes U+FFFD.

use super::content::{self, ANY, DELETED, JSON, STRING};
use super::parse::TAG_BITS;
use super::raw::RawStruct;
use crate::varint::{write_var_bytes, write_var_uint};

/// Replaces each half of a split surrogate pair.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

impl<'a> RawStruct<'a> {
    /// Splits this struct into parts, beginning with its first element.
    pub fn cut(&self) -> Cutter<'_, 'a> {
        Cutter { source: self, clock: self.start, content: self.content(), is_halved: false }
    }
}

/// Splits a struct into consecutive parts.
#[derive(Debug)]
pub struct Cutter<'s, 'a> {
    source: &'s RawStruct<'a>,
    /// The first clock of the next part.
    clock: u64,
    /// The rest of the content.
    content: &'a [u8],
    /// `content` begins with a surrogate pair of which the first half belongs to an earlier part.
    is_halved: bool,
}

impl<'a> Cutter<'_, 'a> {
    /// The first clock of the next part.
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// Skips the elements before `clock`.
    pub fn skip_to(&mut self, clock: u64) {
        self.advance(clock, None);
    }

    /// Appends the elements before `clock` as one struct.
    pub fn write_to(&mut self, clock: u64, out: &mut Vec<u8>) {
        let (source, start) = (self.source, self.clock);
        if start == source.start && clock == source.end {
            self.clock = clock;
            return out.extend_from_slice(source.bytes);
        }
        let len = clock - start;
        if source.is_gc() || source.is_skip() {
            out.push(source.info);
        } else {
            source.write_header(source.info & TAG_BITS, start, out);
        }
        if source.info & TAG_BITS != STRING || source.is_skip() {
            write_var_uint(out, len);
            return self.advance(clock, Some(out));
        }
        let mut text = Vec::new();
        self.advance(clock, Some(&mut text));
        write_var_bytes(out, &text);
    }

    /// Encodes the rest as one struct: appends the new beginning, and returns the unchanged end of the struct's bytes,
    /// which the caller appends.
    pub fn write_rest(self, out: &mut Vec<u8>) -> &'a [u8] {
        let Cutter { source, clock, content, is_halved } = self;
        if clock == source.start {
            return source.bytes;
        }
        if source.is_gc() || source.is_skip() {
            out.push(source.info);
        } else {
            source.write_header(source.info & TAG_BITS, clock, out);
        }
        if source.info & TAG_BITS != STRING || source.is_skip() {
            write_var_uint(out, source.end - clock);
            return if matches!(source.info & TAG_BITS, JSON | ANY) && !source.is_skip() { content } else { &[] };
        }
        let (begin, rest) =
            if is_halved { (REPLACEMENT, content.get(4..).unwrap_or_default()) } else { (&[][..], content) };
        write_var_uint(out, (begin.len() + rest.len()) as u64);
        out.extend_from_slice(begin);
        rest
    }

    /// Appends the elements before `clock` as `ContentDeleted`: without their content, but with their position.
    pub fn write_deleted_to(&mut self, clock: u64, out: &mut Vec<u8>) {
        if self.source.is_deleted() {
            return self.write_to(clock, out);
        }
        self.source.write_header(DELETED, self.clock, out);
        write_var_uint(out, clock - self.clock);
        self.skip_to(clock);
    }

    /// Advances to `clock` and appends the skipped content to `out`.
    fn advance(&mut self, clock: u64, out: Option<&mut Vec<u8>>) {
        let len = clock - self.clock;
        self.clock = clock;
        match self.source.info & TAG_BITS {
            STRING if !self.source.is_skip() => self.advance_text(len, out),
            tag @ (JSON | ANY) if !self.source.is_skip() => {
                let passed = content::values(tag, self.content, len);
                if let Some(out) = out {
                    out.extend_from_slice(passed);
                }
                self.content = &self.content[passed.len()..];
            }
            _ => {}
        }
    }

    /// Advances by `len` UTF-16 code units.
    fn advance_text(&mut self, mut len: u64, out: Option<&mut Vec<u8>>) {
        let was_halved = self.is_halved && len > 0;
        if was_halved {
            self.is_halved = false;
            self.content = self.content.get(4..).unwrap_or_default();
            len -= 1;
        }
        let (end, is_halved) = byte_offset(self.content, len);
        let (passed, rest) = self.content.split_at(end);
        self.content = rest;
        self.is_halved |= is_halved;
        if let Some(out) = out {
            out.extend_from_slice(if was_halved { REPLACEMENT } else { &[] });
            out.extend_from_slice(passed);
            out.extend_from_slice(if is_halved { REPLACEMENT } else { &[] });
        }
    }
}

/// The byte offset of the character that contains a UTF-16 code unit, and whether the unit is its second half.
fn byte_offset(text: &[u8], unit: u64) -> (usize, bool) {
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
