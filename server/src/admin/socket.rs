//! `DATA/admin.sock`: a Unix socket that only its owner can connect to, from the moment it exists.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};
use tracing::warn;

/// The socket's name in the data directory.
pub const SOCKET_FILE: &str = "admin.sock";
/// Directory in which the socket is created before its mode is set.
const MAKING_DIR: &str = "admin.new";

/// The bound socket. Dropping it removes the file.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    /// User id of the socket's owner; only this user and root may connect.
    owner: u32,
    path: PathBuf,
}

impl AdminSocket {
    /// Creates the socket in a data directory whose store this process has open, so an existing socket is stale.
    ///
    /// The socket is created in a directory of mode 0700 and moved once its own mode is set: it is never
    /// accessible to others.
    ///
    /// Errors: I/O errors. [`io::ErrorKind::InvalidInput`]: the path is too long for a socket (over 107 bytes on Linux).
    pub fn bind(data_dir: &Path) -> io::Result<Self> {
        let (making, path) = (data_dir.join(MAKING_DIR), data_dir.join(SOCKET_FILE));
        ignore_missing(fs::remove_dir_all(&making))?;
        DirBuilder::new().mode(0o700).create(&making)?;
        let made = making.join(SOCKET_FILE);
        let bound = UnixListener::bind(&made).and_then(|listener| {
            fs::set_permissions(&made, Permissions::from_mode(0o600))?;
            let owner = fs::metadata(&made)?.uid();
            ignore_missing(fs::remove_file(&path))?;
            fs::rename(&made, &path)?;
            Ok(Self { listener, owner, path: path.clone() })
        });
        ignore_missing(fs::remove_dir_all(&making))?;
        bound.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => io::Error::new(error.kind(), too_long(&made)),
            _ => error,
        })
    }

    /// The next connection of the socket's owner or of root. The socket's mode already excludes others; a second check
    /// is free.
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            if stream.peer_cred().is_ok_and(|peer| peer.uid() == self.owner || peer.uid() == 0) {
                return Ok(stream);
            }
            warn!("refused a connection of another user to the admin socket");
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // A socket that stays behind does no harm: connecting fails, and the next start replaces it.
        fs::remove_file(&self.path).ok();
    }
}

fn too_long(path: &Path) -> String {
    let bytes = path.as_os_str().len();
    format!(
        "{} has {bytes} bytes, more than a system allows for a socket; choose a data directory with a shorter path",
        path.display()
    )
}

/// Treats a missing file as removed.
fn ignore_missing(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn socket_has_mode_0600_replaces_a_stale_one_and_is_removed_on_drop() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(SOCKET_FILE), "stale").unwrap();
        fs::create_dir(dir.path().join(MAKING_DIR)).unwrap();
        let socket = AdminSocket::bind(dir.path()).unwrap();
        let mode = fs::metadata(dir.path().join(SOCKET_FILE)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!dir.path().join(MAKING_DIR).exists());
        tokio::net::UnixStream::connect(dir.path().join(SOCKET_FILE)).await.unwrap();
        drop(socket);
        assert!(!dir.path().join(SOCKET_FILE).exists());
        let long = dir.path().join("x".repeat(120));
        fs::create_dir(&long).unwrap();
        let error = AdminSocket::bind(&long).unwrap_err().to_string();
        assert!(error.contains("more than a system allows for a socket"), "{error}");
    }
}
