//! The content of an item. Functions that read content return its length in clocks.

use super::json::{self, Parser};
use super::{ScanError, ScanLimits, Summary, VALUE_DEPTH_CEILING};
use crate::varint::{ReadError, Reader};

pub(super) const DELETED: u8 = 1;
pub(super) const JSON: u8 = 2;
const BINARY: u8 = 3;
pub(super) const STRING: u8 = 4;
pub(super) const EMBED: u8 = 5;
pub(super) const FORMAT: u8 = 6;
/// A nested type: the only content that can be a parent.
pub(super) const TYPE: u8 = 7;
pub(super) const ANY: u8 = 8;
/// The largest content tag. 10 is the skip; larger tags are undefined.
pub(super) const SUBDOCUMENT: u8 = 9;

pub(super) const MAP: u64 = 1;
const XML_ELEMENT: u64 = 3;
/// Followed by a name, like [`XML_ELEMENT`].
pub(super) const XML_HOOK: u64 = 5;
/// `YXmlText`, the largest type tag that both Yjs and yrs know. yrs has more (7 weak link, 9 document, 15 undefined).
const LAST_TYPE: u64 = 6;

const ANY_BUFFER: u8 = 116;
const ANY_ARRAY: u8 = 117;
const ANY_MAP: u8 = 118;

#[inline]
pub(super) fn read(
    reader: &mut Reader<'_>,
    tag: u8,
    limits: &ScanLimits,
    summary: &mut Summary,
) -> Result<u64, ScanError> {
    match tag {
        STRING => Ok(utf16_len(reader.var_str()?.as_bytes())),
        DELETED => Ok(reader.var_uint()?),
        TYPE => read_type(reader),
        FORMAT => {
            reader.var_str()?;
            read_json(reader, limits, summary)
        }
        ANY => {
            let count = reader.var_uint()?;
            read_values(reader, count, limits, summary)?;
            Ok(count)
        }
        BINARY => {
            reader.var_bytes()?;
            Ok(1)
        }
        EMBED => read_json(reader, limits, summary),
        SUBDOCUMENT => read_subdocument(reader, limits, summary),
        JSON => read_json_strings(reader, limits, summary),
        other => Err(ScanError::UnknownStruct(other)),
    }
}

/// Skips content that the scanner accepted.
#[inline]
pub(super) fn skip(reader: &mut Reader<'_>, tag: u8) -> Result<u64, ReadError> {
    match tag {
        STRING => return Ok(utf16_len(reader.var_bytes()?)),
        DELETED => return reader.var_uint(),
        TYPE => {
            if matches!(reader.var_uint()?, XML_ELEMENT | XML_HOOK) {
                reader.var_bytes()?;
            }
        }
        FORMAT => {
            reader.var_bytes()?;
            reader.var_bytes()?;
        }
        ANY => {
            let count = reader.var_uint()?;
            skip_values(reader, count)?;
            return Ok(count);
        }
        JSON => {
            let count = reader.var_uint()?;
            for _ in 0..count {
                reader.var_bytes()?;
            }
            return Ok(count);
        }
        SUBDOCUMENT => {
            reader.var_bytes()?;
            skip_values(reader, 1)?;
        }
        _ => _ = reader.var_bytes()?,
    }
    Ok(1)
}

/// The encoded bytes of the first `len` values of `Any` or JSON content.
pub(super) fn values(tag: u8, content: &[u8], len: u64) -> &[u8] {
    let mut reader = Reader::new(content);
    let passed = match tag {
        ANY => skip_values(&mut reader, len),
        _ => (0..len).try_for_each(|_| reader.var_bytes().map(drop)),
    };
    let len = if passed.is_ok() { content.len() - reader.remaining() } else { content.len() };
    &content[..len]
}

/// Skips values that the scanner accepted.
fn skip_values(reader: &mut Reader<'_>, count: u64) -> Result<(), ReadError> {
    read_values(reader, count, &super::parse::UNLIMITED, &mut Summary::default()).map_err(|error| match error {
        ScanError::Read(error) => error,
        _ => ReadError::UnexpectedEnd,
    })
}

/// Length in UTF-16 code units: one for each character, one more for each character of four bytes.
#[inline]
fn utf16_len(text: &[u8]) -> u64 {
    text.iter().map(|&byte| u64::from(byte & 0xc0 != 0x80) + u64::from(byte >= 0xf0)).sum()
}

fn read_type(reader: &mut Reader<'_>) -> Result<u64, ScanError> {
    match reader.var_uint()? {
        XML_ELEMENT | XML_HOOK => _ = reader.var_str()?,
        0..=LAST_TYPE => {}
        other => return Err(ScanError::UnknownType(other)),
    }
    Ok(1)
}

