//! A struct cut into parts, each as Yjs writes a struct from an offset on (yjs 13.6.33, `Item.write` and the `write` and
//! `splice` of each content): a part that is not the first has the element before it as its origin. Text is counted in UTF-16
//! code units; a surrogate pair that is cut in two becomes U+FFFD on either side.

use super::content::{self, ANY, DELETED, JSON, STRING};
use super::raw::RawStruct;
use super::walk::TAG_BITS;
use crate::varint::{write_var_bytes, write_var_uint};

impl<'a> RawStruct<'a> {
    /// Cuts it, from its beginning on.
    pub fn cut(&self) -> Cutter<'_, 'a> {
        Cutter { of: self, clock: self.start, content: self.content(), is_halved: false }
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
