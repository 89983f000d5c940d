//! Output of the server: log lines on standard error, and the announcement that it is ready on standard output.
//!
//! Many logged values come from clients: names, paths, users, reasons. In text format every value that is not a
//! plain word is quoted, and characters that a terminal or collector interprets are escaped: a name cannot end
//! its line, forge another field, or reverse the text direction. JSON lines are pure ASCII for the same reason.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write, stderr, stdout};
use std::panic;
use std::str::FromStr;

use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing::{error, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{self, Writer};

use super::inspect::rfc3339;
use crate::config::LogFormat;
use crate::unix_time::now_ms;

/// The filter if RUST_LOG is not set. Without the engine's lines: the store's errors explain what they are about.
const DEFAULT_FILTER: &str = "info,sled=off";
/// Prefixes of log targets that RUST_LOG may name.
const TARGET_PREFIXES: &[&str] =
    &["syncline", "hyper", "mio", "rustls", "sled", "tokio", "tracing", "tungstenite", "yrs"];

/// Starts logging. If RUST_LOG is invalid, logs a warning and uses the default filter.
pub fn start(format: LogFormat) {
    let given = std::env::var_os("RUST_LOG").map(|text| text.to_string_lossy().into_owned());
    let (filter, problem) = match given.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(parse_filter) {
        None => (EnvFilter::new(DEFAULT_FILTER), None),
        Some(Ok(filter)) => (filter, None),
        Some(Err(problem)) => (EnvFilter::new(DEFAULT_FILTER), Some(problem)),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter);
    match format {
        LogFormat::Text => {
            let fields = format::debug_fn(write_field);
            lines.with_writer(stderr).with_ansi(stderr().is_terminal()).fmt_fields(fields).init();
        }
        LogFormat::Json => {
            lines.json().with_writer(AsciiLines).init();
            panic::set_hook(Box::new(|panic| error!(panic = %panic, "a task or thread of the server panicked")));
        }
    }
    if let Some(problem) = problem {
        warn!(RUST_LOG = given, "RUST_LOG is ignored: {problem}; logging with the filter {DEFAULT_FILTER}");
    }
}

/// Announces on standard output that the server is ready: with `text` for people, or with `fields` as JSON for
/// programs.
pub fn announce(format: LogFormat, message: &str, text: &str, fields: &serde_json::Value) -> io::Result<()> {
    let output = match format {
        LogFormat::Text => format!("{message}.\n{text}"),
        LogFormat::Json => json_line("INFO", message, fields),
    };
    let mut out = stdout().lock();
    // A single write: a program that waits for the first line can read the others as well.
    out.write_all(output.as_bytes())?;
    out.flush()
}

/// Writes the reason why a command failed to standard error.
pub fn report(format: LogFormat, error: &str) {
    let line = match format {
        LogFormat::Text => format!("syncline: {error}\n"),
        LogFormat::Json => json_line("ERROR", error, &serde_json::json!({})),
    };
    // A failure to write to standard error cannot be reported anywhere.
    stderr().write_all(line.as_bytes()).ok();
}

/// A JSON line in tracing-subscriber's layout.
fn json_line(level: &str, message: &str, fields: &serde_json::Value) -> String {
    let mut fields = fields.clone();
    fields["message"] = message.into();
    let line = serde_json::json!({
        "timestamp": rfc3339(now_ms()),
        "level": level,
        "fields": fields,
        "target": "syncline",
    });
    ascii(&format!("{line}\n")).into_owned()
}

/// Parses RUST_LOG. `EnvFilter` takes any word for a target, so a misspelled level would silence the log: such
/// a word is an error here.
fn parse_filter(text: &str) -> Result<EnvFilter, String> {
    for directive in text.split(',').map(str::trim) {
        let is_word = !directive.is_empty() && !directive.contains(['=', '[']);
        if is_word
            && LevelFilter::from_str(directive).is_err()
            && !TARGET_PREFIXES.iter().any(|prefix| directive.starts_with(prefix))
        {
            return Err(format!(
                "{directive:?} is neither a level (error, warn, info, debug, trace, off) nor a target of this program"
            ));
        }
    }
    EnvFilter::try_new(text).map_err(|error| error.to_string())
}

/// Writes the message, or a field after a space.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    // Module and source file of a line of the crate `log` (sled's): its target is already in the line.
    if field.name().starts_with("log.") {
        return Ok(());
    }
    let text = format!("{value:?}");
    if field.name() == "message" {
        return writer.write_str(&escape(&text));
    }
    writer.write_char(' ')?;
    if writer.has_ansi_escapes() {
        write!(writer, "\u{1b}[3m{}\u{1b}[0m\u{1b}[2m=\u{1b}[0m", field.name())?;
    } else {
        write!(writer, "{}=", field.name())?;
    }
    if is_plain(&text) || is_quoted(&text) { writer.write_str(&text) } else { write!(writer, "{text:?}") }
}

