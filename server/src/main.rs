//! The `syncline` command: parse, run, say in one line what went wrong.

use std::process::ExitCode;

use clap::Parser;
use syncline_protocol::ids::DocumentName;
use syncline_server::cli::{Cli, Command, InspectArgs, inspect, serve};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => serve::serve(cli.serve),
        Some(Command::Serve(args)) => serve::serve(args),
        Some(Command::Inspect(args)) => inspect_document(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("syncline: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn inspect_document(args: &InspectArgs) -> anyhow::Result<()> {
    let document = DocumentName::parse(&args.document)?;
    inspect::inspect(&args.data, &document, &mut std::io::stdout().lock())
}
