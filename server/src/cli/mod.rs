//! The command line: arguments, and one module for each command.

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

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf, absolute};

use clap::{Parser, Subcommand};
use syncline_protocol::ids::{DocumentName, NameError};

pub use self::store_args::StoreArgs;
use self::store_args::{announce, check_owner};
use crate::config::RawConfig;
use syncline_log::{SledStore, StoreError};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "syncline",
    version,
    about = "Shared, offline-first documents: a server for any Yjs editor",
    long_about = "Shared, offline-first documents: a server for any Yjs editor.\n\n\
        Start it and connect y-websocket or Hocuspocus clients to ws://127.0.0.1:1234. There is nothing to set up: \
        documents are created when they are first opened and stored in ./data. An edit is acknowledged only when it \
        is on disk.",
    after_help = "Every option can also be set by an environment variable (SYNCLINE_LISTEN, SYNCLINE_DATA, …) or in \
        syncline.toml (data = \"/var/lib/syncline/data\"; limits in the table [limits]).\n\nExamples:\n  \
        syncline                                   serve ./data on 127.0.0.1:1234\n  \
        syncline serve --listen 0.0.0.0:8080       listen on every network, without access control\n  \
        syncline inspect my-document               list the stored records of a document\n  \
        syncline delete my-document                delete a document for everyone\n  \
        syncline backup /var/backups/notes         back up all documents while the server runs\n  \
        syncline export my-document --format json  print a document as JSON",
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// The command; `None` means `serve`.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Options of `serve`, given without the command.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is only one value, which lives briefly")]
pub enum Command {
    /// Run the server (the default)
    Serve(ServeArgs),
    /// List the stored records of one document; the server must be stopped
    Inspect(DocumentArgs),
    /// Delete one document for everyone; the server must be stopped. Clients that open it get close code 4410
    Delete(DocumentArgs),
    /// Check every document; the server must be stopped. The exit code is 1 if anything is damaged
    Verify(StoreArgs),
    /// Rebuild a damaged store from what can be read; the server must be stopped. The damaged store is kept
    Repair(StoreArgs),
    /// Remove one document, deleted or not, and free its name; the server must be stopped
    Purge(DocumentArgs),
    /// Back up all documents, whether the server is running or stopped, or verify a backup
    Backup(backup::BackupArgs),
    /// Restore a backup into an empty directory, or restore one document of it
    Restore(restore::RestoreArgs),
    /// Write one document to a file, as a Yjs update or as JSON
    Export(export::ExportArgs),
    /// Merge a file into a document, or import all documents of a y-sweet or Hocuspocus server
    Import(import::ImportArgs),
}

/// `syncline serve`.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// TOML file with settings; options and environment variables override it [default: ./syncline.toml if it exists]
    #[arg(long, env = "SYNCLINE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The settings.
    #[command(flatten)]
    pub settings: RawConfig,
}

/// `syncline inspect`, `delete`, `purge`.
#[derive(Debug, clap::Args)]
pub struct DocumentArgs {
    /// Name of the document, plain or percent-encoded as in its URL
    #[arg(value_name = "DOCUMENT")]
    pub document: String,

    /// Use the name exactly as given: `a%20b` is then not `a b`
    #[arg(long)]
    pub exact_name: bool,

    /// The store.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// An error and its causes, joined by colons. A text that another one contains is left out.
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

/// A number and its noun, which gets an s unless the number is 1.
fn counted<N: Display + PartialEq + From<u8>>(count: N, noun: &str) -> String {
    let ending = if count == N::from(1) { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

/// The document named by a command line argument. `exact`: without decoding or normalizing the name.
pub fn document_name(name: &str, exact: bool) -> Result<DocumentName, NameError> {
    if exact { DocumentName::exact(name) } else { DocumentName::parse(name) }
}

/// Opens an existing store and prints which one. Fails if a server is running: a store has one owner.
fn open_offline(data_dir: &Path, out: &mut impl Write) -> anyhow::Result<SledStore> {
    check_owner(data_dir)?;
    let store = SledStore::open_existing(data_dir).map_err(explain)?;
    announce(data_dir, "", out)?;
    Ok(store)
}

/// Adds to an error on opening a store what to do about it.
fn explain(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::InUse { .. } => anyhow::anyhow!("{error}: stop that server first"),
        StoreError::NoStore { dir } => anyhow::anyhow!(
            "no Syncline store in {}: name the store's directory with --data DIR, SYNCLINE_DATA, or `data` in syncline.toml",
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
    fn noun_has_no_s_after_one() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "record")), ["0 records", "1 record", "2 records"]);
    }

    #[test]
    fn error_text_repeats_no_cause() {
        let text = |error: Result<(), anyhow::Error>| text_of(&error.unwrap_err());
        assert_eq!(text(Err(anyhow!("no room")).context("cannot write")), "cannot write: no room");
        assert_eq!(text(Err(anyhow!("no room")).context("cannot write: no room")), "cannot write: no room");
        let damaged = "document \"a\" is damaged at record 2: it is missing";
        assert_eq!(text(Err(anyhow!(damaged)).context("document \"a\"")), damaged);
        assert_eq!(text(Err(anyhow!("the disk is full")).context("b").context("a")), "a: b: the disk is full");
    }
}
