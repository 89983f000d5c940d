//! The real server: the binary `syncline` as a child process, with a data directory that outlives it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Longest wait for a server to be ready.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The text before the address in the line that a ready server prints.
const ADDRESS_MARK: &str = "ws://";

/// The argument of every command that starts servers.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ServerBinary {
    /// Server binary [default: `syncline` in the directory of this program]
    #[arg(long, env = "SYNCLINE_BIN", value_name = "FILE")]
    server_bin: Option<PathBuf>,
}

impl ServerBinary {
    /// Path of the server binary.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        let path = match &self.server_bin {
            Some(given) => given.clone(),
            None => std::env::current_exe()?.with_file_name("syncline"),
        };
        if !path.is_file() {
            bail!("no server binary at {}; build it, or set --server-bin or SYNCLINE_BIN", path.display());
        }
        Ok(path)
    }
}

/// Removes Syncline's settings from the environment of a command, so that it behaves the same on every machine.
pub(crate) fn without_settings(command: &mut std::process::Command) {
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("SYNCLINE_") || key == "RUST_LOG" {
            command.env_remove(key);
        }
    }
}

/// Returns the address in the line that a ready server prints.
pub(crate) fn address_in(line: &str) -> Option<&str> {
    Some(line.split_once(ADDRESS_MARK)?.1.trim())
}

/// A server process that can be started, stopped and started again. Killed on drop.
pub(crate) struct ServerProcess {
    program: PathBuf,
    data: PathBuf,
    log: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    child: Option<Child>,
}

impl ServerProcess {
    /// Describes a server on the directory `data` without starting it. Its log is beside the directory.
    pub(crate) fn new(program: PathBuf, data: PathBuf) -> Self {
        let log = data.with_extension("log");
        Self { program, data, log, arguments: Vec::new(), environment: Vec::new(), child: None }
    }

    /// Writes the log to `log` instead.
    pub(crate) fn with_log(mut self, log: PathBuf) -> Self {
        self.log = log;
        self
    }

    /// Passes additional arguments to the server.
    pub(crate) fn with_arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self
    }

    /// Sets the environment variables of the next start; replaces those set before.
    pub(crate) fn set_environment(&mut self, environment: &[(&str, String)]) {
        self.environment = environment.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    }

    /// Starts the server on a free port, waits until it is ready and returns its address.
    pub(crate) async fn start(&mut self) -> Result<SocketAddr> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(&self.data);
        without_settings(command.as_std_mut());
        command.args(&self.arguments).envs(self.environment.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot run {}", self.program.display()))?;
        let stdout = child.stdout.take().context("the server has no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let address = async {
            while let Some(line) = lines.next_line().await? {
                if let Some(address) = address_in(&line) {
                    return Ok(address.parse()?);
                }
            }
            bail!("the server exited: {}", self.log())
        };
        let address = timeout(START_LIMIT, address).await.context("the server was not ready in time").flatten();
        let address = address.context("the server did not start")?;
        // The server prints a few more lines and must not fail on a closed pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        self.child = Some(child);
        Ok(address)
    }

    /// Kills the server with signal 9 and waits for its end.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await.context("cannot kill the server")?;
        }
        Ok(())
    }

    /// Process id of the server, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Sends SIGTERM. [`ServerProcess::ended`] waits for the end.
    pub(crate) async fn terminate(&self) -> Result<()> {
        let pid = self.pid().context("the server is not running")?;
        let sent = Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
        anyhow::ensure!(sent.success(), "cannot send SIGTERM to the server");
        Ok(())
    }

    /// Waits for the end of a server that was not killed by this program.
    pub(crate) async fn ended(&mut self) -> Result<ExitStatus> {
        let status = self.child.as_mut().context("the server is not running")?.wait().await?;
        self.child = None;
        Ok(status)
    }

    /// Whether the server was started and neither killed nor waited for.
    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// The log of all starts of this server.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}
