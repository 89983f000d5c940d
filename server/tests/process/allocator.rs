//! The server begins with limits for glibc's allocator, as the same process; what the operator has set stays.

#![cfg(all(target_os = "linux", target_env = "gnu"))]
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

#[test]
fn the_server_sets_what_the_operator_has_not_set() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Command::new(env!("CARGO_BIN_EXE_syncline"))
        .args(["--listen", "127.0.0.1:0", "--data"])
        .arg(data.path())
        .env("MALLOC_ARENA_MAX", "7")
        .env_remove("SYNCLINE_ALLOCATOR_SETTLED")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut greeting = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut greeting).unwrap();
    let environment = std::fs::read_to_string(format!("/proc/{}/environ", server.id())).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(greeting.contains("is ready"), "{greeting}");
    let value = |name: &str| environment.split('\0').find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    assert_eq!(value("MALLOC_ARENA_MAX"), Some("7"));
    assert_eq!(value("MALLOC_MMAP_THRESHOLD_"), Some("65536"));
    assert_eq!(value("MALLOC_TRIM_THRESHOLD_"), Some("131072"));
}
