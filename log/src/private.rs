//! Files and directories that only their owner may read: they hold people's documents.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// What the owner's group and others may do.
const OTHERS: u32 = 0o077;

/// Creates a file, or empties it, with mode 0600.
pub(super) fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // One that was there keeps its mode.
    restrict(path)?;
    Ok(file)
}

/// Creates a directory and what is missing above it, with mode 0700. One that exists keeps its mode.
pub(super) fn create_dirs(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Takes the rights of group and others from a file or directory.
pub(super) fn restrict(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & OTHERS == 0 { Ok(()) } else { fs::set_permissions(path, Permissions::from_mode(mode & !OTHERS)) }
}

/// [`restrict`]s what earlier versions created in `dir` under names that `is_ours` knows. Without a store or a backup to
/// protect, and of files of another owner, nothing is changed.
pub(super) fn restrict_entries(dir: &Path, is_ours: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(&is_ours) {
            // Another user's file stays as that user has set it.
            restrict(&entry.path()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_files_are_private_and_old_ones_become_so_but_are_never_opened_up() {
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
