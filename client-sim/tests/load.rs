//! Tests of `syncline-sim load` as a program: on a real server and on the bare relay it counts correctly, supports every
//! dialect, and reports lost updates and invalid measurements.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use serde_json::Value;
use syncline_log::memory::MemoryStore;
use syncline_server::auth::OpenToAll;
use syncline_server::config::RawConfig;
use syncline_server::{Listener, Server};
use tokio::runtime::Runtime;

const PROGRAM: &str = env!("CARGO_BIN_EXE_syncline-sim");
/// Exit code when the load generator was the bottleneck.
const SATURATED: i32 = 3;

/// The program under load.
enum Subject {
    Real { _server: Server, _runtime: Runtime, url: String },
    Floor { child: Child, url: String },
}

impl Subject {
    fn server() -> Self {
        let runtime = Runtime::new().unwrap();
        let raw = RawConfig { listen: Some("127.0.0.1:0".parse().unwrap()), ..RawConfig::default() };
        let config = raw.check().unwrap();
        let server = runtime.block_on(async {
            let listener = Listener::bind(config.listen).await.unwrap();
            Server::start(listener, &config, Arc::new(MemoryStore::new()), Arc::new(OpenToAll))
        });
        let url = format!("ws://{}", server.address());
        Self::Real { _server: server, _runtime: runtime, url }
    }

    fn floor(arguments: &[&str]) -> Self {
        let mut command = Command::new(PROGRAM);
        let mut child = command.arg("floor").args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().rsplit_once(' ').unwrap().1.to_owned();
        Self::Floor { child, url }
    }

    fn url(&self) -> &str {
        match self {
            Self::Real { url, .. } | Self::Floor { url, .. } => url,
        }
    }

    /// Runs `load` and returns its output.
    fn load(&self, arguments: &str) -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(["load", "--url", self.url(), "--json"]).args(arguments.split_whitespace());
        command.output().unwrap()
    }

    /// Runs `load`, which must succeed, and returns its report.
    fn report(&self, arguments: &str) -> Value {
        let output = self.load(&format!("{arguments} --allow-saturated"));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments}: {errors} {}", String::from_utf8_lossy(&output.stdout));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if let Self::Floor { child, .. } = self {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn figure(report: &Value, key: &str) -> f64 {
    report["figures"][key].as_f64().unwrap_or_else(|| panic!("no {key} in {report}"))
}

const SMALL: &str = "traffic --documents 3 --writers 2 --readers 3 --rate 50 --seconds 0.6 --warmup 0.1";

#[test]
fn update_is_delivered_to_every_other_connection_of_its_document() {
    for subject in [Subject::server(), Subject::floor(&[])] {
        let relay = matches!(subject, Subject::Floor { .. });
        let report = subject.report(SMALL);
        assert_eq!((report["ok"].as_bool(), report["relay"].as_bool()), (Some(true), Some(relay)), "{report}");
        // Each update goes to the four other connections of its document.
        let (sent, delivered) = (figure(&report, "sent"), figure(&report, "delivered"));
        assert!(sent > 0.0 && delivered == 4.0 * sent, "{report}");
        let measured = report["latency"]["count"].as_u64().unwrap() as f64;
        assert!(measured > 0.0 && measured <= delivered, "{report}");
        assert_eq!(report["ack_latency"].is_null(), relay, "only a server acknowledges: {report}");
    }
}

#[test]
fn every_dialect_works_with_awareness_and_with_windows() {
    let subject = Subject::server();
    for dialect in ["y-websocket", "hocuspocus", "native"] {
        let report = subject.report(&format!("{SMALL} --awareness --dialect {dialect}"));
        assert_eq!(report["dialect"], dialect);
        assert!(figure(&report, "awareness_per_s") > 0.0 && figure(&report, "acks_per_s") > 0.0, "{report}");
        let report = subject.report(&format!("ingest --in-flight 8 --seconds 0.3 --warmup 0 --dialect {dialect}"));
        assert!(figure(&report, "updates_per_s") > 0.0, "{report}");
        let durable = format!("durable --documents 5 --seconds 0.3 --warmup 0 --dialect {dialect}");
        assert!(figure(&subject.report(&durable), "acks_per_s") > 0.0);
        let report = subject.report(&format!("trace-flow --readers 2 --dialect {dialect}"));
        assert!(figure(&report, "until_all_have_it_s") > 0.0 && figure(&report, "right_readers") == 2.0, "{report}");
        assert_eq!(report["ack_latency"]["count"].as_f64(), Some(figure(&report, "updates")), "{report}");
    }
}

