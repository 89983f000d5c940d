//! Selects the store that a command works on, as `serve` does: by flag, environment, file or default.

use std::io::Write;
use std::path::{Path, PathBuf, absolute};

use anyhow::bail;

use crate::config::{ConfigError, DEFAULT_DATA, RawConfig};

/// The two settings that select a store.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct StoreArgs {
    /// TOML file with the server's settings [default: ./syncline.toml if it exists]
    #[arg(long, env = "SYNCLINE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Directory that holds the documents [default: `data` in the file, else ./data]
    #[arg(long, env = "SYNCLINE_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
}

impl StoreArgs {
    /// The arguments `--data DIR`.
    pub fn at(data: &Path) -> Self {
        Self { config: None, data: Some(data.to_owned()) }
    }

    /// The data directory that `serve` would use.
    ///
    /// Errors: the file cannot be read or has an invalid setting.
    pub fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        Ok(self.configured()?.unwrap_or_else(|| DEFAULT_DATA.into()))
    }

    /// The data directory for a command that writes a new store: it must be named explicitly.
    ///
    /// Errors: as [`StoreArgs::data_dir`], or no setting names a directory.
    pub fn named_data_dir(&self) -> anyhow::Result<PathBuf> {
        match self.configured()? {
            Some(data) => Ok(data),
            None => {
                bail!("no data directory given: name it with --data DIR, SYNCLINE_DATA, or `data` in syncline.toml")
            }
        }
    }

    fn configured(&self) -> Result<Option<PathBuf>, ConfigError> {
        let given = RawConfig { data: self.data.clone(), ..RawConfig::default() };
        Ok(given.with_file(self.config.as_deref())?.data)
    }
}

/// Prints which store a command uses. `note` is appended, such as ` (new)`; it may be empty.
pub(super) fn announce(data_dir: &Path, note: &str, out: &mut impl Write) -> std::io::Result<()> {
    let path = absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    writeln!(out, "store: {}{note}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_overrides_file_and_file_overrides_default() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("server.toml");
        std::fs::write(&config, "data = \"/srv/notes\"\nlisten = \":8080\"\n").unwrap();
        let of_file = StoreArgs { config: Some(config.clone()), data: None };
        assert_eq!(of_file.data_dir().unwrap(), Path::new("/srv/notes"));
        assert_eq!(of_file.named_data_dir().unwrap(), Path::new("/srv/notes"));
        let flag = StoreArgs { config: Some(config), data: Some("here".into()) };
        assert_eq!(flag.data_dir().unwrap(), Path::new("here"));
        assert_eq!(StoreArgs::default().data_dir().unwrap(), Path::new("data"));
        assert!(StoreArgs::default().named_data_dir().unwrap_err().to_string().contains("--data DIR"));
        let missing = StoreArgs { config: Some(dir.path().join("none.toml")), data: Some("here".into()) };
        assert!(missing.data_dir().unwrap_err().to_string().contains("none.toml"));
    }
}
