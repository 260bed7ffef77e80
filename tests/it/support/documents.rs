//! The documents of the tree. What they show is true: tests take commands, code and claims from them.

use crate::support::sources;
use std::fs::{read_dir, read_to_string};
use std::path::Path;

/// A file of the tree, such as `README.md` or `static/deploy/nginx.conf`.
pub fn document(path: &str) -> String {
    read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Each Markdown file of the tree, with its path.
pub fn documents() -> Vec<(String, String)> {
    let mut found: Vec<String> = vec![];
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = format!("{folder}{name}");
            if entry.file_type().unwrap().is_dir() {
                let known = ["src", "static", "tests"].iter().any(|root| path.starts_with(root));
                folders.extend(known.then(|| format!("{path}/")));
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found.into_iter().map(|path| (path.clone(), document(&path))).collect()
}

/// The code blocks of a language in a document.
pub fn blocks(path: &str, language: &str) -> Vec<String> {
    let start = format!("```{language}\n");
    let text = document(path);
    text.split(&start).skip(1).map(|block| block.split("```").next().unwrap().to_string()).collect()
}

/// The block of text in a document that begins like this.
pub fn text_block(path: &str, begin: &str) -> String {
    blocks(path, "text").into_iter().find(|block| block.starts_with(begin)).unwrap_or_else(|| panic!("{path}: {begin}"))
}

/// The manual of a folder of `src` lists its files for readers of the code: all of them, in reading order, each with what to
/// look for in it. And the tests that it names are there.
pub fn lists_its_files(folder: &str) {
    let manual = document(&format!("{folder}/README.md"));
    let quoted = |text: &str| text.split('`').skip(1).step_by(2).map(String::from).collect::<Vec<_>>();
    let (_, list) = manual.split_once("\n## For readers of the code\n").unwrap();
    let rows = list.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let rows: Vec<_> = rows.map(|(file, row)| (file.to_string(), quoted(row.split(" | ").nth(1).unwrap()))).collect();
    let code = document(&format!("{folder}/mod.rs"));
    let modules = code.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let files: Vec<_> = modules.chain(["mod"]).map(|name| format!("{name}.rs")).collect();
    assert_eq!(rows.iter().map(|row| row.0.clone()).collect::<Vec<_>>(), files, "{folder}/README.md");
    for (file, names) in rows {
        let code = document(&format!("{folder}/{file}"));
        for name in names {
            assert!(code.contains(&format!("fn {name}")), "{folder}/{file} has no {name}");
        }
    }
    let is_test = |word: &String| word.matches('_').count() > 1 && !word.contains(char::is_whitespace);
    let tests = sources::tests();
    for word in quoted(&manual).iter().filter(|word| is_test(word) && !word.starts_with("tincan_")) {
        assert!(tests.contains(&format!("fn {word}()")), "{folder}/README.md: there is no test {word}");
    }
}
