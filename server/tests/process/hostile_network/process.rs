//! The server binary as a process, and its memory and files as the system reports them.

use std::net::SocketAddr;
use std::process::Stdio;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

pub(super) struct Process {
    child: Child,
    address: SocketAddr,
    _data: tempfile::TempDir,
}

impl Process {
    pub(super) async fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_syncline"));
        command.args(arguments);
        Self::run(command).await
    }

    /// Starts a server with this limit on file descriptors.
    pub(super) async fn start_with_files(files: u64) -> Self {
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
        command.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_syncline"));
        Self::run(command).await
    }

    async fn run(mut command: Command) -> Self {
        let data = tempfile::tempdir().unwrap();
        command.args(["--listen", "127.0.0.1:0", "--data"]).arg(data.path().join("data"));
        command.env("RUST_LOG", "error").stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = loop {
            let line = lines.next_line().await.unwrap().expect("the server prints its address");
            if let Some((_, address)) = line.split_once("ws://") {
                break address.trim().parse().unwrap();
            }
        };
        // The rest of the output is read, too: a broken pipe would end the server.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, address, _data: data }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    fn proc(&self, file: &str) -> String {
        let pid = self.child.id().expect("the server runs");
        format!("/proc/{pid}/{file}")
    }

    fn status_bytes(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Resets the peak; returns the current resident memory in bytes.
    pub(super) fn forget_peak(&self) -> u64 {
        std::fs::write(self.proc("clear_refs"), "5").unwrap();
        self.status_bytes("VmRSS:")
    }

    pub(super) fn peak(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    /// Number of open file descriptors.
    pub(super) fn open_files(&self) -> usize {
        std::fs::read_dir(self.proc("fd")).unwrap().count()
    }

    /// Asserts that the server still runs, and stops it with SIGTERM.
    pub(super) async fn stop(mut self) {
        assert!(self.child.try_wait().unwrap().is_none(), "the server has exited");
        let pid = rustix::process::Pid::from_raw(self.child.id().unwrap() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().await.unwrap().success());
    }
}

/// Raises the limit on file descriptors of this process as far as possible.
pub(super) fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum.map(|maximum| maximum.min(65_536)).or(Some(65_536));
    setrlimit(Resource::Nofile, limit).unwrap();
}
