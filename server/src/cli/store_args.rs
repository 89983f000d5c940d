//! Selects the store that a command works on, as `serve` does: by flag, environment, file or default.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf, absolute};

use anyhow::bail;

use crate::config::{ConfigError, DEFAULT_DATA, RawConfig};
use syncline_log::STORE_FILE;

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

/// Fails if the store belongs to another user. Even a command that only reads leaves files of its own in the directory,
/// and a server that runs as the store's owner could not open those.
pub(super) fn check_owner(data_dir: &Path) -> anyhow::Result<()> {
    let user = rustix::process::geteuid().as_raw();
    // Without a store there is nothing to protect, and the command finds out.
    let Ok(metadata) = std::fs::metadata(data_dir.join(STORE_FILE)) else { return Ok(()) };
    let owner = metadata.uid();
    if owner != user {
        bail!(
            "the store in {} belongs to user {owner}, and this is user {user}: run the command as its owner, for example \
             `sudo -u '#{owner}' syncline ...`. Otherwise its server could not open the files that the command leaves",
            data_dir.display()
        );
    }
    Ok(())
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
    fn store_of_another_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        check_owner(dir.path()).unwrap();
        let file = dir.path().join(STORE_FILE);
        std::fs::write(&file, "").unwrap();
        check_owner(dir.path()).unwrap();
        // Only root may do this.
        if std::os::unix::fs::chown(&file, Some(65_534), None).is_ok() {
            let error = check_owner(dir.path()).unwrap_err().to_string();
            assert!(error.contains("belongs to user 65534") && error.contains("sudo -u '#65534'"), "{error}");
        }
    }

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
