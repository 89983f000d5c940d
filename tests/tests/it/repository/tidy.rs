//! The house rules, held by a test: every file says what it is for, stays readable in length, and imports point one
//! way; `ARCHITECTURE.md` tells them to people.

use std::path::{Path, PathBuf};

/// A file is a room. Longer ones are divided.
const MAX_LINES: usize = 420;

/// Who may use whom inside `server/src`: (folder or file, the crate modules it may not name).
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("document/", &["registry", "session", "server", "http", "auth", "config", "cli"]),
    ("document/core.rs", &["outbox", "metrics"]),
    ("document/awareness.rs", &["outbox", "metrics", "document"]),
    ("registry", &["session", "server", "http", "auth", "config", "cli"]),
    ("session/", &["admin", "server", "http", "config", "cli"]),
    ("http/", &["server", "session", "registry", "document", "cli"]),
    ("admin/", &["session", "server", "http", "config", "cli"]),
    ("import_export.rs", &["admin", "document", "registry", "session", "server", "http", "auth", "config", "cli"]),
    ("outbox.rs", &["document", "registry", "session", "server", "http", "auth", "config", "cli"]),
    ("auth.rs", &["document", "registry", "session", "server", "http", "config", "cli"]),
    ("limits", &["document", "registry", "session", "server", "http", "auth", "config", "cli"]),
    ("metrics.rs", &["document", "registry", "session", "server", "http", "auth", "config", "cli"]),
];

/// What a file that calls itself PURE in its first line does not name: a runtime, a clock, randomness, I/O.
const IMPURE_WORDS: &[&str] =
    &["tokio::", "Instant::now", "SystemTime", "rand::", "std::fs", "TcpStream", "UdpSocket", "ToSocketAddrs"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every Rust source of the workspace, as (path from the top, text).
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for krate in ["protocol", "replica", "log", "heap", "server", "client", "client-sim", "simulation", "tests", "fuzz"]
    {
        collect(&root().join(krate), &mut found);
    }
    assert!(found.len() > 30, "the sources were not found");
    found
}

fn collect(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !["target", "node_modules", "node", "fixtures"].contains(&name.as_str()) {
            collect(&path, found);
        } else if name.ends_with(".rs") {
            let from_top = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            found.push((from_top, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn every_file_begins_with_what_it_is_for() {
    let silent: Vec<_> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(path, _)| path).collect();
    assert!(silent.is_empty(), "no module doc in the first line: {silent:#?}");
}

#[test]
fn no_file_is_too_long_to_read() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .collect();
    assert!(long.is_empty(), "over {MAX_LINES} lines, divide them: {long:#?}");
}

#[test]
fn no_module_is_included_by_path() {
    let is_included = |text: &str| text.lines().any(|line| line.trim_start().starts_with("#[path"));
    let including: Vec<_> = sources().into_iter().filter(|(_, text)| is_included(text)).map(|(path, _)| path).collect();
    assert!(including.is_empty(), "shared code belongs in a library, `tests/src` for tests: {including:#?}");
}

#[test]
fn imports_inside_the_server_point_one_way() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(inside) = path.strip_prefix("server/src/") else { continue };
        for (of, forbidden) in FORBIDDEN.iter().filter(|(of, _)| inside.starts_with(of)) {
            for module in *forbidden {
                if text.contains(&format!("crate::{module}::")) || text.contains(&format!("crate::{module};")) {
                    wrong.push(format!("{path} names {module}, which {of} may not"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn sled_has_one_home_and_the_server_reaches_yrs_through_the_replica() {
    for (path, text) in sources() {
        for item in ["Db", "Tree", "Batch", "IVec", "Config", "open("] {
            let named = text.contains(&format!("sled::{item}"));
            assert!(!named || path.starts_with("log/") || path.starts_with("tests/"), "{path} names sled::{item}");
        }
        if path.starts_with("server/src/") && !path.ends_with("tests.rs") {
            // Tests, here those below the code, may make updates with it.
            let code = text.split("#[cfg(test)]").next().unwrap_or(&text);
            assert!(!code.contains("yrs::"), "{path} names yrs");
        }
    }
}

#[test]
fn the_pure_core_of_a_document_names_no_log() {
    for pure in ["core.rs", "core/native.rs", "core/registers.rs", "awareness.rs", "recent_changes.rs"]
        .map(|file| format!("server/src/document/{file}"))
    {
        let text = std::fs::read_to_string(root().join(&pure)).unwrap();
        assert!(!text.contains("syncline_log"), "{pure} names the log");
    }
}

#[test]
fn what_is_called_pure_is_pure() {
    let pure: Vec<_> = sources().into_iter().filter(|(_, text)| text.starts_with("//! PURE")).collect();
    assert!(pure.len() > 50, "only {} files call themselves pure", pure.len());
    for (path, text) in pure {
        // Tests, here those below the code, may use anything.
        let code = text.split("#[cfg(test)]").next().unwrap_or(&text);
        let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        for word in IMPURE_WORDS {
            assert!(!code.contains(word), "{path} is pure, but names {word}");
        }
    }
}

#[test]
fn the_protocol_knows_no_crdt_and_no_runtime() {
    let manifest = std::fs::read_to_string(root().join("protocol/Cargo.toml")).unwrap();
    for dependency in ["yrs", "tokio", "sled"] {
        assert!(!manifest.contains(dependency), "protocol depends on {dependency}");
    }
}

#[test]
fn lock_files_name_no_registry_host() {
    for lock in ["console/package-lock.json", "tests/node/package-lock.json"] {
        let text = std::fs::read_to_string(root().join(lock)).unwrap();
        assert!(!text.contains("\"resolved\": \"http"), "{lock} names where packages were fetched from");
    }
}
