//! `syncline export`: one document as a file.

use std::fs::{self, OpenOptions};
use std::io::{IsTerminal, Write, stderr, stdout};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::target::Target;
use super::{StoreArgs, document_name};
use crate::import_export::Format;

/// `syncline export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// The document's name, as people write it or as its URL spells it
    #[arg(value_name = "DOCUMENT")]
    pub document: String,

    /// Take the document that is stored under exactly this name: `a%20b` is not `a b` then
    #[arg(long)]
    pub exact_name: bool,

    /// What is written
    #[arg(long, value_enum, default_value = "update")]
    pub format: Format,

    /// Where to [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Which store
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Writes one document to a file, or to standard output.
///
/// Errors: there is no such document, it was deleted or is damaged, or the file cannot be written.
pub fn export(args: &ExportArgs) -> anyhow::Result<()> {
    let document = document_name(&args.document, args.exact_name)?;
    if args.output.is_none() && args.format == Format::Update && stdout().is_terminal() {
        bail!("an update is bytes, no text: name a file with -o FILE, or ask for --format json");
    }
    // Standard output may be the document.
    let target = Target::existing(&args.store.data_dir()?, &mut stderr())?;
    let exported = target.export(&document, args.format)?;
    if exported.waiting > 0 {
        let waiting = exported.waiting;
        eprintln!(
            "syncline: {waiting} updates of {document:?} wait for others that never came; they are not in the file"
        );
    }
    match &args.output {
        Some(path) => write_whole(path, &exported.bytes).with_context(|| format!("cannot write {}", path.display()))?,
        None => stdout().lock().write_all(&exported.bytes).context("cannot write")?,
    }
    target.close()
}

/// Replaces the file, or leaves the one before it, never a part. Its owner alone may read it.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}
