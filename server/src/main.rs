//! The `syncline` command: parse, run, say in one line what went wrong.

use std::io::StdoutLock;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use syncline_protocol::ids::DocumentName;
use syncline_server::cli::{
    Cli, Command, DocumentArgs, backup, delete, document_name, export, import, inspect, repair, restore, serve, verify,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => serve::serve(cli.serve),
        Some(Command::Serve(args)) => serve::serve(args),
        Some(Command::Inspect(args)) => with_document(&args, inspect::inspect),
        Some(Command::Delete(args)) => with_document(&args, delete::delete),
        Some(Command::Verify(args)) => verify::verify(&args.data, &mut std::io::stdout().lock()),
        Some(Command::Repair(args)) => repair::repair(&args.data, &mut std::io::stdout().lock()),
        Some(Command::Purge(args)) => with_document(&args, delete::purge),
        Some(Command::Backup(args)) => backup::backup(&args, &mut std::io::stdout().lock()),
        Some(Command::Restore(args)) => restore::restore(&args, &mut std::io::stdout().lock()),
        Some(Command::Export(args)) => export::export(&args),
        Some(Command::Import(args)) => import::import(&args, &mut std::io::stdout().lock()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("syncline: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn with_document(
    args: &DocumentArgs,
    action: impl FnOnce(&Path, &DocumentName, &mut StdoutLock<'static>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let document = document_name(&args.document, args.exact_name)?;
    action(&args.data, &document, &mut std::io::stdout().lock())
}
