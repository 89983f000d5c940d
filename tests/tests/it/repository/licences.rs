//! Each crate, and each npm package that the console is built from, has a licence compatible with MIT OR Apache-2.0. A failure
//! lists the packages with other licences.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use spdx::{Expression, ParseMode};

/// Permissive licences that require only that their text is kept. Any other licence needs a decision (docs/decisions/).
const ALLOWED: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "0BSD",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
];
/// Also allowed for tools that build the console but are not part of it (MPL applies file by file, and ours are not affected).
const ALLOWED_FOR_TOOLS: &[&str] = &["MPL-2.0"];

fn is_allowed(licence: &str, also: &[&str]) -> bool {
    let lax = ParseMode { allow_slash_as_or_operator: true, ..ParseMode::STRICT };
    Expression::parse_mode(licence, lax).is_ok_and(|expression| {
        expression.evaluate(|requirement| {
            let id = requirement.license.id().map(|id| id.name);
            id.is_some_and(|id| ALLOWED.contains(&id) || also.contains(&id))
        })
    })
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

#[test]
fn every_crate_has_a_compatible_licence() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let metadata =
        Command::new(cargo).args(["metadata", "--format-version=1", "--locked"]).current_dir(root()).output().unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "only {} packages: is this the whole tree?", packages.len());
    let refused: Vec<_> = packages
        .iter()
        .filter(|package| !package["license"].as_str().is_some_and(|licence| is_allowed(licence, &[])))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn every_npm_package_of_the_console_has_a_compatible_licence() {
    let lock = std::fs::read(root().join("console/package-lock.json")).unwrap();
    let lock: Value = serde_json::from_slice(&lock).unwrap();
    let packages = lock["packages"].as_object().unwrap();
    assert!(packages.len() > 10);
    let refused: Vec<_> = packages
        .iter()
        .filter(|(path, package)| {
            let also = if package["dev"] == true { ALLOWED_FOR_TOOLS } else { &[] };
            // The empty path is the console itself.
            !path.is_empty() && !package["license"].as_str().is_some_and(|licence| is_allowed(licence, also))
        })
        .map(|(path, package)| format!("{path}: {}", package["license"]))
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn incompatible_licences_are_refused() {
    assert!(is_allowed("MIT/Apache-2.0", &[]) && is_allowed("(MIT OR Apache-2.0) AND Unicode-3.0", &[]));
    for licence in ["GPL-3.0-only", "MIT AND GPL-3.0-only", "AGPL-3.0-or-later", "MPL-2.0", "Proprietary", ""] {
        assert!(!is_allowed(licence, &[]), "{licence}");
    }
}
