//! `syncline import`: a file into a document, or another server's documents into this one's.
//!
//! ```text
//! y_sweet.rs     y-sweet's directory
//! hocuspocus.rs  Hocuspocus' SQLite file
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

use super::target::{IfMissing, Imported, Target};
use super::{StoreArgs, text_of};
use crate::import_export::{Format, MAX_IMPORT_BYTES};

/// `syncline import`.
#[derive(Debug, clap::Args)]
#[command(override_usage = "syncline import [OPTIONS] <DOCUMENT> <FILE>\n       \
    syncline import [OPTIONS] --from y-sweet <DIR>\n       \
    syncline import [OPTIONS] --from hocuspocus <FILE.sqlite>")]
pub struct ImportArgs {
    /// The document's name and the file; with --from, where the other server's documents lie
    #[arg(value_name = "DOCUMENT FILE", num_args = 1..=2, required = true)]
    pub what: Vec<PathBuf>,

    /// How the file is written [default: json if its name ends so, else update]
    #[arg(long, value_enum, conflicts_with = "from")]
    pub format: Option<Format>,

    /// Take all documents of another server
    #[arg(long, value_enum, value_name = "SERVER")]
    pub from: Option<Source>,

    /// With --from: also into documents that exist, which else are left alone
    #[arg(long, requires = "from")]
    pub merge: bool,

    /// Make a new store if the data directory holds none
    #[arg(long)]
    pub create: bool,

    /// Which store
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Whose documents are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Source {
    /// A directory of y-sweet 0.9
    YSweet,
    /// A file of @hocuspocus/extension-sqlite
    Hocuspocus,
}

/// A document of another server: its name there, and its state as one v1 update, or why there is none.
type Found = (String, anyhow::Result<Bytes>);

/// Merges files into documents. When this returns they are on disk.
///
/// Errors: a file cannot be read or is refused, or the store fails. Of several documents all are tried.
pub fn import(args: &ImportArgs, out: &mut impl Write) -> anyhow::Result<()> {
    match (args.from, &args.what[..]) {
        (Some(source), [path]) => import_all(args, source, path, out),
        (None, [document, file]) => import_one(args, document, file, out),
        (Some(_), _) => bail!("--from takes one path"),
        (None, _) => bail!("name the document and the file: syncline import DOCUMENT FILE"),
    }
}

fn target(args: &ImportArgs, out: &mut impl Write) -> anyhow::Result<Target> {
    let if_missing = if args.create { IfMissing::Create } else { IfMissing::SuggestCreate };
    Target::open(&args.store.data_dir()?, if_missing, out)
}

fn import_one(args: &ImportArgs, document: &Path, path: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let document = document.to_str().ok_or_else(|| anyhow!("a document's name is UTF-8"))?;
    let document = DocumentName::parse(document)?;
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    let format = args.format.unwrap_or(if is_json { Format::Json } else { Format::Update });
    let file = read_file(path)?;
    let target = target(args, out)?;
    // Nothing in a JSON says which of its parts a document has already.
    match target.import(&document, file, format, format == Format::Json)? {
        Imported::Changed => writeln!(out, "imported {} into {document:?}", path.display())?,
        Imported::Known => writeln!(out, "{document:?} had all of {} already", path.display())?,
        Imported::Exists => {
            bail!("document {document:?} exists, and JSON makes a new one: choose another name, or purge it first")
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
        Source::Hocuspocus => bail!("this program was built without the feature \"hocuspocus\""),
    }
    .with_context(|| format!("cannot read {}", path.display()))?;
    let target = target(args, out)?;
    let (mut done, mut left, mut failed) = (0_u64, 0_u64, 0_u64);
    for (name, update) in found {
        let imported =
            update.and_then(|update| target.import(&DocumentName::parse(&name)?, update, Format::Update, !args.merge));
        match imported {
            Ok(Imported::Changed | Imported::Known) => done += 1,
            Ok(Imported::Exists) => {
                left += 1;
                writeln!(out, "{name:?}: exists, left alone (--merge merges)")?;
            }
            Err(error) => {
                failed += 1;
                writeln!(out, "{name:?}: {}", text_of(&error))?;
            }
        }
    }
    writeln!(out, "imported {done} documents from {}", path.display())?;
    target.close()?;
    if failed + left > 0 {
        bail!("{left} documents were left alone, {failed} could not be imported; they are named above");
    }
    Ok(())
}

/// A file that is not larger than what is imported.
fn read_file(path: &Path) -> anyhow::Result<Bytes> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_IMPORT_BYTES + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = read().with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() as u64 > MAX_IMPORT_BYTES {
        bail!("{} is larger than {MAX_IMPORT_BYTES} bytes", path.display());
    }
    Ok(bytes.into())
}
