//! Checks whether a text is JSON (RFC 8259), and how deep: one pass over the bytes, one bit per level, no recursion.

use std::borrow::Cow;

use super::{ScanError, VALUE_DEPTH_CEILING};

/// Which parser must accept the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parser {
    /// `JSON.parse`.
    JavaScript,
    /// `JSON.parse`, and `serde_json` into the `Any` of yrs: no lone surrogate escapes, no number beyond `f64`, no
    /// integer between `i64::MAX` and `u64::MAX` (yrs 0.28.1, `encoding/serde/de.rs`).
    Yrs,
}

/// Checks `text` and returns its depth: 0 for a scalar.
pub(crate) fn check(text: &str, parser: Parser, max_depth: usize) -> Result<usize, ScanError> {
    let mut json = JsonScanner { bytes: text.as_bytes(), at: 0, parser };
    let max_depth = max_depth.min(VALUE_DEPTH_CEILING);
    // Bit n: the container at level n is an object.
    let (mut objects, mut depth, mut deepest) = (0u128, 0usize, 0usize);
    loop {
        // A value begins here.
        let open = json.next_token().ok_or(ScanError::BadJson)?;
        if let b'{' | b'[' = open {
            depth += 1;
            if depth > max_depth {
                return Err(ScanError::ValueTooDeep(max_depth));
            }
            deepest = deepest.max(depth);
            objects = (objects & !(1 << depth)) | (u128::from(open == b'{') << depth);
            if !json.consume_close(if open == b'{' { b'}' } else { b']' }) {
                if open == b'{' {
                    json.key()?;
                }
                continue;
            }
            depth -= 1;
        } else {
            json.scalar(open)?;
        }
        // A value ended here: close containers, or continue after a comma.
        loop {
            if depth == 0 {
                return if json.next_token().is_none() { Ok(deepest) } else { Err(ScanError::BadJson) };
            }
            let object = objects >> depth & 1 == 1;
            match json.next_token() {
                Some(b',') if object => json.key()?,
                Some(b',') => {}
                Some(b'}') if object => {
                    depth -= 1;
                    continue;
                }
                Some(b']') if !object => {
                    depth -= 1;
                    continue;
                }
                _ => return Err(ScanError::BadJson),
            }
            break;
        }
    }
}

/// A replacement that yrs can parse for a JSON text that only JavaScript parses; `None` if yrs parses the text itself. A
/// lone surrogate becomes U+FFFD, as when JavaScript encodes it as UTF-8; any other text that yrs cannot parse becomes
/// `null`.
pub fn json_for_yrs(text: &str) -> Option<Cow<'static, str>> {
    let is_readable = |text: &str| check(text, Parser::Yrs, VALUE_DEPTH_CEILING).is_ok();
    if is_readable(text) {
        return None;
    }
    let repaired = replace_lone_surrogates(text);
    Some(if is_readable(&repaired) { Cow::Owned(repaired) } else { Cow::Borrowed("null") })
}

fn replace_lone_surrogates(text: &str) -> String {
    let unit_at = |at: usize| {
        let escape = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u32::from_str_radix(escape, 16).ok()
    };
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    while let Some(next) = text[at..].find('\\') {
        out.push_str(&text[at..at + next]);
        at += next;
        let len = match (unit_at(at), unit_at(at + 6)) {
            (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => 12,
            (Some(0xd800..0xe000), _) => {
                out.push('\u{fffd}');
                at += 6;
                continue;
            }
            (Some(_), _) => 6,
            // A backslash and the character after it.
            (None, _) => 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
        };
        out.push_str(&text[at..at + len]);
        at += len;
    }
    out.push_str(&text[at..]);
    out
}

struct JsonScanner<'a> {
    bytes: &'a [u8],
    at: usize,
    parser: Parser,
}

