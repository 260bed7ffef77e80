//! The documents of the tree. Their content is true: tests take commands, code and claims from them.

use std::fs::{read_dir, read_to_string};
use std::path::Path;

/// Returns the text of a file of the tree, such as `README.md` or `static/deploy/nginx.conf`.
pub fn document(path: &str) -> String {
    read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns each Markdown file of the tree: its path and its text.
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

/// Returns a document's code blocks in a language.
pub fn blocks(path: &str, language: &str) -> Vec<String> {
    let start = format!("```{language}\n");
    let text = document(path);
    text.split(&start).skip(1).map(|block| block.split("```").next().unwrap().to_string()).collect()
}

/// Returns the block of text in a document that begins with `begin`.
pub fn text_block(path: &str, begin: &str) -> String {
    blocks(path, "text").into_iter().find(|block| block.starts_with(begin)).unwrap_or_else(|| panic!("{path}: {begin}"))
}

/// Returns the words of a text that are in backticks.
pub fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Returns the relative links of a document, except those in its code.
pub fn links(text: &str) -> Vec<String> {
    let prose: String = text.split("```").step_by(2).collect();
    let links = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    links.filter(|link| !link.contains("://")).map(String::from).collect()
}

/// Returns the headings of a document as links name them: small letters, digits and hyphens.
pub fn headings(text: &str) -> Vec<String> {
    let prose: String = text.split("\n```").step_by(2).collect();
    let headings = prose.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let named = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    let name = |c: char| if c == ' ' { Some('-') } else { Some(c).filter(|c| named(*c)) };
    headings.map(|heading| heading.to_lowercase().chars().filter_map(name).collect()).collect()
}