fn read_json(reader: &mut Reader<'_>, limits: &ScanLimits, summary: &mut Summary) -> Result<u64, ScanError> {
    let depth = json::check(reader.var_str()?, Parser::JavaScript, limits.value_depth)?;
    summary.value_depth = summary.value_depth.max(depth);
    Ok(1)
}

/// List content of Yjs before 13 (`ContentJSON`): strings, each JSON or "undefined".
fn read_json_strings(reader: &mut Reader<'_>, limits: &ScanLimits, summary: &mut Summary) -> Result<u64, ScanError> {
    let count = reader.var_uint()?;
    if count > reader.remaining() as u64 {
        return Err(ScanError::CountBeyondBytes(count));
    }
    for _ in 0..count {
        let text = reader.var_str()?;
        if text != "undefined" {
            let depth = json::check(text, Parser::JavaScript, limits.value_depth)?;
            summary.value_depth = summary.value_depth.max(depth);
        }
    }
    Ok(count)
}

fn read_subdocument(reader: &mut Reader<'_>, limits: &ScanLimits, summary: &mut Summary) -> Result<u64, ScanError> {
    summary.subdocuments += 1;
    reader.var_str()?;
    if reader.rest().first() != Some(&ANY_MAP) {
        return Err(ScanError::BadSubdocument);
    }
    read_values(reader, 1, limits, summary)?;
    Ok(1)
}

/// Checks that `bytes` are one lib0 `Any` value and nothing after it.
pub(super) fn read_value(bytes: &[u8], limits: &ScanLimits) -> Result<(), ScanError> {
    let mut reader = Reader::new(bytes);
    read_values(&mut reader, 1, limits, &mut Summary::default())?;
    if reader.is_empty() { Ok(()) } else { Err(ScanError::TrailingBytes(reader.remaining())) }
}

/// Reads `count` consecutive values.
fn read_values(
    reader: &mut Reader<'_>,
    count: u64,
    limits: &ScanLimits,
    summary: &mut Summary,
) -> Result<(), ScanError> {
    count_values(reader, count, 1, summary)?;
    for _ in 0..count {
        match reader.rest().first() {
            Some(&(ANY_ARRAY | ANY_MAP)) => read_container(reader, limits, summary)?,
            _ => read_scalar(reader)?,
        }
    }
    Ok(())
}

/// Adds `count` values of at least `bytes_each` to the summary, before any of them is read.
fn count_values(reader: &Reader<'_>, count: u64, bytes_each: u64, summary: &mut Summary) -> Result<(), ScanError> {
    if count > reader.remaining() as u64 / bytes_each {
        return Err(ScanError::CountBeyondBytes(count));
    }
    summary.values += count;
    Ok(())
}

/// Reads a value that contains no other values (lib0 `readAny`).
fn read_scalar(reader: &mut Reader<'_>) -> Result<(), ScanError> {
    match reader.u8()? {
        // undefined, null, true, false
        127 | 126 | 121 | 120 => {}
        125 => reader.skip_var_int()?,
        // float32, float64, bigint
        124 => _ = reader.bytes(4)?,
        123 | 122 => _ = reader.bytes(8)?,
        119 => _ = reader.var_str()?,
        ANY_BUFFER => _ = reader.var_bytes()?,
        other => return Err(ScanError::UnknownValue(other)),
    }
    Ok(())
}

/// Reads an array or map with everything in it, using one counter per level instead of recursion.
#[inline(never)]
fn read_container(reader: &mut Reader<'_>, limits: &ScanLimits, summary: &mut Summary) -> Result<(), ScanError> {
    let max_depth = limits.value_depth.min(VALUE_DEPTH_CEILING);
    // For each level: how many values are left, and whether each is preceded by a key.
    let mut levels = [(0u64, false); VALUE_DEPTH_CEILING];
    let mut depth = 0;
    loop {
        match reader.rest().first() {
            Some(&tag @ (ANY_ARRAY | ANY_MAP)) => {
                reader.u8()?;
                if depth == max_depth {
                    return Err(ScanError::ValueTooDeep(max_depth));
                }
                let count = reader.var_uint()?;
                let map = tag == ANY_MAP;
                count_values(reader, count, if map { 2 } else { 1 }, summary)?;
                levels[depth] = (count, map);
                depth += 1;
                summary.value_depth = summary.value_depth.max(depth);
            }
            _ => read_scalar(reader)?,
        }
        // Continue with the next value: leave every completed level and skip the value's key.
        loop {
            let Some((left, map)) = depth.checked_sub(1).map(|top| &mut levels[top]) else { return Ok(()) };
            if *left > 0 {
                *left -= 1;
                if *map {
                    reader.var_str()?;
                }
                break;
            }
            depth -= 1;
        }
    }
}
