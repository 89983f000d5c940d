//! A server on an address that other machines may reach warns about the missing access control.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Starts a server, and kills it when it is ready. Returns its standard output up to the address of the metrics, and
/// its log.
fn started(listen: &str) -> (String, String) {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncline"));
    command.args(["serve", "--listen", listen, "--metrics", "127.0.0.1:0", "--data"]).arg(home.path());
    let mut server = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut output = String::new();
    for line in BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap) {
        output += &format!("{line}\n");
        if line.contains("metrics are at") {
            break;
        }
    }
    server.kill().unwrap();
    (output, String::from_utf8(server.wait_with_output().unwrap().stderr).unwrap())
}

#[test]
fn public_address_is_announced_with_a_warning_and_loopback_without() {
    let (output, log) = started("0.0.0.0:0");
    assert!(output.contains("editors connect to  ws://<this machine>:"), "{output}{log}");
    assert!(output.contains("http://127.0.0.1:") && !output.contains(":0/metrics"), "{output}{log}");
    let warning = log.lines().find(|line| line.contains("no access control")).unwrap();
    assert!(warning.contains("WARN") && warning.contains("can read and write all documents"), "{warning}");
    let (output, log) = started("127.0.0.1:0");
    assert!(output.contains("editors connect to  ws://127.0.0.1:"), "{output}{log}");
    assert!(!log.contains("no access control"), "{log}");
}
