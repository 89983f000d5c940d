//! A separate file system whose power can be cut: ext4 in a file, mounted through a loop device. Needs root.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

/// Waits for a line on standard input, then shuts the file system down without writing its journal (`EXT4_IOC_SHUTDOWN` with
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`, Linux `fs/ext4/ext4.h`): unsynced data is lost, as in a power cut. Written in Perl, which
/// every Debian has, because an ioctl from Rust needs `unsafe`.
const POWER_CUT_SCRIPT: &str = r#"
    open(my $dir, "<", $ARGV[0]) or die "open: $!";
    $| = 1; print "ready\n"; <STDIN>;
    my $flag = pack("L", 2);
    ioctl($dir, 0x8004587d, $flag) or die "ioctl: $!";
    print "cut\n";
"#;

/// A mounted file system. Unmounted and removed on drop.
pub(super) struct Mount {
    home: TempDir,
    mounted: bool,
}

/// A running process that can cut the power of a file system.
pub(super) struct PowerSwitch {
    child: tokio::process::Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Mount {
    /// Creates and mounts a file system of `mebibytes` MiB. The error names the step that this machine does not allow.
    pub(super) fn make(mebibytes: u64) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("syncline-disk-").tempdir()?;
        std::fs::create_dir(home.path().join("mount"))?;
        std::fs::File::create(home.path().join("image"))?.set_len(mebibytes << 20)?;
        let mut mount = Self { home, mounted: false };
        // No blocks reserved for root, so that a full disk is full for root, too.
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &mount.path("image")])?;
        mount.attach()?;
        Ok(mount)
    }

    /// The mount point.
    pub(super) fn directory(&self) -> PathBuf {
        self.home.path().join("mount")
    }

    /// A path beside the mount point, on the machine's own disk.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Unmounts it and mounts it again, which replays its journal. No process may have open files on it.
    pub(super) fn remount(&mut self) -> Result<()> {
        self.detach()?;
        self.attach()
    }

    /// Starts the process that cuts the power, so that the cut itself is immediate.
    pub(super) async fn power_switch(&self) -> Result<PowerSwitch> {
        let mut command = tokio::process::Command::new("perl");
        command
            .args(["-e", POWER_CUT_SCRIPT])
            .arg(self.directory())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().context("cannot run perl")?;
        let mut lines = BufReader::new(child.stdout.take().context("perl has no standard output")?).lines();
        if lines.next_line().await?.as_deref() != Some("ready") {
            bail!("the power switch process did not start");
        }
        Ok(PowerSwitch { child, lines })
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
            eprintln!("cannot unmount {}: {error:#}", self.directory().display());
        }
    }
}

impl PowerSwitch {
    /// Cuts the power. Returns a time before the cut: acknowledgements received until then are for data written before it.
    pub(super) async fn cut(mut self) -> Result<Instant> {
        let mut stdin = self.child.stdin.take().context("perl has no standard input")?;
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

/// Why this machine cannot cut the power of a file system; `None`: it can.
pub(super) async fn unavailable() -> Option<String> {
    if !Path::new("/dev/loop-control").exists() {
        return Some("there are no loop devices".into());
    }
    let tried = async {
        let mut mount = Mount::make(16)?;
        mount.power_switch().await?.cut().await?;
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
