//! `syncline backup`: writes all documents to a directory of plain files, whether the server is running or stopped.

use std::io::{IsTerminal, Write, stderr};
use std::path::{Path, PathBuf, absolute};

use anyhow::{Context, bail};
use syncline_log::backup::{self, Backup, Cancel, Pace};

use super::target::Target;
use super::{StoreArgs, counted};
use crate::http::operator::backups::BackupSummary;

/// `syncline backup`.
#[derive(Debug, clap::Args)]
pub struct BackupArgs {
    /// Directory of the backup. If it holds an earlier backup of the same store, only changed documents are written
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// The store.
    #[command(flatten)]
    pub store: StoreArgs,

    /// Verify the backup in DIR instead of taking one: read it and check every byte
    #[arg(long)]
    pub verify: bool,
}

/// Takes or verifies a backup.
///
/// Errors: the store cannot be reached or opened, the directory cannot be used, or something in the store or
/// the backup is damaged (each damaged document or file is printed).
pub fn backup(args: &BackupArgs, out: &mut impl Write) -> anyhow::Result<()> {
    if args.verify {
        return verify(&args.dir, out);
    }
    // The server's working directory may be another one.
    let dir = absolute(&args.dir)?;
    let target = Target::existing(&args.store.data_dir()?, out)?;
    let summary = match target {
        Target::Running(server) => server.back_up(&dir, show)?,
        Target::Stopped(store) => {
            let taken = backup::take(&*store, &dir, Pace::Full, &Cancel::default(), &mut show)?;
            Target::Stopped(store).close()?;
            taken.into()
        }
    };
    let BackupSummary { documents, written, bytes, damaged } = summary;
    if stderr().is_terminal() {
        eprintln!();
    }
    writeln!(
        out,
        "backed up {} to {}: {written} had changed, {bytes} bytes written",
        counted(documents, "document"),
        dir.display()
    )?;
    for (document, why) in &damaged {
        writeln!(out, "damaged: {document:?}: {why}")?;
    }
    if !damaged.is_empty() {
        bail!(
            "{} damaged in the store and listed above; the backup keeps versions from earlier backups, if any",
            counted(damaged.len(), "document")
        );
    }
    Ok(())
}

/// Shows the progress on one line, if standard error is a terminal.
fn show(backup::Progress { done, documents, bytes }: backup::Progress) {
    if stderr().is_terminal() {
        eprint!("\r{done} of {documents} documents, {bytes} bytes written ");
    }
}

fn verify(dir: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let backup = Backup::open(dir)?;
    let errors = backup.verify();
    for error in &errors {
        writeln!(out, "{error}")?;
    }
    for (document, entry) in backup.documents() {
        if let Some(why) = &entry.damaged {
            let kept = if entry.place.is_some() { "an earlier version is in the backup" } else { "not in the backup" };
            writeln!(out, "damaged in the store when the backup was taken: {document:?}: {why}; {kept}")?;
        }
    }
    if !errors.is_empty() {
        bail!("{} cannot be restored, of {}", counted(errors.len(), "document"), backup.documents().len());
    }
    writeln!(out, "{} verified", counted(backup.documents().len(), "document"))
        .context("cannot write to standard output")
}
