//! Configuration in two stages: settings from flags, environment and file ([`RawConfig`]), then one validated
//! [`Config`].
//!
//! Precedence: flag, then `SYNCLINE_*` environment variable, then the TOML file, then the default. There are no
//! globals: each part of the server is passed the part of the configuration that it needs.

mod address;
mod file;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use hyper::header::HeaderName;
use serde::Deserialize;

pub use crate::http::origin::AllowedOrigins;
pub use crate::http::prefix::PathPrefix;
pub use crate::limits::{Limits, RawLimits};
pub use crate::session::SessionLimits;

/// Data directory if no setting names one.
pub const DEFAULT_DATA: &str = "data";
const DEFAULT_IDLE_UNLOAD_SECONDS: u64 = 30;
/// A year. A far longer time would overflow the clock.
const MAX_IDLE_UNLOAD_SECONDS: u64 = 365 * 24 * 3600;
const DEFAULT_COMMIT_DELAY_MS: u64 = 3;
/// With a longer delay, users would notice that their edits are not saved yet.
const MAX_COMMIT_DELAY_MS: u64 = 1_000;
/// Read from the working directory if it exists and `--config` is not given.
const DEFAULT_FILE: &str = "syncline.toml";
/// With less, no client could sync even an empty document.
const MIN_MESSAGE_BYTES: usize = 1024;

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people: plain text.
    #[default]
    Text,
    /// For log collectors: one JSON object per line.
    Json,
}

/// The settings as given; `None` if a setting is absent. The file uses the same names (`message_bytes = 1048576`).
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct RawConfig {
    /// Address and port to listen on [default: 127.0.0.1:1234]
    ///
    /// An IP address or localhost. `:8080` means 127.0.0.1:8080, reachable from this machine only; 0.0.0.0:8080
    /// listens on every network. There is no access control: anyone who can reach the address can read and write all
    /// documents.
    #[arg(long, env = "SYNCLINE_LISTEN", value_name = "ADDRESS:PORT", value_parser = address::parse)]
    #[serde(default, deserialize_with = "address::deserialize")]
    pub listen: Option<SocketAddr>,

    /// Address and port that serve /metrics for Prometheus; do not expose it to users [default: none]
    #[arg(long, env = "SYNCLINE_METRICS", value_name = "ADDRESS:PORT", value_parser = address::parse)]
    #[serde(default, deserialize_with = "address::deserialize")]
    pub metrics: Option<SocketAddr>,

    /// Directory that holds the documents; created if it does not exist [default: ./data]
    #[arg(long, env = "SYNCLINE_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// Format of log lines: text for people, json for log collectors [default: text]
    ///
    /// RUST_LOG selects which lines are written, for example RUST_LOG=debug.
    #[arg(long, env = "SYNCLINE_LOG_FORMAT", value_name = "FORMAT", hide_possible_values = true)]
    pub log_format: Option<LogFormat>,

    /// Seconds that a document stays in memory after its last client has left [default: 30]
    #[arg(long, env = "SYNCLINE_IDLE_UNLOAD_SECONDS", value_name = "SECONDS")]
    pub idle_unload_seconds: Option<u64>,

    /// Maximum size of a message from a client, in bytes [default: 68157440]
    #[arg(long, env = "SYNCLINE_MESSAGE_BYTES", value_name = "BYTES")]
    pub message_bytes: Option<usize>,

    /// Bytes queued for one slow reader before it is resynced instead [default: 1048576]
    #[arg(long, env = "SYNCLINE_OUTBOX_BYTES", value_name = "BYTES")]
    pub outbox_bytes: Option<usize>,

    /// Request header in which a proxy names the user, for limits per user
    ///
    /// The proxy must set or remove it in every request: a client that can set this header can impersonate any user.
    #[arg(long, env = "SYNCLINE_USER_HEADER", value_name = "NAME")]
    pub user_header: Option<String>,

    /// Origin of web pages, besides the server's own, that may connect; repeatable; `*`: any page [default: none]
    ///
    /// Written as a browser sends it: http://localhost:5173, capacitor://localhost, or null for a page opened
    /// from a file. Programs other than browsers send no origin and may always connect.
    #[arg(long, env = "SYNCLINE_ALLOW_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    pub allow_origin: Option<Vec<String>>,

    /// Path prefix that a proxy keeps in forwarded requests, such as /collab [default: none]
    ///
    /// It is removed from the path of every request that has it; other paths are used unchanged. Not needed if
    /// the proxy removes the prefix.
    #[arg(long, env = "SYNCLINE_PATH_PREFIX", value_name = "PATH")]
    pub path_prefix: Option<String>,

    /// Milliseconds between two commits to disk while many documents change; 0: as often as the disk can [default: 3]
    ///
    /// Acknowledgements may be delayed by up to this long; readers always get edits without delay. A longer
    /// delay takes less processor time. With only a few writers there is no delay.
    #[arg(long, env = "SYNCLINE_COMMIT_DELAY_MS", value_name = "MS")]
    pub commit_delay_ms: Option<u64>,

    /// Limits on clients; the table `[limits]` of the file.
    #[command(flatten)]
    #[serde(default)]
    pub limits: RawLimits,
}

