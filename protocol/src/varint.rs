//! lib0 encoding: variable-length unsigned integers, strings and byte arrays, read without copying.
//!
//! Source: npm `lib0` 0.2.120, `encoding.js` and `decoding.js`. An unsigned integer has 7 bits per byte, lowest first,
//! with the high bit set on every byte but the last. A string or byte array is its length in bytes, then the bytes.

use thiserror::Error;

/// The largest integer that JavaScript represents exactly (2^53 - 1). lib0 readers refuse larger ones, and so does this
/// crate.
pub const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// Why bytes could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The bytes end inside a value.
    #[error("the message ends in the middle of a value")]
    UnexpectedEnd,
    /// An integer is larger than 2^53 - 1.
    #[error("an integer is larger than 2^53 - 1")]
    IntegerTooLarge,
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
}

/// A cursor over borrowed bytes. Every read advances it or fails; do not use a reader after it has failed.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The unread bytes.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Number of unread bytes.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// True when every byte was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Reads one byte.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, ReadError> {
        let (&first, rest) = self.rest.split_first().ok_or(ReadError::UnexpectedEnd)?;
        self.rest = rest;
        Ok(first)
    }

    /// Reads a variable-length unsigned integer (lib0 `readVarUint`), at most 2^53 - 1.
    #[inline(always)]
    pub fn var_uint(&mut self) -> Result<u64, ReadError> {
        match self.rest {
            [first, rest @ ..] if *first < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*first))
            }
            _ => self.long_var_uint(),
        }
    }

    /// Reads an integer of more than one byte, as one 64-bit word if at least eight bytes are left.
    #[inline]
    fn long_var_uint(&mut self) -> Result<u64, ReadError> {
        let Some((word, _)) = self.rest.split_first_chunk() else { return self.var_uint_near_the_end() };
        let word = u64::from_le_bytes(*word);
        // The first byte without the high bit is the last one. 8 bytes hold 56 bits; a ninth could only be padding or
        // make the value too large.
        let last = !word & 0x8080_8080_8080_8080;
        if last == 0 {
            return Err(ReadError::IntegerTooLarge);
        }
        let bits = last.trailing_zeros() + 1;
        let value = seven_bit_groups(word & (u64::MAX >> (u64::BITS - bits)));
        if value > MAX_SAFE_INTEGER {
            return Err(ReadError::IntegerTooLarge);
        }
        self.rest = &self.rest[bits as usize / 8..];
        Ok(value)
    }

    #[cold]
    fn var_uint_near_the_end(&mut self) -> Result<u64, ReadError> {
        // Fewer than 8 bytes: neither the shift nor the value can overflow.
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
            shift += 7;
        }
    }

    /// Skips a variable-length signed integer (lib0 `readVarInt`) of magnitude at most 2^53 - 1.
    pub fn skip_var_int(&mut self) -> Result<(), ReadError> {
        let first = self.u8()?;
        if first < 0x80 {
            return Ok(());
        }
        // The first byte holds six bits, the sign and the continuation flag; seven more bytes hold up to 49 bits.
        let mut value = u64::from(first & 0x3f);
        for shift in (6..55).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if value > MAX_SAFE_INTEGER {
                break;
            }
            if byte < 0x80 {
                return Ok(());
            }
        }
        Err(ReadError::IntegerTooLarge)
    }

    /// Reads exactly `len` bytes.
    #[inline]
    pub fn bytes(&mut self, len: u64) -> Result<&'a [u8], ReadError> {
        let len = usize::try_from(len).map_err(|_| ReadError::UnexpectedEnd)?;
        if len > self.rest.len() {
            return Err(ReadError::UnexpectedEnd);
        }
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(taken)
    }

    /// Reads a length, then that many bytes (lib0 `readVarUint8Array`).
    #[inline]
    pub fn var_bytes(&mut self) -> Result<&'a [u8], ReadError> {
        let len = self.var_uint()?;
        self.bytes(len)
    }

    /// Reads a length in bytes, then UTF-8 (lib0 `readVarString`).
    #[inline]
    pub fn var_str(&mut self) -> Result<&'a str, ReadError> {
        std::str::from_utf8(self.var_bytes()?).map_err(|_| ReadError::NotUtf8)
    }
}

