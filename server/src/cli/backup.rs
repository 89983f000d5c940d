//! `syncline backup`: all documents into a directory of plain files, with the server running or not.

use std::io::{IsTerminal, Write, stderr};
use std::path::{Path, PathBuf, absolute};

use anyhow::{Context, bail};
use syncline_log::backup::{self, Backup, Cancel, Pace};

use super::StoreArgs;
use super::target::Target;
use crate::admin::message::{Answer, Request};

/// `syncline backup`.
#[derive(Debug, clap::Args)]
pub struct BackupArgs {
    /// Where the backup lies. With an earlier one of the same store in it, what has changed since is added
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// Which store
    #[command(flatten)]
    pub store: StoreArgs,

    /// Take none: read the backup in DIR and check every byte
    #[arg(long)]
    pub verify: bool,
}

/// Takes or verifies a backup.
///
/// Errors: the store cannot be reached or opened, the directory cannot be used, or something in the store or the backup
/// is damaged (all of it is named).
pub fn backup(args: &BackupArgs, out: &mut impl Write) -> anyhow::Result<()> {
    if args.verify {
        return verify(&args.dir, out);
    }
    // The server may run in another directory.
    let dir = absolute(&args.dir)?;
    let target = Target::existing(&args.store.data_dir()?, out)?;
    let answer = match target {
        Target::Running(server) => server.ask(&Request::Backup { dir: dir.clone() }, &[], show)?.0,
        Target::Stopped(store) => {
            let mut report = |now: backup::Progress| {
                show(&Answer::Progress { done: now.done, documents: now.documents, bytes: now.bytes });
            };
            let taken = backup::take(&*store, &dir, Pace::Full, &Cancel::default(), &mut report)?;
            Target::Stopped(store).close()?;
            taken.into()
        }
    };
    let Answer::BackedUp { documents, written, bytes, damaged } = answer else {
        bail!("the server answered {answer:?}");
    };
    if stderr().is_terminal() {
        eprintln!();
    }
    writeln!(out, "backed up {documents} documents to {}: {written} had changed, {bytes} bytes", dir.display())?;
    for (document, why) in &damaged {
        writeln!(out, "damaged: {document:?}: {why}")?;
    }
    if !damaged.is_empty() {
        bail!(
            "{} documents are damaged in the store; of these the backup keeps what an earlier one had, if anything",
            damaged.len()
        );
    }
    Ok(())
}

/// One line that changes, where a person sees it.
fn show(answer: &Answer) {
    if let Answer::Progress { done, documents, bytes } = answer
        && stderr().is_terminal()
    {
        eprint!("\r{done} of {documents} documents, {bytes} bytes written ");
    }
}

fn verify(dir: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let backup = Backup::open(dir)?;
    let wrong = backup.verify();
    for error in &wrong {
        writeln!(out, "{error}")?;
    }
    for (document, entry) in backup.documents() {
        if let Some(why) = &entry.damaged {
            let kept = if entry.place.is_some() { "an earlier backup's is here" } else { "nothing of it is here" };
            writeln!(out, "was damaged in the store: {document:?}: {why}; {kept}")?;
        }
    }
    if !wrong.is_empty() {
        bail!("{} of {} documents cannot be restored", wrong.len(), backup.documents().len());
    }
    writeln!(out, "{} documents, all as they were written", backup.documents().len()).context("cannot write")
}