impl JsonScanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Consumes and returns the next byte that is not white space.
    fn next_token(&mut self) -> Option<u8> {
        loop {
            let byte = self.peek()?;
            self.at += 1;
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
        }
    }

    fn consume_close(&mut self, close: u8) -> bool {
        let start = self.at;
        if self.next_token() == Some(close) {
            return true;
        }
        self.at = start;
        false
    }

    fn key(&mut self) -> Result<(), ScanError> {
        if self.next_token() != Some(b'"') {
            return Err(ScanError::BadJson);
        }
        self.string()?;
        if self.next_token() == Some(b':') { Ok(()) } else { Err(ScanError::BadJson) }
    }

    fn scalar(&mut self, first: u8) -> Result<(), ScanError> {
        match first {
            b'"' => self.string(),
            b't' => self.literal(b"rue"),
            b'f' => self.literal(b"alse"),
            b'n' => self.literal(b"ull"),
            b'-' | b'0'..=b'9' => self.number(),
            _ => Err(ScanError::BadJson),
        }
    }

    fn literal(&mut self, rest: &[u8]) -> Result<(), ScanError> {
        if !self.bytes[self.at..].starts_with(rest) {
            return Err(ScanError::BadJson);
        }
        self.at += rest.len();
        Ok(())
    }

    /// Reads the rest of a string after its opening quote. The bytes are known to be UTF-8.
    fn string(&mut self) -> Result<(), ScanError> {
        loop {
            let byte = self.peek().ok_or(ScanError::BadJson)?;
            self.at += 1;
            match byte {
                b'"' => return Ok(()),
                b'\\' => self.escape()?,
                0..0x20 => return Err(ScanError::BadJson),
                _ => {}
            }
        }
    }

    fn escape(&mut self) -> Result<(), ScanError> {
        let byte = self.peek().ok_or(ScanError::BadJson)?;
        self.at += 1;
        match byte {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(()),
            b'u' => {
                let unit = self.hex4()?;
                if self.parser == Parser::JavaScript || !(0xd800..0xe000).contains(&unit) {
                    return Ok(());
                }
                // A leading surrogate must be followed by a trailing one.
                if unit >= 0xdc00 || !self.bytes[self.at..].starts_with(b"\\u") {
                    return Err(ScanError::BadJson);
                }
                self.at += 2;
                if (0xdc00..0xe000).contains(&self.hex4()?) { Ok(()) } else { Err(ScanError::BadJson) }
            }
            _ => Err(ScanError::BadJson),
        }
    }

    fn hex4(&mut self) -> Result<u32, ScanError> {
        let digits = self.bytes.get(self.at..self.at + 4).ok_or(ScanError::BadJson)?;
        self.at += 4;
        digits.iter().try_fold(0, |value, &digit| {
            let digit = char::from(digit).to_digit(16).ok_or(ScanError::BadJson)?;
            Ok(value << 4 | digit)
        })
    }

    /// Reads the rest of a number after its first byte.
    fn number(&mut self) -> Result<(), ScanError> {
        let start = self.at - 1;
        if self.bytes[start] == b'-' {
            self.at += 1;
        }
        // No digit may follow a leading zero.
        match self.bytes.get(self.at - 1) {
            Some(b'0') => {}
            Some(b'1'..=b'9') => _ = self.digits(),
            _ => return Err(ScanError::BadJson),
        }
        let mut integer = true;
        if self.peek() == Some(b'.') {
            self.at += 1;
            integer = false;
            if self.digits() == 0 {
                return Err(ScanError::BadJson);
            }
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            integer = false;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err(ScanError::BadJson);
            }
        }
        if self.parser == Parser::JavaScript || is_number_for_yrs(&self.bytes[start..self.at], integer) {
            Ok(())
        } else {
            Err(ScanError::BadJson)
        }
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        self.at - start
    }
}

fn is_number_for_yrs(number: &[u8], integer: bool) -> bool {
    // Shorter integers fit an i64.
    if integer && number.len() <= 18 {
        return true;
    }
    let Ok(text) = std::str::from_utf8(number) else { return false };
    if integer && text.parse::<u64>().is_ok_and(|value| i64::try_from(value).is_err()) {
        return false;
    }
    // serde_json may round the last digit up, so the very largest numbers are excluded.
    text.parse::<f64>().is_ok_and(|value| value.abs() < f64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_that_only_javascript_parses_is_replaced_for_yrs() {
        for (text, readable) in [
            (r#""fine \ud83d\ude00 \\ud83d""#, None),
            (r#""half \ud83d""#, Some("\"half \u{fffd}\"")),
            (r#"["\ude00\ud83d","\ud83d\ude00"]"#, Some("[\"\u{fffd}\u{fffd}\",\"\\ud83d\\ude00\"]")),
            ("18446744073709551615", Some("null")),
        ] {
            assert_eq!(json_for_yrs(text).as_deref(), readable, "{text}");
        }
    }

    #[test]
    fn valid_json_is_accepted_and_invalid_json_is_refused() {
        for good in [
            "null",
            " true ",
            "false",
            "0",
            "-0",
            "-1.5e+3",
            "12",
            "\"\"",
            "\"\\u00e9\\n\"",
            "[]",
            "{}",
            "[ ]",
            "[1,2]",
            "{\"a\":[{},[],\"x\"]}",
            "{ \"a\" : 1 , \"a\" : 2 }",
            "\"\\ud83d\\ude00\"",
            "1E9",
            "[[[]]]\n",
        ] {
            assert!(check(good, Parser::Yrs, 10).is_ok(), "{good}");
        }
        for bad in [
            "",
            " ",
            "undefined",
            "nul",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "[",
            "]",
            "[1,]",
            "[,1]",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "'a'",
            "\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\n\"",
            "1 2",
            "[1}",
            "{\"a\":1]",
            "NaN",
            "\"\\u12",
            "[1 2]",
            "-a",
            "--1",
        ] {
            assert_eq!(check(bad, Parser::JavaScript, 10), Err(ScanError::BadJson), "{bad}");
        }
    }

    #[test]
    fn json_that_only_javascript_parses_is_refused_for_yrs() {
        for text in ["\"\\ud83d\"", "\"\\ude00\"", "\"\\ud83dx\"", "1e999", "10000000000000000000", &"9".repeat(400)] {
            assert!(check(text, Parser::JavaScript, 10).is_ok(), "{text}");
            assert_eq!(check(text, Parser::Yrs, 10), Err(ScanError::BadJson), "{text}");
        }
        assert!(check("9223372036854775807", Parser::Yrs, 10).is_ok());
        assert!(check("100000000000000000000000", Parser::Yrs, 10).is_ok());
    }

    #[test]
    fn depth_is_counted_and_bounded() {
        assert_eq!(check("1", Parser::Yrs, 0), Ok(0));
        assert_eq!(check("[[],{\"a\":[1]}]", Parser::Yrs, 3), Ok(3));
        assert_eq!(check("[[],{\"a\":[1]}]", Parser::Yrs, 2), Err(ScanError::ValueTooDeep(2)));
        let deep = "[".repeat(1_000_000);
        assert_eq!(check(&deep, Parser::Yrs, usize::MAX), Err(ScanError::ValueTooDeep(VALUE_DEPTH_CEILING)));
    }
}
