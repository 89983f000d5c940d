//! Document names in URLs: which percent-encoded characters are decoded, and which are part of the name.
//!
//! y-websocket puts the name into the path of a URL. The URL parser of a browser or of Node percent-encodes some
//! characters (WHATWG URL Standard, "path percent-encode set"); every other escape was written by a person or a program.
//! [`canonical`] decodes the first kind and keeps the second: `a%20b` is `a b`, but `a%2Fb` is not `a/b`.

use std::borrow::Cow;

/// The canonical form of `name`: every character that a URL parser encodes is decoded, everything else is unchanged.
///
/// Escapes of control characters, of other ASCII characters, and of bytes that are not UTF-8 are kept. Decoding never
/// creates a new escape, so a second call changes nothing.
pub fn canonical(name: &str) -> Cow<'_, str> {
    let Some(first) = name.find('%') else { return Cow::Borrowed(name) };
    let (before, mut rest) = name.split_at(first);
    let mut decoded = String::with_capacity(name.len());
    decoded.push_str(before);
    while let Some(at) = rest.find('%') {
        let (plain, escape) = rest.split_at(at);
        decoded.push_str(plain);
        match escaped_char(escape.as_bytes()) {
            Some((char, len)) if is_encoded_by_url_parsers(char) => {
                decoded.push(char);
                rest = &escape[len..];
            }
            _ => {
                decoded.push('%');
                rest = &escape[1..];
            }
        }
    }
    decoded.push_str(rest);
    if decoded.len() == name.len() { Cow::Borrowed(name) } else { Cow::Owned(decoded) }
}

/// `name` as a URL parser encodes it in a path. The inverse of [`canonical`] for canonical names.
pub fn url_path(name: &str) -> Cow<'_, str> {
    if !name.chars().any(is_encoded_by_url_parsers) {
        return Cow::Borrowed(name);
    }
    let mut encoded = String::with_capacity(name.len() + 16);
    let mut bytes = [0; 4];
    for char in name.chars() {
        if is_encoded_by_url_parsers(char) {
            char.encode_utf8(&mut bytes).bytes().for_each(|byte| encoded.push_str(&format!("%{byte:02X}")));
        } else {
            encoded.push(char);
        }
    }
    Cow::Owned(encoded)
}

/// Whether a URL parser may encode the character in a path. Control characters are excluded because no name may contain
/// them. Only newer parsers encode `^`, and only parsers that follow RFC 3986 encode `|`.
fn is_encoded_by_url_parsers(char: char) -> bool {
    match char {
        ' ' | '"' | '<' | '>' | '^' | '`' | '{' | '|' | '}' => true,
        _ => !char.is_ascii() && !char.is_control(),
    }
}

/// The UTF-8 character that the escapes at the start of `text` encode, and the number of bytes of `text` they take.
fn escaped_char(text: &[u8]) -> Option<(char, usize)> {
    let width = match escaped_byte(text)? {
        0x00..=0x7f => 1,
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return None,
    };
    let mut bytes = [0; 4];
    for (byte, escape) in bytes[..width].iter_mut().zip(text.chunks(3)) {
        *byte = escaped_byte(escape)?;
    }
    // If there are fewer escapes than the first byte announces, a zero byte is left, which is not valid UTF-8 there.
    let char = std::str::from_utf8(&bytes[..width]).ok()?.chars().next()?;
    Some((char, 3 * width))
}

/// The byte of an escape: `%` and two hexadecimal digits.
fn escaped_byte(text: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    match *text {
        [b'%', high, low, ..] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_url_parsers_encode_are_decoded() {
        for (spelling, name) in [
            ("space%20name", "space name"),
            ("%E6%96%87%E6%A1%A3", "文档"),
            ("%e6%96%87", "文"),
            ("%F0%9F%98%80", "\u{1f600}"),
            ("%22%3C%3E%5E%60%7B%7C%7D", "\"<>^`{|}"),
            ("100%%20done", "100% done"),
            ("%E6%96%87%2F%20", "文%2F "),
            ("a%E2%80%AEb", "a\u{202e}b"),
        ] {
            assert_eq!(canonical(spelling), name);
            assert_eq!(canonical(name), name, "a decoded name stays as it is");
            assert_eq!(canonical(&url_path(name)), name);
            assert!(url_path(name).is_ascii() && !url_path(name).contains(' '));
        }
    }

    #[test]
    fn escapes_that_url_parsers_do_not_write_are_kept() {
        for name in [
            "a%2Fb",
            "a%25b",
            "a%2520b",
            "a%3Fb",
            "a%23b",
            "a%5Cb",
            "%41",
            "%61",
            "a%3Ab",
            "a%2eb",
            "%",
            "%2",
            "%zz",
            // Control characters.
            "%00",
            "a%0Ab",
            "%7F",
            "%C2%85", // Not UTF-8: truncated, overlong, a surrogate, above U+10FFFF.
            "%E6%96",
            "%E6%96x",
            "%C0%A0",
            "%ED%A0%80",
            "%F4%90%80%80",
            "%80",
            "%FF",
        ] {
            assert!(matches!(canonical(name), Cow::Borrowed(same) if same == name), "{name}");
            assert!(matches!(url_path(name), Cow::Borrowed(same) if same == name), "{name}");
        }
    }

    #[test]
    fn invalid_escape_does_not_hide_the_next_one() {
        assert_eq!(canonical("%E4%E2%82%AC"), "%E4€");
        assert_eq!(canonical("%E6%96%E6%96%87"), "%E6%96文");
        assert_eq!(canonical("%%20%2%20"), "% %2 ");
    }

    #[test]
    fn decoding_a_canonical_name_changes_nothing() {
        // Every name made of six of these pieces.
        let pieces = ["%", "2", "0", "%20", "%E2%82%AC", "E"];
        for mut number in 0..pieces.len().pow(6) {
            let mut name = String::new();
            for _ in 0..6 {
                name.push_str(pieces[number % pieces.len()]);
                number /= pieces.len();
            }
            let once = canonical(&name).into_owned();
            assert_eq!(canonical(&once), once, "{name}");
        }
    }
}