/// Packs the lower seven bits of each byte together.
#[inline]
const fn seven_bit_groups(word: u64) -> u64 {
    let pairs = (word & 0x007f_007f_007f_007f) | ((word & 0x7f00_7f00_7f00_7f00) >> 1);
    let fours = (pairs & 0x0000_3fff_0000_3fff) | ((pairs & 0x3fff_0000_3fff_0000) >> 2);
    (fours & 0x0fff_ffff) | ((fours & 0x0fff_ffff_0000_0000) >> 4)
}

/// Number of bytes that [`write_var_uint`] writes for `value`.
pub const fn var_uint_len(value: u64) -> usize {
    if value == 0 {
        return 1;
    }
    (u64::BITS - value.leading_zeros()).div_ceil(7) as usize
}

/// Appends a variable-length unsigned integer (lib0 `writeVarUint`).
#[inline]
pub fn write_var_uint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(0x80 | (value & 0x7f) as u8);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Overwrites the [`var_uint_len`] bytes at `at` with `value`.
pub(crate) fn write_var_uint_at(out: &mut [u8], at: usize, mut value: u64) {
    let len = var_uint_len(value);
    for place in &mut out[at..at + len] {
        let more = if value > 0x7f { 0x80 } else { 0 };
        *place = more | (value & 0x7f) as u8;
        value >>= 7;
    }
}

/// Appends the length of `bytes`, then `bytes` (lib0 `writeVarUint8Array`, and `writeVarString` for a string's bytes).
#[inline]
pub fn write_var_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_var_uint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_survive_a_round_trip_with_the_predicted_length() {
        let powers = (0..53).flat_map(|bits| [(1 << bits) - 1, 1 << bits, (1 << bits) + 1]);
        for value in powers.chain([0x0012_3456_789a_bcde, MAX_SAFE_INTEGER]) {
            let mut out = Vec::new();
            write_var_uint(&mut out, value);
            assert_eq!(out.len(), var_uint_len(value), "{value}");
            // At the end of the bytes, and with other bytes after it.
            for more in 0..10 {
                out.resize(var_uint_len(value) + more, 0xff);
                let mut reader = Reader::new(&out);
                assert_eq!(reader.var_uint(), Ok(value), "{more} bytes follow");
                assert_eq!(reader.remaining(), more);
            }
        }
    }

    #[test]
    fn integers_above_the_javascript_limit_are_refused() {
        let mut out = Vec::new();
        write_var_uint(&mut out, MAX_SAFE_INTEGER + 1);
        assert_eq!(Reader::new(&out).var_uint(), Err(ReadError::IntegerTooLarge));
        assert_eq!(Reader::new(&[0x80; 40]).var_uint(), Err(ReadError::IntegerTooLarge));
    }

    #[test]
    fn signed_integers_are_skipped_and_bounded() {
        for (bytes, left) in [(&[0x05][..], 0), (&[0x45, 1], 1), (&[0xff, 0x01], 0), (&[0xbf, 0x80, 0x00, 9], 1)] {
            let mut reader = Reader::new(bytes);
            assert_eq!(reader.skip_var_int(), Ok(()), "{bytes:?}");
            assert_eq!(reader.remaining(), left, "{bytes:?}");
        }
        // 2^53 - 1, then 2^53: 6 bits, then seven groups of 7.
        let max = [0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f];
        assert_eq!(Reader::new(&max).skip_var_int(), Ok(()));
        let over = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20];
        assert_eq!(Reader::new(&over).skip_var_int(), Err(ReadError::IntegerTooLarge));
        assert_eq!(Reader::new(&[0x80; 30]).skip_var_int(), Err(ReadError::IntegerTooLarge));
        assert_eq!(Reader::new(&[0x80]).skip_var_int(), Err(ReadError::UnexpectedEnd));
    }

    #[test]
    fn length_beyond_the_remaining_bytes_is_refused() {
        let mut bomb = Vec::new();
        write_var_uint(&mut bomb, 1 << 40);
        assert_eq!(Reader::new(&bomb).var_bytes(), Err(ReadError::UnexpectedEnd));
        assert_eq!(Reader::new(&[5, b'a']).var_str(), Err(ReadError::UnexpectedEnd));
    }

    #[test]
    fn strings_must_be_utf8() {
        assert_eq!(Reader::new(&[2, 0xc3, 0x28]).var_str(), Err(ReadError::NotUtf8));
        assert_eq!(Reader::new(&[2, 0xc3, 0xa9]).var_str(), Ok("é"));
    }
}
