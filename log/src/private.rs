//! Files and directories that only their owner may read, because they contain users' documents.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// The permission bits of the group and of others.
const OTHERS: u32 = 0o077;

/// Creates or truncates a file, with mode 0600.
pub(super) fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // An existing file keeps its mode on open.
    restrict(path)?;
    Ok(file)
}

/// Creates a directory and its missing parents, with mode 0700. Existing directories keep their mode.
pub(super) fn create_dirs(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Removes the permissions of the group and of others from a file or directory.
pub(super) fn restrict(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & OTHERS == 0 { Ok(()) } else { fs::set_permissions(path, Permissions::from_mode(mode & !OTHERS)) }
}

/// [`restrict`]s the entries of `dir` whose names `is_ours` accepts, which earlier versions created with wider modes.
/// Errors are ignored: a missing directory, or files of another user.
pub(super) fn restrict_entries(dir: &Path, is_ours: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(&is_ours) {
            // The mode of another user's file cannot be changed.
            restrict(&entry.path()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_and_existing_files_become_private_and_strict_modes_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
        create_dirs(&dir.path().join("a/b")).unwrap();
        assert_eq!((mode("a"), mode("a/b")), (0o700, 0o700));
        for (name, before, after) in [("old", 0o644, 0o600), ("strict", 0o400, 0o400), ("other", 0o644, 0o644)] {
            fs::write(dir.path().join(name), "x").unwrap();
            fs::set_permissions(dir.path().join(name), Permissions::from_mode(before)).unwrap();
            restrict_entries(dir.path(), |name| name != "other");
            assert_eq!(mode(name), after, "{name}");
        }
        drop((create(&dir.path().join("new")).unwrap(), create(&dir.path().join("other")).unwrap()));
        assert_eq!((mode("new"), mode("other")), (0o600, 0o600));
    }
}
