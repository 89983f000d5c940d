//! `syncline import`: merges a file into a document, or imports all documents of another server.
//!
//! ```text
//! y_sweet.rs     reads y-sweet's directory
//! hocuspocus.rs  reads Hocuspocus' SQLite file
//! ```

#[cfg(feature = "hocuspocus")]
mod hocuspocus;
mod y_sweet;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use clap::ValueEnum;
use syncline_protocol::ids::DocumentName;

use super::target::{IfMissing, Target};
use super::{StoreArgs, counted, text_of};
use crate::http::operator::documents::Imported;
use crate::import_export::{Format, MAX_IMPORT_BYTES, too_large};

/// `syncline import`.
#[derive(Debug, clap::Args)]
#[command(override_usage = "syncline import [OPTIONS] <DOCUMENT> <FILE>\n       \
    syncline import [OPTIONS] --from y-sweet <DIR>\n       \
    syncline import [OPTIONS] --from hocuspocus <FILE.sqlite>")]
pub struct ImportArgs {
    /// Name of the document and the file to import; with --from, the other server's directory or database file
    #[arg(value_name = "DOCUMENT FILE", num_args = 1..=2, required = true)]
    pub what: Vec<PathBuf>,

    /// Format of the file [default: json if its name ends in .json, else update]
    #[arg(long, value_enum, conflicts_with = "from")]
    pub format: Option<Format>,

    /// Import all documents of another server
    #[arg(long, value_enum, value_name = "SERVER")]
    pub from: Option<Source>,

    /// With --from: merge into documents that exist instead of skipping them
    #[arg(long, requires = "from")]
    pub merge: bool,

    /// Create a store if the data directory has none
    #[arg(long)]
    pub create: bool,

    /// The store.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// The server whose documents are imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Source {
    /// The data directory of y-sweet 0.9
    YSweet,
    /// The database file of @hocuspocus/extension-sqlite
    Hocuspocus,
}

/// A document of another server: its name, and its state as one v1 update or the reason why it cannot be read.
type Found = (String, anyhow::Result<Bytes>);

/// Merges files into documents. When this returns, the changes are on disk.
///
/// Errors: a file cannot be read or is invalid, or the store fails. With --from, every document is tried, and one
/// that is skipped because it exists is not an error.
pub fn import(args: &ImportArgs, out: &mut impl Write) -> anyhow::Result<()> {
    match (args.from, &args.what[..]) {
        (Some(source), [path]) => import_all(args, source, path, out),
        (None, [document, file]) => import_one(args, document, file, out),
        (Some(_), _) => bail!("--from takes one path, the other server's directory or database file"),
        (None, _) => bail!("import needs a document and a file: syncline import DOCUMENT FILE"),
    }
}

fn target(args: &ImportArgs, out: &mut impl Write) -> anyhow::Result<Target> {
    let if_missing = if args.create { IfMissing::Create } else { IfMissing::SuggestCreate };
    Target::open(&args.store.data_dir()?, if_missing, out)
}

fn import_one(args: &ImportArgs, document: &Path, path: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let document = document.to_str().ok_or_else(|| anyhow!("the document name is not UTF-8"))?;
    let document = DocumentName::parse(document)?;
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    let format = args.format.unwrap_or(if is_json { Format::Json } else { Format::Update });
    let file = read_file(path)?;
    let target = target(args, out)?;
    // JSON carries no history, so it cannot be merged into an existing document.
    let imported = target.import(&document, file, format, format == Format::Json);
    match imported.with_context(|| format!("cannot import {}", path.display()))? {
        Imported::Changed => writeln!(out, "imported {} into {document:?}", path.display())?,
        Imported::Known => {
            writeln!(out, "nothing to import: {document:?} already has everything in {}", path.display())?
        }
        Imported::Exists => {
            bail!(
                "cannot import {}: document {document:?} already exists, and JSON can only create a new one; \
                 choose another name, or purge it first",
                path.display()
            )
        }
    }
    target.close()
}

fn import_all(args: &ImportArgs, source: Source, path: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let found = match source {
        Source::YSweet => y_sweet::documents(path),
        #[cfg(feature = "hocuspocus")]
        Source::Hocuspocus => hocuspocus::documents(path),
        #[cfg(not(feature = "hocuspocus"))]
        Source::Hocuspocus => bail!("this syncline was built without the feature \"hocuspocus\""),
    }
    .with_context(|| format!("cannot read {}", path.display()))?;
    let target = target(args, out)?;
    let (mut done, mut skipped, mut failed) = (0, 0, 0);
    for (name, update) in found {
        let imported =
            update.and_then(|update| target.import(&DocumentName::parse(&name)?, update, Format::Update, !args.merge));
        match imported {
            Ok(Imported::Changed | Imported::Known) => done += 1,
            Ok(Imported::Exists) => {
                skipped += 1;
                writeln!(out, "skipped {name:?}: it already exists; use --merge to merge into it")?;
            }
            Err(error) => {
                failed += 1;
                writeln!(out, "cannot import {name:?}: {}", text_of(&error))?;
            }
        }
    }
    let exist = match skipped {
        0 => String::new(),
        1 => "; 1 exists already and was skipped".to_owned(),
        _ => format!("; {skipped} exist already and were skipped"),
    };
    writeln!(out, "imported {} from {}{exist}", counted(done, "document"), path.display())?;
    target.close()?;
    if failed > 0 {
        bail!("{} could not be imported; the reasons are above", counted(failed, "document"));
    }
    Ok(())
}

/// Reads a file of at most `MAX_IMPORT_BYTES`.
fn read_file(path: &Path) -> anyhow::Result<Bytes> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_IMPORT_BYTES + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = read().with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() as u64 > MAX_IMPORT_BYTES {
        bail!("cannot import {}: {}", path.display(), too_large());
    }
    Ok(bytes.into())
}
