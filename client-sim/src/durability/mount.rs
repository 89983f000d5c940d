//! A file system of its own: ext4 in a file, mounted by the loop device, whose power can be cut. Needs root.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

/// Waits for a line, then shuts the file system down without writing its journal (`EXT4_IOC_SHUTDOWN` with
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`, Linux `fs/ext4/ext4.h`): what was not synced is gone, as when the power goes. In Perl, which
/// every Debian has: an ioctl from Rust would be `unsafe`.
const CUTTER: &str = r#"
    open(my $dir, "<", $ARGV[0]) or die "open: $!";
    $| = 1; print "ready\n"; <STDIN>;
    my $flag = pack("L", 2);
    ioctl($dir, 0x8004587d, $flag) or die "ioctl: $!";
    print "cut\n";
"#;

/// The file system. Unmounted and removed when dropped.
pub struct Mount {
    home: TempDir,
    mounted: bool,
}

/// Stands ready to cut the power.
pub struct Cutter {
    child: tokio::process::Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Mount {
    /// Makes one of `mebibytes`. The error says what this machine does not allow.
    pub fn make(mebibytes: u64) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("syncline-disk-").tempdir()?;
        std::fs::create_dir(home.path().join("mount"))?;
        std::fs::File::create(home.path().join("image"))?.set_len(mebibytes << 20)?;
        let mut mount = Self { home, mounted: false };
        // No reserve for root: a full disk is full.
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &mount.path("image")])?;
        mount.attach()?;
        Ok(mount)
    }

    /// Where it is mounted.
    pub fn directory(&self) -> PathBuf {
        self.home.path().join("mount")
    }

    /// A place beside it, on the ordinary disk.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Unmounts it and mounts it again, which replays its journal. Nobody may use it.
    pub fn remount(&mut self) -> Result<()> {
        self.detach()?;
        self.attach()
    }

    /// Somebody who can cut the power at once.
    pub async fn cutter(&self) -> Result<Cutter> {
        let mut command = tokio::process::Command::new("perl");
        command
            .args(["-e", CUTTER])
            .arg(self.directory())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().context("perl")?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        if lines.next_line().await?.as_deref() != Some("ready") {
            bail!("the power switch does not work");
        }
        Ok(Cutter { child, lines })
    }

    fn attach(&mut self) -> Result<()> {
        run("mount", &["-o", "loop", &self.path("image"), &self.path("mount")])?;
        self.mounted = true;
        Ok(())
    }

    fn detach(&mut self) -> Result<()> {
        run("umount", &[&self.path("mount")])?;
        self.mounted = false;
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted
            && let Err(error) = self.detach()
        {
            eprintln!("{} stays mounted: {error:#}", self.directory().display());
        }
    }
}

impl Cutter {
    /// Cuts the power. Gives a moment before: what was heard until then was written before.
    pub async fn cut(mut self) -> Result<Instant> {
        let mut stdin = self.child.stdin.take().context("no input")?;
        let before = Instant::now();
        stdin.write_all(b"now\n").await?;
        stdin.flush().await?;
        if self.lines.next_line().await?.as_deref() != Some("cut") {
            bail!("the power was not cut");
        }
        self.child.wait().await?;
        Ok(before)
    }
}

/// Why this machine cannot do it; `None`: it can.
pub async fn unavailable() -> Option<String> {
    if !Path::new("/dev/loop-control").exists() {
        return Some("there are no loop devices".into());
    }
    let tried = async {
        let mut mount = Mount::make(16)?;
        mount.cutter().await?.cut().await?;
        mount.remount()
    };
    tried.await.err().map(|error| format!("{error:#}"))
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
