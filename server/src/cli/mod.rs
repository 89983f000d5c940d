//! The command line: what a person types, and what each command does.

pub mod arguments;
pub mod backup;
pub mod delete;
pub mod export;
pub mod import;
pub mod inspect;
pub mod logging;
pub mod repair;
pub mod restore;
pub mod serve;
mod signals;
mod store_args;
mod target;
pub mod verify;

use std::io::Write;
use std::path::{Path, PathBuf, absolute};

use clap::{Parser, Subcommand};
use syncline_protocol::ids::{DocumentName, NameError};

pub use self::store_args::StoreArgs;
use self::store_args::announce;
use crate::config::RawConfig;
use syncline_log::{SledStore, StoreError};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "syncline",
    version,
    about = "Shared, offline-first documents: a server for any Yjs editor",
    long_about = "Shared, offline-first documents: a server for any Yjs editor.\n\n\
        Run it, then point y-websocket or Hocuspocus at ws://127.0.0.1:1234. Nothing to set up: documents are made \
        when they are first opened, kept in ./data, and an edit is acknowledged only when it is on disk.",
    after_help = "Every option is also an environment variable (SYNCLINE_LISTEN, SYNCLINE_DATA, …) and a line in \
        syncline.toml (listen = \"0.0.0.0:1234\"; limits in a table [limits]).\n\nExamples:\n  \
        syncline                                   serve ./data on 127.0.0.1:1234\n  \
        syncline serve --listen 0.0.0.0:8080       serve the whole network\n  \
        syncline inspect my-document               what the log holds of one document\n  \
        syncline delete my-document                it was deleted: nobody can open it any more\n  \
        syncline backup /backups/notes             a backup, while the server runs\n  \
        syncline export my-document --format json  one document, readable",
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// Without a command, `serve`.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// `serve`'s options, given without the word.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// What can be done.
#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, for a moment")]
pub enum Command {
    /// Run the server (the default)
    Serve(ServeArgs),
    /// List the records of one document, without a running server
    Inspect(DocumentArgs),
    /// Delete one document for everyone, without a running server: who opens it is told so
    Delete(DocumentArgs),
    /// Check every document, without a running server: exit code 1 when anything is damaged
    Verify(StoreArgs),
    /// Keep what can be read of a damaged store, in a new directory; the damaged one is kept aside
    Repair(StoreArgs),
    /// Forget one document, without a running server: its name is free for another
    Purge(DocumentArgs),
    /// Back up all documents, of a running server or a stopped one, or verify a backup
    Backup(backup::BackupArgs),
    /// Restore a backup into an empty directory, or one document of it
    Restore(restore::RestoreArgs),
    /// Write one document to a file, as a Yjs update or as JSON
    Export(export::ExportArgs),
    /// Merge a file into a document, or take the documents of y-sweet or Hocuspocus
    Import(import::ImportArgs),
}

/// `syncline serve`.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// TOML file with the same settings [default: ./syncline.toml if it exists]
    #[arg(long, env = "SYNCLINE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The settings.
    #[command(flatten)]
    pub settings: RawConfig,
}

/// `syncline inspect`, `delete`, `purge`.
#[derive(Debug, clap::Args)]
pub struct DocumentArgs {
    /// The document's name, as people write it or as its URL spells it
    #[arg(value_name = "DOCUMENT")]
    pub document: String,

    /// Take the document that is stored under exactly this name: `a%20b` is not `a b` then
    #[arg(long)]
    pub exact_name: bool,

    /// Which store
    #[command(flatten)]
    pub store: StoreArgs,
}

/// An error and its causes in one line. What one of them already says in full is not repeated by another.
pub fn text_of(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), join_causes)
}

/// An error's text and that of its cause.
fn join_causes(text: String, cause: String) -> String {
    if cause.contains(&text) {
        cause
    } else if text.contains(&cause) {
        text
    } else {
        format!("{text}: {cause}")
    }
}

/// The document that a person means by `name`; `exact`: the one stored under exactly that name.
pub fn document_name(name: &str, exact: bool) -> Result<DocumentName, NameError> {
    if exact { DocumentName::exact(name) } else { DocumentName::parse(name) }
}

/// Opens an existing store and prints which. Only without a running server: a store has one owner.
fn offline(data_dir: &Path, out: &mut impl Write) -> anyhow::Result<SledStore> {
    let store = SledStore::open_existing(data_dir).map_err(explain)?;
    announce(data_dir, "", out)?;
    Ok(store)
}

/// A store that a command cannot open, with what to do.
fn explain(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::InUse { .. } => anyhow::anyhow!("{error}: stop that server first"),
        StoreError::NoStore { dir } => anyhow::anyhow!(
            "there is no Syncline store in {}: name the directory of the store with --data DIR, SYNCLINE_DATA, or `data` \
             in syncline.toml",
            absolute(&dir).unwrap_or(dir).display()
        ),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn text_of_an_error_repeats_no_cause() {
        let text = |error: Result<(), anyhow::Error>| text_of(&error.unwrap_err());
        assert_eq!(text(Err(anyhow!("no room")).context("cannot write")), "cannot write: no room");
        assert_eq!(text(Err(anyhow!("no room")).context("cannot write: no room")), "cannot write: no room");
        let damaged = "document \"a\" is damaged at record 2: it is missing";
        assert_eq!(text(Err(anyhow!(damaged)).context("document \"a\"")), damaged);
        assert_eq!(text(Err(anyhow!("the disk is full")).context("b").context("a")), "a: b: the disk is full");
    }
}