/// The validated settings in force.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Address that serves `/metrics`; `None`: not served.
    pub metrics: Option<SocketAddr>,
    /// Directory that holds the documents.
    pub data: PathBuf,
    /// Format of log lines.
    pub log_format: LogFormat,
    /// How long a document without clients stays in memory.
    pub idle_unload: Duration,
    /// Delay between commits while many documents change.
    pub commit_delay: Duration,
    /// Limits of each session.
    pub session: SessionLimits,
    /// Request header in which a proxy names the user.
    pub user_header: Option<HeaderName>,
    /// Web pages that may connect.
    pub allow_origin: AllowedOrigins,
    /// Path prefix that a proxy keeps in forwarded requests.
    pub path_prefix: PathPrefix,
    /// Limits on clients.
    pub limits: Limits,
}

/// An invalid configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file does not exist or cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    Read {
        /// The configuration file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not TOML, has an unknown key, or a value of the wrong type.
    #[error("invalid configuration file {path}: {message}")]
    Parse {
        /// The configuration file.
        path: PathBuf,
        /// Position and reason.
        message: String,
    },
    /// A value in the file is out of range or malformed.
    #[error("{setting} in the configuration file {path}: {why}")]
    InFile {
        /// The setting's name in the file.
        setting: &'static str,
        /// The configuration file.
        path: PathBuf,
        /// The reason, and which values are valid.
        why: String,
    },
    /// A value of a flag or environment variable is out of range or malformed.
    #[error("--{}: {why}", setting.replace('_', "-"))]
    Invalid {
        /// The setting's name in the file.
        setting: &'static str,
        /// The reason, and which values are valid.
        why: String,
    },
}

