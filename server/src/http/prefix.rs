//! PURE: the path prefix that a proxy keeps in the requests it forwards.
//!
//! The prefix is removed from paths that have it; other paths are used unchanged. So a proxy that removes the
//! prefix works too, and so does a health check that does not know it.

use std::fmt;

/// A path prefix of zero or more segments: `collab` for `https://example.org/collab/`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathPrefix(String);

/// A text that is not a path prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a URL path such as /collab: percent-encode every character except letters, digits and \
     -._~!$&'()*+,;=:@%"
)]
pub struct PrefixError(String);

impl PathPrefix {
    /// Parses `/collab`, `collab` or `/collab/`, percent-encoded as in a URL. `/` and the empty text mean no prefix.
    pub fn parse(prefix: &str) -> Result<Self, PrefixError> {
        let is_allowed = |char: char| char.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@%".contains(char);
        let segments = prefix.trim_matches('/');
        let is_segment = |part: &str| !matches!(part, "" | "." | "..") && part.chars().all(is_allowed);
        if !segments.is_empty() && !segments.split('/').all(is_segment) {
            return Err(PrefixError(prefix.to_owned()));
        }
        Ok(Self(segments.to_owned()))
    }

    /// The part of `path` after the prefix, or `path` if it does not have the prefix. Both are without their
    /// first slash.
    pub fn strip<'a>(&self, path: &'a str) -> &'a str {
        if self.is(path) {
            return "";
        }
        let inside = path.strip_prefix(&*self.0).and_then(|rest| rest.strip_prefix('/'));
        inside.filter(|_| !self.0.is_empty()).unwrap_or(path)
    }

    /// Whether `path`, without its first slash, is the prefix without a slash after it.
    pub fn is(&self, path: &str) -> bool {
        !self.0.is_empty() && path == self.0
    }

    /// The last segment: the start of a relative link from the prefix to the page.
    pub fn last_segment(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

/// With its first slash, to be written between host and path; empty if there is no prefix.
impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "/{}", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_is_removed_where_it_is_present() {
        let prefix = PathPrefix::parse("/a/collab/").unwrap();
        assert_eq!(PathPrefix::parse("a/collab").unwrap(), prefix);
        assert_eq!(prefix.to_string(), "/a/collab");
        for (path, inside) in [
            ("a/collab/doc", "doc"),
            ("a/collab//doc", "/doc"),
            ("a/collab/a/collab/doc", "a/collab/doc"),
            ("a/collab/", ""),
            ("a/collab", ""),
            ("doc", "doc"),
            ("/a/collab/doc", "/a/collab/doc"),
            ("a/collaborate/doc", "a/collaborate/doc"),
            ("", ""),
        ] {
            assert_eq!(prefix.strip(path), inside, "{path}");
        }
    }

    #[test]
    fn empty_prefix_changes_no_path() {
        for none in ["", "/", "//"] {
            let prefix = PathPrefix::parse(none).unwrap();
            assert_eq!(prefix, PathPrefix::default());
            assert_eq!(prefix.to_string(), "");
            for path in ["", "/", "/doc", "doc"] {
                assert_eq!((prefix.strip(path), prefix.is(path)), (path, false));
            }
        }
    }

    #[test]
    fn text_that_is_not_a_url_path_is_rejected() {
        for prefix in ["/my docs", "/a?b", "/a#b", "/ü", "/a//b", "/../a", "/a/."] {
            assert!(PathPrefix::parse(prefix).unwrap_err().to_string().contains(prefix), "{prefix}");
        }
        assert!(PathPrefix::parse("/my%20docs").is_ok());
    }
}
