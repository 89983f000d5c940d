//! Configuration in two stages: what flags, environment and file say ([`RawConfig`]), then one checked [`Config`].
//!
//! Precedence: flag, then `SYNCLINE_*` environment variable, then the TOML file, then the default. No globals; each
//! part of the server is handed the part it needs.

mod address;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use hyper::header::HeaderName;
use serde::Deserialize;

use crate::http::origin::AllowedOrigins;
use crate::http::prefix::PathPrefix;
use crate::limits::{Limits, RawLimits};
use crate::session::SessionLimits;

/// Used when nothing names a data directory.
pub const DEFAULT_DATA: &str = "data";
const DEFAULT_IDLE_UNLOAD_SECONDS: u64 = 30;
/// A year. Much longer, and the clock has no such time.
const MAX_IDLE_UNLOAD_SECONDS: u64 = 365 * 24 * 3600;
const DEFAULT_COMMIT_DELAY_MS: u64 = 3;
/// Longer, and people see that their edits are not yet saved.
const MAX_COMMIT_DELAY_MS: u64 = 1_000;
/// Read from the working directory when no `--config` is given and it exists.
const DEFAULT_FILE: &str = "syncline.toml";
/// Below this no client could even sync an empty document.
const MIN_MESSAGE_BYTES: usize = 1024;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// The settings as given; every field may be absent. The same names stand in the file (`message_bytes = 1048576`).
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct RawConfig {
    /// Address and port to listen on [default: 127.0.0.1:1234]
    ///
    /// An IP address or localhost. `:8080` is 127.0.0.1:8080, this machine only; 0.0.0.0:8080 is every network.
    #[arg(long, env = "SYNCLINE_LISTEN", value_name = "ADDRESS:PORT", value_parser = address::parse)]
    #[serde(default, deserialize_with = "address::deserialize")]
    pub listen: Option<SocketAddr>,

    /// Address and port on which Prometheus finds /metrics, for operators only [default: none]
    #[arg(long, env = "SYNCLINE_METRICS", value_name = "ADDRESS:PORT", value_parser = address::parse)]
    #[serde(default, deserialize_with = "address::deserialize")]
    pub metrics: Option<SocketAddr>,

    /// Directory that holds the documents; made if it does not exist [default: ./data]
    #[arg(long, env = "SYNCLINE_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// How log lines look: text for people, json for collectors [default: text]
    ///
    /// Which lines are written is set by RUST_LOG, for example RUST_LOG=debug.
    #[arg(long, env = "SYNCLINE_LOG_FORMAT", value_name = "FORMAT", hide_possible_values = true)]
    pub log_format: Option<LogFormat>,

    /// Seconds a document stays in memory after its last reader left [default: 30]
    #[arg(long, env = "SYNCLINE_IDLE_UNLOAD_SECONDS", value_name = "SECONDS")]
    pub idle_unload_seconds: Option<u64>,

    /// Largest message a client may send, in bytes [default: 68157440]
    #[arg(long, env = "SYNCLINE_MESSAGE_BYTES", value_name = "BYTES")]
    pub message_bytes: Option<usize>,

    /// Bytes that may wait for one slow reader before it is resynced instead [default: 1048576]
    #[arg(long, env = "SYNCLINE_OUTBOX_BYTES", value_name = "BYTES")]
    pub outbox_bytes: Option<usize>,

    /// Request header in which a proxy before this server says who the user is, for the limits of each user
    ///
    /// The proxy must set it, or take it away, in every request: whoever can send it can be anybody.
    #[arg(long, env = "SYNCLINE_USER_HEADER", value_name = "NAME")]
    pub user_header: Option<String>,

    /// Origin of web pages, other than the server's own, that may connect; repeatable; `*`: any page [default: none]
    ///
    /// As a browser sends it: http://localhost:5173, capacitor://localhost, or null for a page from a file. Programs that are
    /// not browsers send no origin and always may.
    #[arg(long, env = "SYNCLINE_ALLOW_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    pub allow_origin: Option<Vec<String>>,

    /// Path under which a proxy serves this server and which it passes on, such as /collab [default: none]
    ///
    /// It is removed from the path of every request that has it; other paths are taken as they are. A proxy that removes
    /// the path itself needs no such setting.
    #[arg(long, env = "SYNCLINE_PATH_PREFIX", value_name = "PATH")]
    pub path_prefix: Option<String>,

    /// Milliseconds between two commits to disk while many documents change; 0: as often as the disk can [default: 3]
    ///
    /// Readers get edits at once in any case; the word that an edit is saved may come so much later. Longer takes less
    /// processor time. A few writers never wait.
    #[arg(long, env = "SYNCLINE_COMMIT_DELAY_MS", value_name = "MS")]
    pub commit_delay_ms: Option<u64>,

    /// What clients may take; the table `[limits]` of the file.
    #[command(flatten)]
    #[serde(default)]
    pub limits: RawLimits,
}

/// The settings in force.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where `/metrics` is to be had; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Where the documents lie.
    pub data: PathBuf,
    /// How log lines look.
    pub log_format: LogFormat,
    /// How long an unused document stays in memory.
    pub idle_unload: Duration,
    /// How far apart commits begin while many documents change.
    pub commit_delay: Duration,
    /// Limits of each session.
    pub session: SessionLimits,
    /// Where a proxy says who the user is.
    pub user_header: Option<HeaderName>,
    /// Pages that may connect.
    pub allow_origin: AllowedOrigins,
    /// The path that a proxy keeps in front of everything.
    pub path_prefix: PathPrefix,
    /// What clients may take together.
    pub limits: Limits,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or not readable.
    #[error("cannot read the configuration file {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML or holds a setting that does not exist.
    #[error("the configuration file {path} is not right: {message}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
    /// A value of the file cannot be used.
    #[error("{setting} in the configuration file {path}: {why}")]
    InFile {
        /// The setting's name in the file.
        setting: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not, and what could.
        why: String,
    },
    /// A value of a flag or of the environment cannot be used.
    #[error("--{}: {why}", setting.replace('_', "-"))]
    Invalid {
        /// The setting's name in a file.
        setting: &'static str,
        /// Why not, and what could.
        why: String,
    },
}