impl RawConfig {
    /// Takes absent settings from the TOML file: `file` if given, else `syncline.toml` in the working directory
    /// if it exists.
    pub fn with_file(self, file: Option<&Path>) -> Result<Self, ConfigError> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => return Ok(self),
            Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        };
        let file = Self::parse(&text).map_err(|message| ConfigError::Parse { path: path.to_owned(), message })?;
        file.validate().map_err(|InvalidValue { setting, why }| ConfigError::InFile {
            setting,
            path: path.to_owned(),
            why,
        })?;
        Ok(RawConfig {
            listen: self.listen.or(file.listen),
            metrics: self.metrics.or(file.metrics),
            data: self.data.or(file.data),
            log_format: self.log_format.or(file.log_format),
            idle_unload_seconds: self.idle_unload_seconds.or(file.idle_unload_seconds),
            message_bytes: self.message_bytes.or(file.message_bytes),
            outbox_bytes: self.outbox_bytes.or(file.outbox_bytes),
            user_header: self.user_header.or(file.user_header),
            allow_origin: self.allow_origin.or(file.allow_origin),
            path_prefix: self.path_prefix.or(file.path_prefix),
            commit_delay_ms: self.commit_delay_ms.or(file.commit_delay_ms),
            limits: self.limits.or(file.limits),
        })
    }

    /// The log format set by the file that [`RawConfig::with_file`] reads, even if other settings in it are invalid.
    pub fn log_format_in(file: Option<&Path>) -> Option<LogFormat> {
        let text = std::fs::read_to_string(file.unwrap_or(Path::new(DEFAULT_FILE))).ok()?;
        let settings: toml::Table = toml::from_str(&text).ok()?;
        settings.get("log_format")?.clone().try_into().ok()
    }

    /// Parses the text of a file. The error names position, key and reason.
    pub fn parse(text: &str) -> Result<Self, String> {
        file::parse(text)
    }

    /// Validates all settings and fills in the defaults.
    pub fn check(self) -> Result<Config, ConfigError> {
        let Parsed { user_header, allow_origin, path_prefix } =
            self.validate().map_err(|InvalidValue { setting, why }| ConfigError::Invalid { setting, why })?;
        let listen = self.listen.unwrap_or(address::DEFAULT);
        if self.metrics.is_some_and(|metrics| metrics == listen && metrics.port() != 0) {
            let why = format!("{listen} is the address of --listen; choose another port for /metrics");
            return Err(ConfigError::Invalid { setting: "metrics", why });
        }
        let defaults = SessionLimits::default();
        let limits = Limits::from(self.limits);
        let session = SessionLimits {
            message_bytes: self.message_bytes.unwrap_or(defaults.message_bytes),
            outbox_bytes: self.outbox_bytes.unwrap_or(defaults.outbox_bytes),
            documents: limits.documents_per_connection,
            authentication: limits.authentication,
            ..defaults
        };
        Ok(Config {
            listen,
            metrics: self.metrics,
            data: self.data.unwrap_or_else(|| DEFAULT_DATA.into()),
            log_format: self.log_format.unwrap_or_default(),
            idle_unload: Duration::from_secs(self.idle_unload_seconds.unwrap_or(DEFAULT_IDLE_UNLOAD_SECONDS)),
            commit_delay: Duration::from_millis(self.commit_delay_ms.unwrap_or(DEFAULT_COMMIT_DELAY_MS)),
            session,
            user_header,
            allow_origin,
            path_prefix,
            limits,
        })
    }

    /// Validates the settings that are present, from one source or from all.
    fn validate(&self) -> Result<Parsed, InvalidValue> {
        let invalid = |setting, why: String| Err(InvalidValue { setting, why });
        if self.message_bytes.is_some_and(|bytes| bytes < MIN_MESSAGE_BYTES) {
            return invalid("message_bytes", format!("must be at least {MIN_MESSAGE_BYTES}"));
        }
        if self.outbox_bytes == Some(0) {
            return invalid("outbox_bytes", "must be at least 1".into());
        }
        if self.commit_delay_ms.is_some_and(|ms| ms > MAX_COMMIT_DELAY_MS) {
            return invalid("commit_delay_ms", format!("must be at most {MAX_COMMIT_DELAY_MS}"));
        }
        if self.idle_unload_seconds.is_some_and(|seconds| seconds > MAX_IDLE_UNLOAD_SECONDS) {
            return invalid("idle_unload_seconds", format!("must be at most {MAX_IDLE_UNLOAD_SECONDS}"));
        }
        if self.data.as_ref().is_some_and(|data| data.as_os_str().is_empty()) {
            return invalid("data", "must not be empty".into());
        }
        let user_header = match &self.user_header {
            Some(name) => match name.parse() {
                Ok(name) => Some(name),
                Err(_) => return invalid("user_header", format!("{name:?} is not a valid header name")),
            },
            None => None,
        };
        let path_prefix = match PathPrefix::parse(self.path_prefix.as_deref().unwrap_or_default()) {
            Ok(path_prefix) => path_prefix,
            Err(error) => return invalid("path_prefix", error.to_string()),
        };
        match AllowedOrigins::new(self.allow_origin.as_deref().unwrap_or_default()) {
            Ok(allow_origin) => Ok(Parsed { user_header, allow_origin, path_prefix }),
            Err(why) => invalid("allow_origin", why),
        }
    }
}

