//! Parses arguments and environment variables. An empty variable counts as unset, and an error about a
//! variable's value names the variable.

use std::env;
use std::error::Error as _;
use std::ffi::OsString;
use std::num::{IntErrorKind, ParseIntError};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory, Error, FromArgMatches};

use super::Cli;
use crate::config::ConfigError;

/// Parses the command line.
///
/// Errors: an invalid argument or variable; also a request for help or the version.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, Error> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut command = without_empty_variables(Cli::command());
    let parsed = command.try_get_matches_from_mut(&arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| explain_number(name_variable(error, &command, &arguments), &command))
}

/// Rewrites an error about a value that is not a number; clap prints the text of the standard library.
fn explain_number(error: Error, command: &Command) -> Error {
    let Some(cause) = error.source().and_then(|cause| cause.downcast_ref::<ParseIntError>()) else { return error };
    let why = match cause.kind() {
        IntErrorKind::PosOverflow => format!("it must be a whole number, at most {}", u64::MAX),
        _ => "it must be a whole number, 0 or greater".to_owned(),
    };
    let text = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    let (value, argument) = (text(ContextKind::InvalidValue), text(ContextKind::InvalidArg));
    let message = format!("invalid value '{value}' for '{argument}': {why}\n\nFor more information, try '--help'.\n");
    Error::raw(error.kind(), message).with_cmd(command)
}

/// Whether arguments that could not be parsed ask for log lines in JSON.
pub fn ask_for_json(arguments: &[OsString]) -> bool {
    let texts: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    let flag = "--log-format";
    let is_json = texts.iter().any(|text| *text == "--log-format=json")
        || texts.windows(2).any(|pair| pair[0] == flag && pair[1] == "json");
    let variable = env::var("SYNCLINE_LOG_FORMAT").is_ok_and(|value| value == "json");
    is_json || variable && !is_given(flag, arguments)
}

/// The text of a configuration error, with the environment variable if the value came from one.
pub(super) fn explain(error: ConfigError) -> anyhow::Error {
    let ConfigError::Invalid { setting, why } = &error else { return error.into() };
    let (flag, variable) = (format!("--{}", setting.replace('_', "-")), format!("SYNCLINE_{}", setting.to_uppercase()));
    let arguments: Vec<OsString> = env::args_os().collect();
    if is_given(&flag, &arguments) || !is_set(&variable) {
        return error.into();
    }
    anyhow::anyhow!("environment variable {variable}: {why}")
}

fn without_empty_variables(command: Command) -> Command {
    let unset = |arg: Arg| match arg.get_env() {
        Some(name) if !is_set(&name.to_string_lossy()) => {
            // clap reads the variable in `env()`. Only an empty one is removed: the others stay in the help.
            if env::var_os(name).is_some() { arg.env(None::<&str>) } else { arg }
        }
        _ => arg,
    };
    command.mut_args(unset).mut_subcommands(without_empty_variables)
}

/// Names the variable in an error about its value; clap names only the flag.
fn name_variable(mut error: Error, command: &Command, arguments: &[OsString]) -> Error {
    if !matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
        return error;
    }
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else { return error };
    let everywhere = command.get_subcommands().flat_map(Command::get_arguments).chain(command.get_arguments());
    let flag = argument.split(' ').next().unwrap_or_default();
    let mut candidates = everywhere.filter(|arg| arg.get_long().is_some_and(|long| format!("--{long}") == flag));
    let Some(arg) = candidates.find(|arg| arg.get_env().is_some_and(|name| is_set(&name.to_string_lossy()))) else {
        return error;
    };
    if !is_given(flag, arguments)
        && let Some(name) = arg.get_env()
    {
        let source = format!("environment variable {} ({argument})", name.to_string_lossy());
        error.insert(ContextKind::InvalidArg, ContextValue::String(source));
    }
    error
}

fn is_given(flag: &str, arguments: &[OsString]) -> bool {
    let texts = arguments.iter().map(|argument| argument.to_string_lossy());
    texts.into_iter().any(|text| text == flag || text.strip_prefix(flag).is_some_and(|rest| rest.starts_with('=')))
}

fn is_set(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| !value.is_empty())
}
