//! `syncline export`: writes one document to a file.

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
    /// Name of the document, plain or percent-encoded as in its URL
    #[arg(value_name = "DOCUMENT")]
    pub document: String,

    /// Use the name exactly as given: `a%20b` is then not `a b`
    #[arg(long)]
    pub exact_name: bool,

    /// Format of the file
    #[arg(long, value_enum, default_value = "update")]
    pub format: Format,

    /// File to write; an existing one is replaced [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// The store.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Writes one document to a file and prints its size, or writes the document to `out`, the standard output.
///
/// Errors: the document does not exist, was deleted or is damaged, or the file cannot be written.
pub fn export(args: &ExportArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let document = document_name(&args.document, args.exact_name)?;
    if args.output.is_none() && args.format == Format::Update && stdout().is_terminal() {
        bail!("refusing to write binary data to a terminal; use -o FILE or --format json");
    }
    // Standard output may carry the document.
    let target = Target::existing(&args.store.data_dir()?, &mut stderr())?;
    let exported = target.export(&document, args.format)?;
    if exported.pending > 0 {
        let pending = exported.pending;
        eprintln!(
            "syncline: {pending} pending updates of {document:?} depend on missing updates; readers of the export show them when those arrive"
        );
    }
    match &args.output {
        Some(path) => {
            write_file(path, &exported.bytes).with_context(|| format!("cannot write {}", path.display()))?;
            let kind = match args.format {
                Format::Update => "Yjs v1 update",
                Format::Json => "JSON",
            };
            writeln!(out, "exported {document:?} to {}: {kind}, {} bytes", path.display(), exported.bytes.len())?;
        }
        None => out.write_all(&exported.bytes).context("cannot write to standard output")?,
    }
    target.close()
}

/// Writes a file that only its owner may read. An existing one is replaced atomically: after a failure it is unchanged.
/// Anything else, such as a device or a pipe, is written to.
fn write_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => OpenOptions::new().write(true).open(path)?.write_all(bytes),
        // Through symbolic links.
        Ok(_) => replace_file(&fs::canonicalize(path)?, bytes),
        Err(_) => replace_file(path, bytes),
    }
}

fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}.new", std::process::id()));
    let new = PathBuf::from(new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let replaced = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&new, path));
    if replaced.is_err() {
        // The first error is the one to report.
        fs::remove_file(&new).ok();
    }
    replaced
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use syncline_log::store::Write as Step;
    use syncline_log::{Record, SledStore, Store};
    use syncline_protocol::ids::{DocumentName, Epoch, Seq};

    use super::*;

    #[test]
    fn export_replaces_only_regular_files() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link, fifo) = (dir.path().join("file"), dir.path().join("link"), dir.path().join("fifo"));
        write_file(&file, b"old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_file(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");

        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
        let reader = std::thread::spawn({
            let fifo = fifo.clone();
            move || fs::read(fifo).unwrap()
        });
        write_file(&fifo, b"piped").unwrap();
        assert_eq!(reader.join().unwrap(), b"piped");
        assert!(!fs::metadata(&fifo).unwrap().is_file());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "no temporary file is left");
        assert!(write_file(&dir.path().join("missing/file"), b"").is_err());
    }

    #[test]
    fn export_to_a_file_prints_what_it_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let (data, file) = (dir.path().join("data"), dir.path().join("notes.bin"));
        let store = SledStore::open(&data).unwrap();
        let record = Record { seq: Seq(1), time_ms: 0, update: Bytes::from_static(&[0, 0]) };
        let document = DocumentName::parse("notes").unwrap();
        store.commit(&[Step::Append { document, epoch: Epoch(1), records: vec![record] }]).unwrap();
        store.close().unwrap();
        for (format, kind) in [(Format::Update, "Yjs v1 update"), (Format::Json, "JSON")] {
            let (document, output, store) = ("notes".to_owned(), Some(file.clone()), StoreArgs::at(&data));
            let mut out = Vec::new();
            export(&ExportArgs { document, exact_name: false, format, output, store }, &mut out).unwrap();
            let bytes = fs::read(&file).unwrap().len();
            let expected = format!("exported \"notes\" to {}: {kind}, {bytes} bytes\n", file.display());
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
