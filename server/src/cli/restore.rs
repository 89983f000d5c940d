//! `syncline restore`: a backup into an empty data directory, or one document of it into an empty one or a stopped store.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use syncline_log::backup::{self, Backup, Restored};
use syncline_log::{SledStore, Store};
use syncline_protocol::ids::DocumentName;

use super::offline;
use super::store_args::{StoreArgs, announce};

/// `syncline restore`.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// Where the backup lies
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// Where to: a directory that is empty or does not exist; with --document also that of a stopped server
    #[command(flatten)]
    pub store: StoreArgs,

    /// Restore this document alone
    #[arg(long, value_name = "DOCUMENT")]
    pub document: Option<String>,

    /// Under this name instead of its own
    #[arg(long = "as", value_name = "NAME", requires = "document")]
    pub target: Option<String>,

    /// Put it in the place of the document that is there
    #[arg(long, requires = "document")]
    pub replace: bool,
}

/// Restores a backup, or one document of it. What is restored has a new history: devices that have the old one notice.
///
/// Errors: nothing of the backup can be read, the directory is not empty, or the store is in use or fails; or some documents
/// are damaged: these are printed by name and the others are restored.
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
    writeln!(out, "restored {documents} documents, {deleted} of them deleted ones")?;
    for (document, why) in &damaged {
        writeln!(out, "was damaged when the backup was taken: {document:?}: {why}")?;
    }
    for (_, error) in &unreadable {
        writeln!(out, "not restored: {error}")?;
    }
    let mut wrong = Vec::new();
    if !unreadable.is_empty() {
        wrong.push(format!("{} documents are damaged in the backup and were not restored", unreadable.len()));
    }
    if !damaged.is_empty() {
        wrong.push(format!("{} documents are missing, or older than the backup", damaged.len()));
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{}; they are named above", wrong.join(", ")) }
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
        // What cannot be restored leaves no empty store behind.
        if backup.read(&document)?.is_none() {
            bail!("document {document:?} was damaged when the backup was taken, and no earlier one has it");
        }
        backup::make_empty(data)?;
        announce(data, ", new", out)?;
        SledStore::open(data)?
    } else {
        offline(data, out)?
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
