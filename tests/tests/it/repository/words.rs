//! The project's text is plain technical English: the words of its former idiom stay out.
//!
//! Until November 2026 comments, messages and names described data as if it talked. A stranger had to translate every
//! sentence, so the words that marked that idiom are rejected here: in text, and in names, whose parts count as words. Use the noun of the field: an acknowledgement, a pending update, a
//! notification. "At once" is ambiguous: write "immediately" or "at the same time".

use std::path::Path;

/// Lower case, words separated by single spaces.
const REJECTED: &[&str] = &[
    "told",
    "tells",
    "said",
    "says",
    "news",
    "whoever",
    "heard",
    "hears",
    "gives back",
    "comes back",
    "is whole",
    "as many as",
    "by itself",
    "at once",
    "seen red",
    "in vain",
    "lies in",
    "stands in",
    "set free",
    "no longer has",
    "goes on",
    "what comes",
    "what waits",
];
const EXTENSIONS: &[&str] = &["rs", "md", "mjs", "ts", "html", "toml", "css", "yml"];
/// Text of others, generated files, records of what was measured, and this list.
const SKIPPED: &[&str] =
    &["target", "node_modules", "fixtures", "dist", "corpus", "docs/history", "tests/tests/it/repository/words.rs"];

/// The words of a line, lower case: names are divided at capitals and underscores. A `|` stands for other punctuation, which
/// ends a phrase.
fn words(text: &str) -> String {
    let mut words = String::with_capacity(text.len() + 2);
    words.push(' ');
    let mut was_lower = false;
    for character in text.chars() {
        if character.is_ascii_alphanumeric() {
            if was_lower && character.is_ascii_uppercase() {
                words.push(' ');
            }
            words.push(character.to_ascii_lowercase());
        } else {
            if !words.ends_with(' ') {
                words.push(' ');
            }
            if !character.is_whitespace() && character != '_' {
                words.push_str("| ");
            }
        }
        was_lower = character.is_ascii_lowercase();
    }
    words.push(' ');
    words
}

fn search(folder: &Path, root: &Path, searched: &mut usize, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let from_root = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with(".git") || SKIPPED.iter().any(|skipped| *skipped == name || *skipped == from_root) {
            continue;
        }
        if path.is_dir() {
            search(&path, root, searched, found);
        } else if path.extension().is_some_and(|extension| EXTENSIONS.iter().any(|one| *one == extension)) {
            *searched += 1;
            for (number, line) in std::fs::read_to_string(&path).unwrap().lines().enumerate() {
                let words = words(line);
                let rejected = REJECTED.iter().filter(|rejected| words.contains(&format!(" {rejected} ")));
                found.extend(
                    rejected.map(|rejected| format!("{from_root}:{}: {rejected:?}: {}", number + 1, line.trim())),
                );
            }
        }
    }
}

#[test]
fn the_words_of_the_former_idiom_are_found_in_text_and_in_names() {
    for (text, word) in [
        ("/// The reader is told.", "told"),
        ("fn take_told(&mut self)", "told"),
        ("struct ToldRanges;", "told"),
        ("AtOnce", "at once"),
        ("what  it\tsays, when", "says"),
    ] {
        assert!(words(text).contains(&format!(" {word} ")), "{text}");
    }
    for (text, word) in [("newspaper", "news"), ("unheard", "heard"), ("failed_at: OnceLock", "at once")] {
        assert!(!words(text).contains(&format!(" {word} ")), "{text}");
    }
}

#[test]
fn text_and_names_are_plain_english() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let (mut searched, mut found) = (0, Vec::new());
    search(root, root, &mut searched, &mut found);
    assert!(searched > 300, "only {searched} files were found");
    assert!(found.is_empty(), "{} lines with words of the former idiom:\n{}", found.len(), found.join("\n"));
}
