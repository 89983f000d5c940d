//! Documents for people who change the code name files that exist.

use std::path::Path;

/// Folders at the top: a path in a document begins with one of them.
const FOLDERS: &[&str] = &[
    "client",
    "client-sim",
    "console",
    "docs",
    "fuzz",
    "heap",
    "log",
    "protocol",
    "replica",
    "server",
    "simulation",
    "tests",
];

/// The paths between backquotes: `folder/…`, without a line number or a heading behind it.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).filter(|quoted| {
        let folder = quoted.split('/').next().unwrap_or_default();
        let is_path = quoted.contains('/') && quoted.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
        is_path && FOLDERS.contains(&folder)
    })
}

#[test]
fn files_that_documents_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut documents = vec!["protocol/SPEC.md".to_owned()];
    for folder in ["", "docs", "docs/decisions"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let name = entry.unwrap().file_name().to_string_lossy().into_owned();
            if name.ends_with(".md") {
                documents.push(format!("{folder}/{name}").trim_start_matches('/').to_owned());
            }
        }
    }
    let (mut named, mut missing) = (0, Vec::new());
    for document in documents {
        let text = std::fs::read_to_string(root.join(&document)).unwrap();
        for path in paths(&text) {
            named += 1;
            if !root.join(path).exists() && !path.starts_with("docs/history/") {
                missing.push(format!("{document}: {path}"));
            }
        }
    }
    assert!(named > 200, "only {named} paths were found");
    assert!(missing.is_empty(), "{missing:#?}");
}
