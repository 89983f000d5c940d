//! The `syncline` command: parses the arguments, runs the command, and reports why it failed.

use std::ffi::OsString;
use std::io::StdoutLock;
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::Mode;
use rustix::process::umask;
use syncline_protocol::ids::DocumentName;
use syncline_server::cli::{
    Cli, Command, DocumentArgs, StoreArgs, arguments, backup, delete, document_name, export, import, inspect, logging,
    repair, restore, serve, text_of, verify,
};
use syncline_server::config::LogFormat;

fn main() -> ExitCode {
    // The files this program creates hold users' documents: only their owner may read them.
    umask(Mode::RWXG | Mode::RWXO);
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match arguments::parse(arguments.clone()) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && arguments::ask_for_json(&arguments) => {
            logging::report(LogFormat::Json, error.to_string().trim_end());
            return ExitCode::from(2);
        }
        Err(error) => error.exit(),
    };
    let format = match (&cli.command, &cli.serve) {
        (None, args) | (Some(Command::Serve(args)), _) => serve::log_format(args),
        _ => LogFormat::Text,
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::report(format, &text_of(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        None => serve::serve(cli.serve),
        Some(Command::Serve(args)) => serve::serve(args),
        Some(Command::Inspect(args)) => with_document(&args, inspect::inspect),
        Some(Command::Delete(args)) => with_document(&args, delete::delete),
        Some(Command::Verify(args)) => with_store(&args, verify::verify),
        Some(Command::Repair(args)) => with_store(&args, repair::repair),
        Some(Command::Purge(args)) => with_document(&args, delete::purge),
        Some(Command::Backup(args)) => backup::backup(&args, &mut std::io::stdout().lock()),
        Some(Command::Restore(args)) => restore::restore(&args, &mut std::io::stdout().lock()),
        Some(Command::Export(args)) => export::export(&args, &mut std::io::stdout().lock()),
        Some(Command::Import(args)) => import::import(&args, &mut std::io::stdout().lock()),
    }
}

fn with_document(
    args: &DocumentArgs,
    action: impl FnOnce(&Path, &DocumentName, &mut StdoutLock<'static>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let document = document_name(&args.document, args.exact_name)?;
    action(&args.store.data_dir()?, &document, &mut std::io::stdout().lock())
}

fn with_store(
    args: &StoreArgs,
    action: impl FnOnce(&Path, &mut StdoutLock<'static>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    action(&args.data_dir()?, &mut std::io::stdout().lock())
}
