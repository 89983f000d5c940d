//! `syncline restore`: restores a backup into an empty data directory, or one document of it into an empty
//! directory or the store of a stopped server.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use syncline_log::backup::{self, Backup, Restored};
use syncline_log::{SledStore, Store};
use syncline_protocol::ids::DocumentName;

use super::store_args::{StoreArgs, announce};
use super::{counted, open_offline};

/// `syncline restore`.
#[derive(Debug, clap::Args)]
#[command(mut_arg("data", |arg| arg.help("Directory to restore into; must be given, here or as `data` in the file")))]
pub struct RestoreArgs {
    /// Directory of the backup
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// The target: a directory that is empty or does not exist; with --document also the store of a stopped server. It
    /// has no default: a restore into ./data by mistake would hide it.
    #[command(flatten)]
    pub store: StoreArgs,

    /// Restore only this document
    #[arg(long, value_name = "DOCUMENT")]
    pub document: Option<String>,

    /// Restore the document under this name instead of its own
    #[arg(long = "as", value_name = "NAME", requires = "document")]
    pub target: Option<String>,

    /// Replace the document if it exists
    #[arg(long, requires = "document")]
    pub replace: bool,
}

/// Restores a backup, or one document of it. Restored documents have a new epoch, so clients with the old one notice.
///
/// Errors: the backup cannot be read at all, the directory is not empty, or the store is in use or fails. If
/// only some documents are damaged, they are printed, the others are restored, and an error is returned.
pub fn restore(args: &RestoreArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let backup = Backup::open(&args.dir)?;
    let data = args.store.named_data_dir()?;
    match &args.document {
        Some(document) => restore_one(args, &backup, document, &data, out),
        None => restore_all(&backup, &data, out),
    }
}

fn restore_all(backup: &Backup, data: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let Restored { documents, deleted, damaged, unreadable } = backup::restore_all(backup, data)?;
    announce(data, "", out)?;
    writeln!(out, "restored {}, {deleted} of them deleted", counted(documents, "document"))?;
    for (document, why) in &damaged {
        writeln!(out, "damaged in the store when the backup was taken: {document:?}: {why}")?;
    }
    for (_, error) in &unreadable {
        writeln!(out, "not restored: {error}")?;
    }
    let mut problems = Vec::new();
    if !unreadable.is_empty() {
        problems.push(format!("{} damaged in the backup and not restored", counted(unreadable.len(), "document")));
    }
    if !damaged.is_empty() {
        problems.push(format!(
            "{} damaged when the backup was taken, and missing or older",
            counted(damaged.len(), "document")
        ));
    }
    if problems.is_empty() { Ok(()) } else { bail!("{}; they are listed above", problems.join(", ")) }
}

fn restore_one(
    args: &RestoreArgs,
    backup: &Backup,
    document: &str,
    data: &Path,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let target = DocumentName::parse(args.target.as_deref().unwrap_or(document))?;
    let document = backup.find(document)?;
    let store = if is_vacant(data) {
        // Checked first: a failed restore must not leave an empty store behind.
        if backup.read(&document)?.is_none() {
            bail!("document {document:?} was damaged when the backup was taken, and no earlier backup has it");
        }
        backup::make_empty(data)?;
        announce(data, " (new)", out)?;
        SledStore::open(data)?
    } else {
        open_offline(data, out)?
    };
    backup::restore_document(backup, &document, &store, &target, args.replace)?;
    writeln!(out, "restored {document:?} as {target:?}")?;
    store.close().context("the store did not close cleanly")
}

/// True for a directory that is empty or does not exist.
fn is_vacant(dir: &Path) -> bool {
    match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use crate::cli::Cli;

    #[test]
    fn help_of_restore_names_no_default_for_data() {
        let mut cli = Cli::command();
        let help_of =
            |cli: &mut clap::Command, command| cli.find_subcommand_mut(command).unwrap().render_long_help().to_string();
        assert!(help_of(&mut cli, "export").contains("else ./data"));
        let help = help_of(&mut cli, "restore");
        assert!(help.contains("must be given") && !help.contains("./data"), "{help}");
    }
}
