//! PURE: parses the text of a configuration file. Errors name TOML types, and say where an unknown key belongs.

use clap::{Args, Command};

use super::RawConfig;
use crate::limits::RawLimits;

/// The only table of the file.
const TABLE: &str = "limits";

/// Parses the text of a file.
///
/// Errors: a text for people, with line, column and the line itself where they are known.
pub(super) fn parse(text: &str) -> Result<RawConfig, String> {
    toml::from_str(text).map_err(|error| explain(&error))
}

/// The error as toml prints it, with serde's messages rewritten.
fn explain(error: &toml::de::Error) -> String {
    let message = error.message();
    let printed = error.to_string();
    let position = printed.trim_end().strip_suffix(message.trim_end()).unwrap_or_default();
    let position = position.replacen("TOML parse error at ", "", 1);
    let rewritten = unknown_key(message).or_else(|| wrong_type(message, &key_path(error)?));
    format!("{position}{}", rewritten.as_deref().unwrap_or(message))
}

/// The key whose value is wrong, such as `limits.max_connections`. toml prints it only without the text of the file.
fn key_path(error: &toml::de::Error) -> Option<String> {
    let mut error = error.clone();
    error.set_input(None);
    Some(error.to_string().trim_end().rsplit_once("in `")?.1.strip_suffix('`')?.to_owned())
}

/// Rewrites "unknown field `a`, expected one of `b`, `c`".
fn unknown_key(message: &str) -> Option<String> {
    let (key, expected) = message.strip_prefix("unknown field `")?.split_once('`')?;
    let limits = keys::<RawLimits>();
    let mut top: Vec<String> = keys::<RawConfig>().into_iter().filter(|key| !limits.contains(key)).collect();
    top.push(TABLE.to_owned());
    let is_in_table = !expected.contains(&format!("`{TABLE}`"));
    let (here, elsewhere) = if is_in_table { (limits, top) } else { (top, limits) };
    let place = if is_in_table { "above the table [limits]" } else { "in the table [limits]" };

    let spelling = key.to_ascii_lowercase().replace('-', "_");
    let spelling = spelling.strip_prefix("syncline_").unwrap_or(&spelling);
    let hint = if here.iter().any(|known| known == spelling) {
        format!("write it as `{spelling}`")
    } else if elsewhere.iter().any(|known| known == spelling) {
        let rename = if spelling == key { String::new() } else { format!(" as `{spelling}`") };
        format!("write it{rename} {place}")
    } else if let Some(known) = most_similar(spelling, &here) {
        format!("did you mean `{known}`?")
    } else if let Some(known) = most_similar(spelling, &elsewhere) {
        format!("did you mean `{known}`, {place}?")
    } else {
        format!("the keys here are {}", here.join(", "))
    };
    Some(format!("unknown key `{key}`: {hint}"))
}

/// The setting names: clap's argument ids and serde's keys are both the names of the fields.
fn keys<T: Args>() -> Vec<String> {
    let command = T::augment_args(Command::new("settings"));
    command.get_arguments().map(|setting| setting.get_id().to_string()).collect()
}

/// Rewrites "invalid type: string "5", expected usize" and "unknown variant `a`, expected `b` or `c`".
fn wrong_type(message: &str, key: &str) -> Option<String> {
    if let Some((found, expected)) =
        message.strip_prefix("unknown variant ").and_then(|it| it.split_once(", expected "))
    {
        return Some(format!("`{key}` must be {}; found {}", expected.replace('`', "\""), found.replace('`', "\"")));
    }
    let found = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "))?;
    let (found, expected) = found.rsplit_once(", expected ")?;
    let expected = match expected {
        "u64" | "usize" => "a whole number, 0 or greater",
        "path string" => "a string",
        "a sequence" => "an array",
        "struct RawLimits" => "a table",
        other => other,
    };
    let found = found.replacen("floating point", "float", 1);
    let found = match found.as_str() {
        "sequence" => "an array",
        "map" => "a table",
        other => other,
    };
    Some(format!("`{key}` must be {expected}; found {found}"))
}

