//! The command line: what a person types, and what each command does.

pub mod inspect;
pub mod serve;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::RawConfig;

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
        syncline.toml (listen = \"0.0.0.0:1234\").\n\nExamples:\n  \
        syncline                                   serve ./data on 127.0.0.1:1234\n  \
        syncline serve --listen 0.0.0.0:8080       serve the whole network\n  \
        syncline inspect my-document               what the log holds of one document",
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
pub enum Command {
    /// Run the server (the default)
    Serve(ServeArgs),
    /// List the records of one document, without a running server
    Inspect(InspectArgs),
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

/// `syncline inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// The document's name, as in its URL (percent-encoded)
    #[arg(value_name = "DOCUMENT")]
    pub document: String,

    /// Directory that holds the documents
    #[arg(long, env = "SYNCLINE_DATA", value_name = "DIR", default_value = "data")]
    pub data: PathBuf,
}
