//! The real server: the binary `syncline` as a child process, on a directory that outlives it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Longest wait for a server to be ready.
const START_LIMIT: Duration = Duration::from_secs(30);

/// What a ready server prints before its address.
const ADDRESS_MARK: &str = "ws://";

/// The server's program: as given, or beside this program.
pub fn program(given: Option<&Path>) -> Result<PathBuf> {
    let path = match given {
        Some(given) => given.to_owned(),
        None => std::env::current_exe()?.with_file_name("syncline"),
    };
    if !path.is_file() {
        bail!("there is no server at {}: build it, or set --server-bin or SYNCLINE_BIN", path.display());
    }
    Ok(path)
}

/// The same on every machine: nothing a developer has set reaches a server that is started.
pub fn without_settings(command: &mut std::process::Command) {
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("SYNCLINE_") || key == "RUST_LOG" {
            command.env_remove(key);
        }
    }
}

/// The address in a line that a ready server prints.
pub fn address_in(line: &str) -> Option<&str> {
    Some(line.split_once(ADDRESS_MARK)?.1.trim())
}

/// A server that runs, or does not at the moment. It is killed when this is dropped.
pub struct ServerProcess {
    program: PathBuf,
    data: PathBuf,
    log: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    child: Option<Child>,
}

impl ServerProcess {
    /// Not started yet.
    pub fn new(program: PathBuf, data: PathBuf) -> Self {
        let log = data.with_extension("log");
        Self { program, data, log, arguments: Vec::new(), environment: Vec::new(), child: None }
    }

    /// Its log goes there, not beside its data.
    pub fn with_log(mut self, log: PathBuf) -> Self {
        self.log = log;
        self
    }

    /// Passes these arguments to it, too.
    pub fn with_arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self
    }

    /// What the next start's environment says, in place of what was set before.
    pub fn set_environment(&mut self, environment: &[(&str, String)]) {
        self.environment = environment.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    }

    /// Starts it on a port of the system's choice, and tells which when it is ready.
    pub async fn start(&mut self) -> Result<SocketAddr> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(&self.data);
        without_settings(command.as_std_mut());
        command.args(&self.arguments).envs(self.environment.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot run {}", self.program.display()))?;
        let stdout = child.stdout.take().context("a server without an output")?;
        let mut lines = BufReader::new(stdout).lines();
        let address = async {
            while let Some(line) = lines.next_line().await? {
                if let Some(address) = address_in(&line) {
                    return Ok(address.parse()?);
                }
            }
            bail!("it ended: {}", self.log())
        };
        let address = timeout(START_LIMIT, address).await.context("it was not ready in time").flatten();
        let address = address.context("the server did not start")?;
        // It writes a few lines more; a closed pipe must not hurt it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        self.child = Some(child);
        Ok(address)
    }

    /// kill -9. Returns when the process is gone.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await.context("the server cannot be killed")?;
        }
        Ok(())
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Asks it to stop (SIGTERM). It may take its time: see [`ServerProcess::ended`].
    pub async fn terminate(&self) -> Result<()> {
        let pid = self.pid().context("it does not run")?;
        let sent = Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
        anyhow::ensure!(sent.success(), "it cannot be told to stop");
        Ok(())
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        let status = self.child.as_mut().context("it does not run")?.wait().await?;
        self.child = None;
        Ok(status)
    }

    /// Whether it was started and not killed.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// What it logged, over all its lives.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}