/// The known key with the fewest edits, if they are at most a third of the key.
fn most_similar<'a>(key: &str, known: &'a [String]) -> Option<&'a str> {
    let (distance, known) = known.iter().map(|known| (edit_distance(key, known), known)).min()?;
    (distance * 3 <= key.len()).then_some(known)
}

/// Levenshtein distance.
fn edit_distance(one: &str, other: &str) -> usize {
    let mut distances: Vec<usize> = (0..=other.len()).collect();
    for (row, from) in one.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut distances[0], row + 1);
        for (column, to) in other.bytes().enumerate() {
            let substituted = diagonal + usize::from(from != to);
            diagonal = distances[column + 1];
            distances[column + 1] = substituted.min(diagonal + 1).min(distances[column] + 1);
        }
    }
    distances[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last line of the error, after the position and the line at fault.
    fn explanation(text: &str) -> String {
        parse(text).unwrap_err().lines().last().unwrap_or_default().to_owned()
    }

    #[test]
    fn unknown_key_names_the_right_spelling_or_table() {
        for (text, expected) in [
            ("lisen = \":1\"", "unknown key `lisen`: did you mean `listen`?"),
            ("log-format = \"json\"", "unknown key `log-format`: write it as `log_format`"),
            ("SYNCLINE_DATA = \"x\"", "unknown key `SYNCLINE_DATA`: write it as `data`"),
            ("max_connections = 7", "unknown key `max_connections`: write it in the table [limits]"),
            (
                "max-connections = 7",
                "unknown key `max-connections`: write it as `max_connections` in the table [limits]",
            ),
            (
                "max_conections = 7",
                "unknown key `max_conections`: did you mean `max_connections`, in the table [limits]?",
            ),
            ("[limit]\nmax_connections = 7", "unknown key `limit`: did you mean `limits`?"),
            ("[limits]\nmax_connection = 7", "unknown key `max_connection`: did you mean `max_connections`?"),
            ("[limits]\nlisten = \":1\"", "unknown key `listen`: write it above the table [limits]"),
        ] {
            assert_eq!(explanation(text), expected, "{text}");
        }
        let all = explanation("[server]\nport = 1");
        assert!(
            all.starts_with("unknown key `server`: the keys here are listen, ") && all.ends_with(", limits"),
            "{all}"
        );
    }

    #[test]
    fn wrong_value_is_explained_in_toml_types() {
        for (text, expected) in [
            ("message_bytes = \"5\"", "`message_bytes` must be a whole number, 0 or greater; found string \"5\""),
            (
                "idle_unload_seconds = 1.5",
                "`idle_unload_seconds` must be a whole number, 0 or greater; found float `1.5`",
            ),
            ("outbox_bytes = -5", "`outbox_bytes` must be a whole number, 0 or greater; found integer `-5`"),
            ("data = 5", "`data` must be a string; found integer `5`"),
            ("listen = 1234", "`listen` must be a string; found integer `1234`"),
            ("allow_origin = \"a\"", "`allow_origin` must be an array; found string \"a\""),
            ("limits = 5", "`limits` must be a table; found integer `5`"),
            (
                "[limits]\nmax_connections = true",
                "`limits.max_connections` must be a whole number, 0 or greater; found boolean `true`",
            ),
            ("[data]", "`data` must be a string; found a table"),
            ("log_format = \"xml\"", "`log_format` must be \"text\" or \"json\"; found \"xml\""),
        ] {
            assert_eq!(explanation(text), expected, "{text}");
        }
    }

    #[test]
    fn error_shows_the_line_at_fault() {
        let error = parse("data = \"x\"\nlisen = 5\n").unwrap_err();
        assert!(error.starts_with("line 2, column 1\n") && error.contains("\n2 | lisen = 5\n"), "{error}");
        let error = parse("data = \n").unwrap_err();
        assert!(error.starts_with("line 1, column ") && !error.ends_with('\n'), "{error}");
    }
}