#[test]
fn document_of_a_trace_is_compared_with_its_end_later() {
    let subject = Subject::server();
    let trace = |name: &str| format!("--trace {}/../tests/fixtures/traces/{name}.json.gz", env!("CARGO_MANIFEST_DIR"));
    let (right, wrong) = (trace("sveltecomponent"), trace("automerge-paper"));
    subject.report(&format!("trace --readers 1 --document d {right}"));
    subject.report(&format!("trace --verify-only --document d {right}"));
    for (arguments, reason) in [
        (format!("trace --verify-only --document d {wrong}"), "wrong text"),
        (format!("trace --verify-only --document another {right}"), "wrong text"),
        (format!("trace --verify-only {right}"), "needs --document"),
        (format!("trace --document d {right}"), "not empty"),
    ] {
        let output = subject.load(&arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments}");
        let printed = [output.stdout, output.stderr].concat();
        assert!(
            String::from_utf8_lossy(&printed).contains(reason),
            "{arguments}: {}",
            String::from_utf8_lossy(&printed)
        );
    }
}

#[test]
fn missing_delivery_fails_the_run_and_is_named() {
    for subject in [Subject::server(), Subject::floor(&[])] {
        let output =
            subject.load("ingest --forget 40 --in-flight 4 --seconds 0.3 --warmup 0 --stall-s 1 --allow-saturated");
        assert_eq!(output.status.code(), Some(1));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["ok"], false);
        let failures = report["failures"].to_string();
        assert!(failures.contains("1 deliveries never arrived") && failures.contains("lacks 1 of"), "{failures}");
    }
    let subject = Subject::server();
    let output = subject.load("trace-flow --readers 1 --forget 5000 --stall-s 1 --allow-saturated");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("lacks"), "{output:?}");
}

#[test]
fn run_that_counts_acks_fails_when_server_sends_none() {
    let output =
        Subject::floor(&[]).load("durable --documents 2 --seconds 0.2 --warmup 0 --stall-s 1 --allow-saturated");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("acknowledged nothing"), "{output:?}");
}

#[test]
fn saturated_generator_prints_no_figures_unless_allowed() {
    // More than can be sent: the generator is never idle.
    let overload = "traffic --readers 10 --rate 5000000 --seconds 0.5 --warmup 0 --stall-s 60";
    let floor = Subject::floor(&[]);
    let output = floor.load(overload);
    assert_eq!(output.status.code(), Some(SATURATED), "{output:?}");
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--allow-saturated"), "{output:?}");
    assert_eq!(floor.report(overload)["saturated"], true);
}

#[test]
fn idle_and_storm_scenarios_complete() {
    let subject = Subject::server();
    let report = subject.report("idle --connections 50 --seconds 0.1");
    assert!(figure(&report, "connects_per_s") > 0.0);
    let report = subject.report("reconnect-storm --connections 40 --documents 4");
    assert!(figure(&report, "all_content_s") >= 0.0, "{report}");
    let report = subject.report("join-storm --connections 5 --bytes 2000000");
    assert!(figure(&report, "received_mib") > 8.0, "{report}");
    let floor = Subject::floor(&["--answer", "2000000"]);
    assert!(figure(&floor.report("join-storm --connections 5 --bytes 2000000"), "received_mib") > 8.0);
}

#[test]
fn stored_document_is_filled_then_opened() {
    let subject = Subject::server();
    let trace = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/traces/sveltecomponent.json.gz");
    subject.report(&format!("cold-open --prepare --document d --trace {trace}"));
    let report = subject.report("cold-open --document d");
    // 18,451 characters and their history.
    assert!(figure(&report, "first_bytes") > 18_451.0, "{report}");
    assert_eq!(figure(&report, "first_bytes"), figure(&report, "second_bytes"));
    let empty = subject.load("cold-open --document e");
    assert!(String::from_utf8_lossy(&empty.stderr).contains("empty"), "{empty:?}");
}

#[test]
fn plot_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("course.svg");
    Subject::floor(&[]).report(&format!("traffic --rate 100 --seconds 0.5 --warmup 0 --plot {}", path.display()));
    let drawn = std::fs::read_to_string(path).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.contains("deliveries/s"), "{drawn}");
}
