//! Checks the rules of the code base: every file has a module doc, files have a limited length, and imports follow one
//! direction. `ARCHITECTURE.md` describes the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Longer files must be split.
const MAX_LINES: usize = 420;

/// Allowed imports inside `server/src`: (folder or file, the modules of the crate it may not use).
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("document/", &["registry", "dialect", "session", "server", "http", "auth", "config", "cli"]),
    ("document/core.rs", &["outbox", "metrics"]),
    ("document/awareness.rs", &["outbox", "metrics", "document"]),
    ("registry", &["dialect", "session", "server", "http", "auth", "config", "cli"]),
    ("dialect/", &["admin", "session", "server", "http", "config", "cli"]),
    ("session/", &["admin", "server", "http", "config", "cli"]),
    ("http/", &["admin", "server", "session", "config", "cli"]),
    ("http/routes.rs", &["registry", "document", "dialect"]),
    ("http/page.rs", &["registry", "document", "dialect"]),
    ("admin/", &["registry", "document", "dialect", "session", "server", "config", "cli"]),
    (
        "import_export.rs",
        &["admin", "document", "registry", "dialect", "session", "server", "http", "auth", "config", "cli"],
    ),
    ("outbox.rs", &["document", "registry", "dialect", "session", "server", "http", "auth", "config", "cli"]),
    ("auth", &["document", "registry", "dialect", "session", "server", "http", "config", "cli"]),
    ("limits", &["document", "registry", "dialect", "session", "server", "http", "auth", "config", "cli"]),
    ("metrics.rs", &["document", "registry", "dialect", "session", "server", "http", "auth", "config", "cli"]),
];

/// The server's code outside of `dialect/` that may not know how a dialect writes a message.
const WITHOUT_DIALECTS: &[&str] = &["document/", "registry", "outbox", "session/"];

/// Names of the dialects and their messages. (`protocol::native::Cursor` and `Resume` are data, not messages.)
const DIALECT_WORDS: &[&str] =
    &["ywebsocket", "hocuspocus", "YWebsocket", "Hocuspocus", "ysweet", "YSweet", "ToClient", "ToServer"];

/// Allowed imports inside `client-sim/src`: speed and loss are measured by separate wings over the same `peer`.
const FORBIDDEN_IN_SIM: &[(&str, &[&str])] = &[
    ("load/", &["faults"]),
    ("faults/", &["load"]),
    ("peer/", &["load", "faults", "server", "proc", "report"]),
    ("server.rs", &["load", "faults", "peer"]),
    ("report.rs", &["load", "faults", "peer", "server"]),
    ("proc.rs", &["load", "faults", "peer", "server"]),
    ("faults/oracle", &["faults::scenario", "faults::durability", "faults::network", "peer", "server"]),
    ("faults/judgement.rs", &["faults", "peer", "server"]),
];

/// Repeats the names of the asynchronous API, whose blocking versions it defines.
const MIRRORED_NAMES: &str = "client/src/blocking.rs";

