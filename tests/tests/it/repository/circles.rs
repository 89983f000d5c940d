//! Imports between the files of a crate form no circle: each file can be read after those that it uses. A module and the
//! files below it count as one direction, whichever imports the other.

use std::collections::{BTreeMap, BTreeSet};

use super::tidy::{code_of, sources};

/// The crates that hold the rule. `replica`, `log` and `client` do not yet.
const CRATES: &[&str] = &["protocol", "server", "client-sim", "simulation"];

type Path = Vec<String>;

/// The module of a file: `core/acks.rs` is `core::acks`, `core.rs` and `core/mod.rs` are `core`.
fn module_of(file: &str) -> Path {
    let mut parts: Path = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        parts.pop();
    }
    parts
}

/// The paths of a `use`, without braces: `a::{b, c::{d, e}}` is `a::b`, `a::c::d` and `a::c::e`.
fn expand(tree: &str) -> Vec<String> {
    let Some((prefix, rest)) = tree.split_once('{') else { return vec![tree.to_owned()] };
    let (mut depth, mut items, mut item) = (0, Vec::new(), String::new());
    for character in rest.strip_suffix('}').unwrap_or(rest).chars() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(std::mem::take(&mut item));
                continue;
            }
            _ => {}
        }
        item.push(character);
    }
    items.push(item);
    items.iter().filter(|item| !item.is_empty()).flat_map(|item| expand(&format!("{prefix}{item}"))).collect()
}

/// The paths in this crate that the code of a module imports, from the crate's root.
fn imports(module: &Path, code: &str) -> Vec<Path> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let starts_line = code[..at].lines().next_back().is_none_or(|line| {
            code[..at].ends_with('\n') || line.trim_start().starts_with("pub") || line.trim().is_empty()
        });
        let Some((tree, _)) = code[at + 4..].split_once(';').filter(|_| starts_line) else { continue };
        let tree: String = tree.split_whitespace().collect();
        for path in expand(&tree) {
            let mut parts = path.split("::").map(str::to_owned).peekable();
            let mut from = match parts.peek().map(String::as_str) {
                Some("crate") => Vec::new(),
                Some("self" | "super") => module.clone(),
                _ => continue,
            };
            for part in parts {
                match part.as_str() {
                    "crate" | "self" => {}
                    "super" => drop(from.pop()),
                    _ => from.push(part),
                }
            }
            found.push(from);
        }
    }
    found
}

/// A circle in a graph, as the modules on it. `None`: there is none.
fn find_circle(graph: &BTreeMap<Path, BTreeSet<Path>>) -> Option<Vec<Path>> {
    fn visit(
        at: &Path,
        graph: &BTreeMap<Path, BTreeSet<Path>>,
        trail: &mut Vec<Path>,
        done: &mut BTreeSet<Path>,
    ) -> Option<Vec<Path>> {
        if let Some(start) = trail.iter().position(|before| before == at) {
            return Some(trail[start..].to_vec());
        }
        if done.contains(at) {
            return None;
        }
        trail.push(at.clone());
        let circle = graph.get(at).into_iter().flatten().find_map(|to| visit(to, graph, trail, done));
        trail.pop();
        done.insert(at.clone());
        circle
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|at| visit(at, graph, &mut Vec::new(), &mut done))
}

#[test]
fn imports_between_files_form_no_circle() {
    for krate in CRATES {
        let root = format!("{krate}/src/");
        let modules: BTreeMap<Path, String> = sources()
            .iter()
            .filter_map(|(path, text)| Some((module_of(path.strip_prefix(&root)?), code_of(path, text))))
            .collect();
        let mut graph: BTreeMap<Path, BTreeSet<Path>> = BTreeMap::new();
        for (module, code) in &modules {
            for mut to in imports(module, code) {
                while !to.is_empty() && !modules.contains_key(&to) {
                    to.pop();
                }
                let is_same_room = to.starts_with(module) || module.starts_with(&to);
                if !is_same_room {
                    graph.entry(module.clone()).or_default().insert(to);
                }
            }
        }
        assert!(graph.len() > modules.len() / 4, "{krate}: only {} files import others", graph.len());
        let circle = find_circle(&graph).map(|circle| circle.iter().map(|path| path.join("::")).collect::<Vec<_>>());
        assert_eq!(circle, None, "{krate}: these files import each other");
    }
}

#[test]
fn circle_is_found_in_nested_imports() {
    let path = |text: &str| text.split("::").map(str::to_owned).collect::<Path>();
    let code = "use std::fmt;\npub(crate) use crate::a::{b, c::{D, E}};\nuse super::x::Y;\n";
    let expected = ["a::b", "a::c::D", "a::c::E", "m::x::Y"].map(path);
    assert_eq!(imports(&path("m::n"), code), expected);
    let graph = |edges: &[(&str, &str)]| {
        let mut graph: BTreeMap<Path, BTreeSet<Path>> = BTreeMap::new();
        edges.iter().for_each(|(from, to)| _ = graph.entry(path(from)).or_default().insert(path(to)));
        graph
    };
    assert_eq!(find_circle(&graph(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    let circle = find_circle(&graph(&[("a", "b"), ("b", "c"), ("c", "b")]));
    assert_eq!(circle, Some(vec![path("b"), path("c")]));
}