/// Settings that validation has parsed from text.
struct Parsed {
    user_header: Option<HeaderName>,
    allow_origin: AllowedOrigins,
    path_prefix: PathPrefix,
}

/// A value that is out of range or malformed.
struct InvalidValue {
    setting: &'static str,
    why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("syncline.toml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn flag_overrides_file_and_file_overrides_default() {
        let (_dir, path) = file("listen = \"127.0.0.1:1\"\nmessage_bytes = 2048\nlog_format = \"json\"\n");
        let flags = RawConfig { listen: Some("127.0.0.1:2".parse().unwrap()), ..RawConfig::default() };
        let config = flags.with_file(Some(&path)).unwrap().check().unwrap();
        assert_eq!(config.listen.port(), 2);
        assert_eq!(config.session.message_bytes, 2048);
        assert_eq!(config.log_format, LogFormat::Json);
        assert_eq!(config.data, Path::new("data"));
    }

    #[test]
    fn unknown_key_is_named_in_the_error() {
        let (_dir, path) = file("lisen = \"127.0.0.1:1\"\n");
        let error = RawConfig::default().with_file(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("lisen"), "{error}");
    }

    #[test]
    fn missing_file_is_an_error_when_named() {
        let error = RawConfig::default().with_file(Some(Path::new("/nonexistent/syncline.toml"))).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/syncline.toml"));
    }

    #[test]
    fn limits_are_read_from_their_table_and_0_means_unlimited() {
        let (_dir, path) = file("[limits]\nmax_connections = 7\nmax_unfinished = 0\n");
        let flags =
            RawLimits { messages_per_second: Some(5), max_connections_per_address: Some(3), ..RawLimits::default() };
        let raw = RawConfig { limits: flags, ..RawConfig::default() };
        let limits = raw.with_file(Some(&path)).unwrap().check().unwrap().limits;
        assert_eq!((limits.connections, limits.connections_per_address, limits.unfinished), (7, 3, usize::MAX));
        assert_eq!((limits.rate.messages, limits.rate_per_address.messages), (5, 0));
        let (_dir, path) = file("[limits]\nmax_connection = 7\n");
        assert!(RawConfig::default().with_file(Some(&path)).is_err_and(|e| e.to_string().contains("max_connection")));
    }

    #[test]
    fn value_out_of_range_is_rejected() {
        assert!(RawConfig { message_bytes: Some(10), ..RawConfig::default() }.check().is_err());
        assert!(RawConfig { outbox_bytes: Some(0), ..RawConfig::default() }.check().is_err());
        assert!(RawConfig { user_header: Some("X User".into()), ..RawConfig::default() }.check().is_err());
        assert!(RawConfig { path_prefix: Some("/my docs".into()), ..RawConfig::default() }.check().is_err());
        assert!(RawConfig { commit_delay_ms: Some(1_001), ..RawConfig::default() }.check().is_err());
    }

    #[test]
    fn error_names_the_setting_and_its_source() {
        let (_dir, path) = file("message_bytes = 10\n");
        let error = RawConfig::default().with_file(Some(&path)).unwrap_err().to_string();
        assert!(error.starts_with("message_bytes in the configuration file") && error.contains("1024"), "{error}");
        let error = RawConfig { message_bytes: Some(10), ..RawConfig::default() }.check().unwrap_err().to_string();
        assert_eq!(error, "--message-bytes: must be at least 1024");
        let (_dir, path) = file("listen = \"nowhere\"\n");
        let error = RawConfig::default().with_file(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("listen") && error.contains("nowhere") && error.contains("127.0.0.1:1234"), "{error}");
    }

    #[test]
    fn listen_and_allow_origin_are_read_from_the_file() {
        let (_dir, path) = file("listen = \":8080\"\nallow_origin = [\"http://localhost:5173\"]\n");
        let config = RawConfig::default().with_file(Some(&path)).unwrap().check().unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.allow_origin, AllowedOrigins::new(&["http://localhost:5173".to_owned()]).unwrap());
    }
}
