//! `syncline restore`: a backup into an empty data directory, or one document of it into a store that is stopped.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};
use syncline_log::Store;
use syncline_log::backup::{self, Backup, Restored};
use syncline_protocol::ids::DocumentName;

use super::offline;

/// `syncline restore`.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// Where the backup lies
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// Directory to restore into: empty or not there yet; with --document, that of a stopped server
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,

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

/// Restores a backup. What is restored has a new history: devices that have the old one are told so.
///
/// Errors: the backup is damaged (the document is named, nothing is restored), the directory is not empty, or the store
/// is in use or fails.
pub fn restore(args: &RestoreArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let backup = Backup::open(&args.dir)?;
    let Some(document) = &args.document else {
        let Restored { documents, deleted, damaged } = backup::restore_all(&backup, &args.data)?;
        writeln!(out, "restored {documents} documents into {}, {deleted} of them deleted ones", args.data.display())?;
        for (document, why) in &damaged {
            writeln!(out, "was damaged when the backup was taken: {document}: {why}")?;
        }
        if !damaged.is_empty() {
            bail!("{} documents are missing, or older than the backup", damaged.len());
        }
        return Ok(());
    };
    let target = DocumentName::parse(args.target.as_deref().unwrap_or(document))?;
    let document = backup.find(document)?;
    let store = offline(&args.data)?;
    backup::restore_document(&backup, &document, &store, &target, args.replace)?;
    writeln!(out, "restored {document} as {target} into {}", args.data.display())?;
    store.close().context("the store did not close cleanly")
}