/// Whether a value can be written unquoted without ambiguity.
fn is_plain(text: &str) -> bool {
    let is_plain = |char: char| char.is_ascii_graphic() && !matches!(char, '"' | '=' | '\\');
    !text.is_empty() && text.chars().all(is_plain)
}

/// Whether a value is already one complete quoted string with everything escaped.
fn is_quoted(text: &str) -> bool {
    let Some(inside) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else { return false };
    let mut is_escaped = false;
    let is_closed = inside.chars().any(|char| {
        let ends = char == '"' && !is_escaped;
        is_escaped = char == '\\' && !is_escaped;
        ends
    });
    !is_closed && !is_escaped && escape(inside) == inside
}

/// `text` with unprintable characters escaped.
fn escape(text: &str) -> Cow<'_, str> {
    // A character that `Debug` does not escape is printable; so are quotes and backslashes.
    let is_printable = |char: char| matches!(char, '"' | '\'' | '\\') || char.escape_debug().eq([char]);
    if text.chars().all(is_printable) {
        return text.into();
    }
    let mut escaped = String::new();
    for char in text.chars() {
        if is_printable(char) { escaped.push(char) } else { escaped.extend(char.escape_debug()) }
    }
    escaped.into()
}

/// Escapes every non-ASCII character of a JSON text; such characters occur only inside strings.
fn ascii(json: &str) -> Cow<'_, str> {
    if json.is_ascii() {
        return json.into();
    }
    let mut ascii = String::new();
    for char in json.chars() {
        if char.is_ascii() {
            ascii.push(char);
        } else {
            for unit in char.encode_utf16(&mut [0; 2]) {
                // Writing to a String does not fail.
                write!(ascii, "\\u{unit:04x}").ok();
            }
        }
    }
    ascii.into()
}

/// Writes log lines to standard error in ASCII.
struct AsciiLines;

impl Write for AsciiLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // tracing-subscriber writes each line in a single call.
        let text = String::from_utf8_lossy(line);
        stderr().write_all(ascii(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        stderr().flush()
    }
}

impl MakeWriter<'_> for AsciiLines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::info;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let fields = format::debug_fn(write_field);
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(DEFAULT_FILTER)
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .fmt_fields(fields)
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn client_text_stays_one_quoted_value_in_every_log_style() {
        let hostile = "a\u{202e}b\u{2028} level=ERROR\nERROR forged\u{1b}[31m \"x";
        let escaped = r#""a\u{202e}b\u{2028} level=ERROR\nERROR forged\u{1b}[31m \"x""#;
        let line =
            logged(|| info!(plain = "doc-1/2", by_display = %hostile, by_debug = ?hostile, text = hostile, "got"));
        let expected = format!(" INFO got plain=\"doc-1/2\" by_display={escaped} by_debug={escaped} text={escaped}\n");
        assert_eq!(line, expected);
        // Quotes inside the value are escaped.
        let line = logged(|| info!(name = %"\"a\" level=\"ERROR\"", "got"));
        assert_eq!(line, " INFO got name=\"\\\"a\\\" level=\\\"ERROR\\\"\"\n");
        let line = logged(|| info!("got {hostile}"));
        assert_eq!(line.lines().count(), 1);
        assert!(!line.contains(['\u{202e}', '\u{2028}', '\u{1b}']), "{line}");
    }

    #[test]
    fn line_of_a_library_has_no_source_path() {
        let line = logged(|| info!("log.module_path" = "a::b", "log.line" = 7, documents = 2, "got it"));
        assert_eq!(line, " INFO got it documents=2\n");
    }

    #[test]
    fn default_filter_drops_lines_of_the_storage_engine() {
        let line = logged(|| {
            error!(target: "sled::pagecache::snapshot", "corrupt snapshot file found");
            error!("the store failed");
        });
        assert_eq!(line, "ERROR the store failed\n");
    }

    #[test]
    fn numbers_addresses_and_other_scripts_are_not_escaped() {
        let address: std::net::SocketAddr = "127.0.0.1:80".parse().unwrap();
        let line = logged(|| info!(count = 7, %address, name = "日本 x", none = None::<&str>, "got it"));
        assert_eq!(line, " INFO got it count=7 address=127.0.0.1:80 name=\"日本 x\"\n");
    }

    #[test]
    fn json_line_is_ascii_and_decodes_to_the_same_text() {
        let line = json_line("INFO", "is ready \u{202e}\u{1f600}", &serde_json::json!({ "data": "日本" }));
        assert!(line.is_ascii() && line.ends_with("}\n"), "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["fields"]["message"], "is ready \u{202e}\u{1f600}");
        assert_eq!(value["fields"]["data"], "日本");
    }

    #[test]
    fn misspelled_filter_is_rejected() {
        for good in
            ["info", "DEBUG", "off", "syncline_server=debug,info", "hyper", "warn,syncline_log=trace", "[{x}]=info"]
        {
            assert!(parse_filter(good).is_ok(), "{good}");
        }
        for bad in ["inof", "info,debgu", "syncline_server=verbose"] {
            assert!(parse_filter(bad).is_err(), "{bad}");
        }
    }
}