/// Names that a file with `PURE` in its first line may not use: a runtime, a clock, randomness, I/O.
const IMPURE_WORDS: &[&str] =
    &["tokio::", "Instant::now", "SystemTime", "rand::", "std::fs", "TcpStream", "UdpSocket", "ToSocketAddrs"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every Rust source of the workspace, as (path from the root, text).
pub(super) fn sources() -> Vec<(String, String)> {
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
            let from_root = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            found.push((from_root, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The code of a file without its tests, which may use anything, and without comments.
pub(super) fn code_of(path: &str, text: &str) -> String {
    if path.ends_with("tests.rs") {
        return String::new();
    }
    // Tests below the code end the file; a declaration of tests in a file of their own does not.
    let text = text.replace("#[cfg(test)]\nmod tests;", "");
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn every_file_begins_with_a_module_doc() {
    let undocumented: Vec<_> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(path, _)| path).collect();
    assert!(undocumented.is_empty(), "no module doc in the first line: {undocumented:#?}");
}

#[test]
fn no_file_exceeds_the_line_limit() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .collect();
    assert!(long.is_empty(), "files with more than {MAX_LINES} lines must be split: {long:#?}");
}

#[test]
fn no_module_is_included_by_path() {
    let is_included = |text: &str| text.lines().any(|line| line.trim_start().starts_with("#[path"));
    let including: Vec<_> = sources().into_iter().filter(|(_, text)| is_included(text)).map(|(path, _)| path).collect();
    assert!(including.is_empty(), "shared code belongs in a library, `tests/src` for tests: {including:#?}");
}

#[test]
fn server_imports_follow_one_direction() {
    assert_imports("server/src/", FORBIDDEN);
}

#[test]
fn simulator_imports_follow_one_direction() {
    assert_imports("client-sim/src/", FORBIDDEN_IN_SIM);
}

fn assert_imports(sources_of: &str, rules: &[(&str, &[&str])]) {
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for (path, text) in sources() {
        let Some(inside) = path.strip_prefix(sources_of) else { continue };
        for (of, forbidden) in rules.iter().filter(|(of, _)| inside.starts_with(of)) {
            checked += 1;
            for module in *forbidden {
                // Tests of documents may encode with the real dialects.
                let text = if *module == "dialect" { &code_of(&path, &text) } else { &text };
                if text.contains(&format!("crate::{module}::")) || text.contains(&format!("crate::{module};")) {
                    wrong.push(format!("{path} names {module}, which {of} may not"));
                }
            }
        }
    }
    assert!(checked >= rules.len(), "a rule for {sources_of} applies to no file");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_dialects_name_dialects() {
    let mut seen = 0;
    for (path, text) in sources() {
        let Some(inside) = path.strip_prefix("server/src/") else { continue };
        if WITHOUT_DIALECTS.iter().any(|of| inside.starts_with(of)) {
            let code = code_of(&path, &text);
            seen += usize::from(!code.is_empty());
            for word in DIALECT_WORDS {
                assert!(!code.contains(word), "{path} names {word}: only `dialect/` may");
            }
        }
    }
    assert!(seen > 50, "only {seen} files were found");
}

#[test]
fn every_route_is_listed_in_one_file() {
    for (path, text) in sources() {
        let adds_routes = text.contains("Router::new()") || text.contains(".route(\"");
        assert!(
            !path.starts_with("server/src/") || adds_routes == (path == "server/src/http/routes.rs"),
            "{path}: routes belong in server/src/http/routes.rs"
        );
    }
}

#[test]
fn types_of_a_crate_have_names_of_their_own() {
    let sources = sources();
    let tests = test_modules(&sources);
    let mut defined: Vec<(String, String, String)> = Vec::new();
    for (path, text) in &sources {
        let is_test = path.ends_with("tests.rs") || tests.iter().any(|module| path.starts_with(module));
        let Some((krate, _)) = path.split_once("/src/").filter(|_| !is_test && path != MIRRORED_NAMES) else {
            continue;
        };
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
        defined
            .extend(code.lines().filter_map(type_name).map(|name| (krate.to_owned(), name.to_owned(), path.clone())));
    }
    defined.sort();
    assert!(defined.len() > 800, "only {} types were found", defined.len());
    let twice: Vec<_> =
        defined.windows(2).filter(|pair| (&pair[0].0, &pair[0].1) == (&pair[1].0, &pair[1].1)).collect();
    assert!(twice.is_empty(), "one name for two types: {twice:#?}");
}

/// The name of the type that a line defines at the top level of its file.
fn type_name(line: &str) -> Option<&str> {
    let visibility = line.strip_prefix("pub").map_or(0, |rest| match rest.strip_prefix('(') {
        Some(rest) => "pub() ".len() + rest.find(')').unwrap_or_default(),
        None => "pub ".len(),
    });
    let line = line.get(visibility..)?;
    let rest = ["struct ", "enum ", "trait ", "type "].iter().find_map(|keyword| line.strip_prefix(keyword))?;
    rest.split(|c: char| !c.is_alphanumeric()).next()
}

/// Paths of the modules that are declared as tests, without an ending: a file or a folder.
fn test_modules(sources: &[(String, String)]) -> Vec<String> {
    let mut modules = Vec::new();
    for (path, text) in sources {
        let (folder, file) = path.rsplit_once('/').unwrap_or_default();
        let folder = match file {
            "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
            _ => path.trim_end_matches(".rs").to_owned(),
        };
        let declared =
            text.split("#[cfg(test)]\n").skip(1).filter_map(|rest| rest.strip_prefix("mod ")?.split_once(';'));
        modules.extend(declared.map(|(module, _)| format!("{folder}/{module}")));
    }
    modules
}

#[test]
fn only_the_log_uses_sled_and_the_server_uses_no_yrs() {
    for (path, text) in sources() {
        for item in ["Db", "Tree", "Batch", "IVec", "Config", "open("] {
            let named = text.contains(&format!("sled::{item}"));
            assert!(!named || path.starts_with("log/") || path.starts_with("tests/"), "{path} names sled::{item}");
        }
        if path.starts_with("server/src/") {
            assert!(!code_of(&path, &text).contains("yrs::"), "{path} names yrs");
        }
    }
}

/// The files of `Core`, as (path from the root, text).
fn core_of_a_document() -> Vec<(String, String)> {
    let is_core = |path: &str| path.starts_with("server/src/document/core");
    let core: Vec<_> = sources().into_iter().filter(|(path, _)| is_core(path)).collect();
    assert!(core.len() > 10, "the core was not found");
    core
}

#[test]
fn pure_core_of_a_document_does_not_use_the_log() {
    let beside = ["event.rs", "awareness.rs", "recent_changes.rs"].map(|file| format!("server/src/document/{file}"));
    let beside = beside.map(|path| (path.clone(), std::fs::read_to_string(root().join(path)).unwrap()));
    for (path, text) in core_of_a_document().into_iter().chain(beside) {
        assert!(!text.contains("syncline_log"), "{path} names the log");
    }
}

#[test]
fn core_of_a_document_has_one_door() {
    let mut doors = Vec::new();
    for (_, text) in core_of_a_document() {
        for function in text.split("\n    pub fn ").skip(1) {
            let (name, parameters) = function.split_once('(').unwrap();
            // `all_awareness` caches its answer.
            if parameters.trim_start().starts_with("&mut self") && name != "all_awareness" {
                doors.push(name.to_owned());
            }
        }
    }
    assert_eq!(doors, ["handle"], "what changes the document is an event");
}

/// Most files with an inherent `impl` of one type: a type that needs more has several states in it.
const MAX_FILES_OF_A_TYPE: usize = 3;

#[test]
fn type_of_the_server_is_implemented_in_few_files() {
    let mut files: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in sources() {
        if !path.starts_with("server/src/") {
            continue;
        }
        for line in code_of(&path, &text).lines() {
            let inherent =
                line.strip_prefix("impl").filter(|rest| rest.starts_with([' ', '<']) && !rest.contains(" for "));
            let Some(rest) = inherent else { continue };
            let rest =
                rest.split_once("> ").map_or(rest, |(generics, of)| if generics.starts_with('<') { of } else { rest });
            let name: String = rest.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            files.entry(name).or_default().insert(path.clone());
        }
    }
    assert!(files.len() > 100, "only {} types were found", files.len());
    files.retain(|_, files| files.len() > MAX_FILES_OF_A_TYPE);
    assert!(files.is_empty(), "divide the type, not its text: {files:#?}");
}

#[test]
fn files_marked_pure_are_pure() {
    let pure: Vec<_> = sources().into_iter().filter(|(_, text)| text.starts_with("//! PURE")).collect();
    assert!(pure.len() > 50, "only {} files are marked PURE", pure.len());
    for (path, text) in pure {
        let code = code_of(&path, &text);
        for word in IMPURE_WORDS {
            assert!(!code.contains(word), "{path} is marked PURE, but names {word}");
        }
    }
}

#[test]
fn protocol_depends_on_no_crdt_and_no_runtime() {
    let manifest = std::fs::read_to_string(root().join("protocol/Cargo.toml")).unwrap();
    for dependency in ["yrs", "tokio", "sled"] {
        assert!(!manifest.contains(dependency), "protocol depends on {dependency}");
    }
}

#[test]
fn lock_files_name_no_registry_host() {
    for lock in ["console/package-lock.json", "tests/node/package-lock.json"] {
        let text = std::fs::read_to_string(root().join(lock)).unwrap();
        assert!(!text.contains("\"resolved\": \"http"), "{lock} contains the address packages were fetched from");
    }
}