impl RawConfig {
    /// Fills what is absent from the TOML file: `file` if given, else `syncline.toml` here if there is one.
    pub fn with_file(self, file: Option<&Path>) -> Result<Self, ConfigError> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => return Ok(self),
            Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        };
        let file = Self::parse(&text).map_err(|message| ConfigError::Parse { path: path.to_owned(), message })?;
        file.validate().map_err(|Fault { setting, why }| ConfigError::InFile {
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

    /// The log format that a file sets, also when other settings in it are wrong. See [`RawConfig::with_file`].
    pub fn log_format_in(file: Option<&Path>) -> Option<LogFormat> {
        let text = std::fs::read_to_string(file.unwrap_or(Path::new(DEFAULT_FILE))).ok()?;
        let settings: toml::Table = toml::from_str(&text).ok()?;
        settings.get("log_format")?.clone().try_into().ok()
    }

    /// Reads the text of a file. The error says what is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// Checks everything once.
    pub fn check(self) -> Result<Config, ConfigError> {
        let Valid { user_header, allow_origin, path_prefix } =
            self.validate().map_err(|Fault { setting, why }| ConfigError::Invalid { setting, why })?;
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

    /// Checks the values that are given, from one source or from all.
    fn validate(&self) -> Result<Valid, Fault> {
        let fault = |setting, why: String| Err(Fault { setting, why });
        if self.message_bytes.is_some_and(|bytes| bytes < MIN_MESSAGE_BYTES) {
            return fault("message_bytes", format!("must be at least {MIN_MESSAGE_BYTES}"));
        }
        if self.outbox_bytes == Some(0) {
            return fault("outbox_bytes", "must be at least 1".into());
        }
        if self.commit_delay_ms.is_some_and(|ms| ms > MAX_COMMIT_DELAY_MS) {
            return fault("commit_delay_ms", format!("must be at most {MAX_COMMIT_DELAY_MS}"));
        }
        if self.idle_unload_seconds.is_some_and(|seconds| seconds > MAX_IDLE_UNLOAD_SECONDS) {
            return fault("idle_unload_seconds", format!("must be at most {MAX_IDLE_UNLOAD_SECONDS}"));
        }
        if self.data.as_ref().is_some_and(|data| data.as_os_str().is_empty()) {
            return fault("data", "must not be empty".into());
        }
        let user_header = match &self.user_header {
            Some(name) => match name.parse() {
                Ok(name) => Some(name),
                Err(_) => return fault("user_header", format!("{name:?} is not the name of a header")),
            },
            None => None,
        };
        let path_prefix = match PathPrefix::parse(self.path_prefix.as_deref().unwrap_or_default()) {
            Ok(path_prefix) => path_prefix,
            Err(error) => return fault("path_prefix", error.to_string()),
        };
        match AllowedOrigins::new(self.allow_origin.as_deref().unwrap_or_default()) {
            Ok(allow_origin) => Ok(Valid { user_header, allow_origin, path_prefix }),
            Err(why) => fault("allow_origin", why),
        }
    }
}

/// What checking makes of texts.
struct Valid {
    user_header: Option<HeaderName>,
    allow_origin: AllowedOrigins,
    path_prefix: PathPrefix,
}

/// A value that cannot be used.
struct Fault {
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
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let (_dir, path) = file("listen = \"127.0.0.1:1\"\nmessage_bytes = 2048\nlog_format = \"json\"\n");
        let flags = RawConfig { listen: Some("127.0.0.1:2".parse().unwrap()), ..RawConfig::default() };
        let config = flags.with_file(Some(&path)).unwrap().check().unwrap();
        assert_eq!(config.listen.port(), 2);
        assert_eq!(config.session.message_bytes, 2048);
        assert_eq!(config.log_format, LogFormat::Json);
        assert_eq!(config.data, Path::new("data"));
    }

    #[test]
    fn a_setting_that_does_not_exist_is_named() {
        let (_dir, path) = file("lisen = \"127.0.0.1:1\"\n");
        let error = RawConfig::default().with_file(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("lisen"), "{error}");
    }

    #[test]
    fn a_missing_file_that_was_asked_for_is_an_error() {
        let error = RawConfig::default().with_file(Some(Path::new("/nonexistent/syncline.toml"))).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/syncline.toml"));
    }

    #[test]
    fn limits_are_a_table_of_the_file_and_0_is_none() {
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
    fn values_out_of_range_are_refused() {
        assert!(RawConfig { message_bytes: Some(10), ..RawConfig::default() }.check().is_err());
        assert!(RawConfig { outbox_bytes: Some(0), ..RawConfig::default() }.check().is_err());
        assert!(RawConfig { user_header: Some("X User".into()), ..RawConfig::default() }.check().is_err());
        assert!(RawConfig { path_prefix: Some("/my docs".into()), ..RawConfig::default() }.check().is_err());
        assert!(RawConfig { commit_delay_ms: Some(1_001), ..RawConfig::default() }.check().is_err());
    }

    #[test]
    fn error_names_the_setting_and_where_it_stands() {
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
