//! The programs of a benchmark, each pinned to a core: the server, the floor, and this program's own load.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::server::{address_in, without_settings};

/// CPU core of the server or the floor.
const SERVER_CORE: &str = "0";
/// CPU core of the load.
const LOAD_CORE: &str = "1";

/// A running server or floor; killed on drop.
pub(super) struct RunningProgram {
    child: Child,
    /// WebSocket URL of the program.
    pub url: String,
    /// Kept open so that the program does not fail on a closed pipe.
    _stdout: BufReader<ChildStdout>,
}

/// Whether programs can be pinned: needs two cores and `taskset`.
pub(super) fn can_pin() -> bool {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let taskset = Command::new("taskset").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    cores > 1 && taskset.is_ok_and(|status| status.success())
}

fn pinned(core: &str, program: &Path) -> Command {
    if !can_pin() {
        return Command::new(program);
    }
    // `taskset` execs the program, so the process id stays the same.
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program);
    command
}

/// Starts the server on the directory `data`.
pub(super) fn server(program: &Path, data: &Path) -> Result<RunningProgram> {
    let mut command = pinned(SERVER_CORE, program);
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
    without_settings(&mut command);
    start(command)
}

/// Starts the floor. `answer`: see [`crate::load::floor::FloorArgs`].
pub(super) fn floor(answer: Option<usize>) -> Result<RunningProgram> {
    let mut command = pinned(SERVER_CORE, &own_executable()?);
    command.arg("floor");
    if let Some(bytes) = answer {
        command.args(["--answer", &bytes.to_string()]);
    }
    start(command)
}

fn own_executable() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find the path of this program")
}

fn start(mut command: Command) -> Result<RunningProgram> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    let mut stdout = BufReader::new(child.stdout.take().context("the program has no standard output")?);
    loop {
        let mut line = String::new();
        if stdout.read_line(&mut line)? == 0 {
            bail!("{command:?} did not start: {}", child.wait()?);
        }
        if let Some(address) = address_in(&line) {
            return Ok(RunningProgram { url: format!("ws://{address}"), child, _stdout: stdout });
        }
    }
}

impl RunningProgram {
    /// Runs `syncline-sim load` against the program and returns its report.
    pub(super) fn load(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let mut command = pinned(LOAD_CORE, &own_executable()?);
        command.arg("load").args(arguments);
        command.args(["--url", &self.url, "--pid", &self.child.id().to_string(), "--json", "--allow-saturated"]);
        let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).with_context(|| {
            format!("`syncline-sim load` printed no report: {}", String::from_utf8_lossy(&output.stderr).trim())
        })?;
        ensure!(output.status.success(), "{}", report["failures"]);
        Ok(report)
    }

    /// Stops the program as an operator does (SIGTERM) and waits for its end.
    pub(super) fn stop(mut self) -> Result<()> {
        // The standard library can only send signal 9.
        let signalled = Command::new("kill").arg(self.child.id().to_string()).status();
        ensure!(signalled.is_ok_and(|status| status.success()), "cannot send SIGTERM to the server");
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for RunningProgram {
    fn drop(&mut self) {
        // The process may already have ended; drop has no way to report an error.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
