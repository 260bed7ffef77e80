//! The rules of the repository for its sources: reading order, size, and words that must not occur.

use crate::support::documents::{document, documents, headings, links, quoted};
use crate::support::wings::{is_gone, went_with_its_wing};
use std::fs::{read_dir, read_to_string};
use std::path::Path;

/// A source file.
struct Source {
    /// The path below `src`.
    path: String,
    text: String,
}

impl Source {
    fn is_core(&self) -> bool {
        !self.path.starts_with("wings/")
    }

    /// Returns the lines that are not comments, with their numbers.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(n, line)| (n + 1, line)).filter(|(_, line)| !line.trim().starts_with("//"))
    }
}

fn read(path: &str) -> Source {
    let text = read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path)).unwrap();
    Source { path: path.into(), text }
}

/// Returns the source files in reading order: as `pub mod` lists them, and each `mod.rs` after the files that it lists.
fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    read_folder("", read("lib.rs"), &mut sources);
    sources.push(read("main.rs"));
    sources
}

fn read_folder(folder: &str, list: Source, sources: &mut Vec<Source>) {
    let modules: Vec<String> =
        list.text.lines().filter_map(|line| line.strip_prefix("pub mod ")).map(String::from).collect();
    for name in modules.iter().map(|line| line.trim_end_matches(';')) {
        let path = format!("{folder}{name}.rs");
        if Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(&path).exists() {
            sources.push(read(&path));
        } else {
            let folder = format!("{folder}{name}/");
            read_folder(&folder, read(&format!("{folder}mod.rs")), sources);
        }
    }
    sources.push(list);
}

/// Returns the files of the examples in `src`. They are no part of the library or of the binary: they are not in the
/// reading order, and their size does not count.
fn examples() -> Vec<Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files(&src, &mut paths);
    let below = |path: &String| path.strip_prefix(&format!("{}/", src.display())).unwrap().to_string();
    let paths = paths.iter().map(below);
    paths.filter(|path| EXAMPLES.contains(&path.split(['/', '.']).next().unwrap())).map(|path| read(&path)).collect()
}

/// The names of the examples: each is a file or a folder.
const EXAMPLES: [&str; 2] = ["seed", "judge"];

/// Collects the paths of all Rust files below a folder.
fn files(folder: &Path, found: &mut Vec<String>) {
    for entry in read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path.to_str().unwrap().into());
        }
    }
}

/// Counts the identifiers, literals and operators of a source text. Comments and white space do not count, so clear
/// names and empty lines are free.
///
/// Shortcut: `//` begins a comment even in a string.
fn tokens(text: &str) -> usize {
    let text = without_comments(text);
    let mut rest = text.as_str();
    let mut count = 0;
    while let Some(first) = rest.chars().next() {
        count += usize::from(!first.is_whitespace());
        rest = &rest[token(rest, first)..];
    }
    count
}

fn without_comments(mut text: &str) -> String {
    let mut code = String::new();
    while let Some(begin) = text.find("/*")
        && let Some(length) = text[begin + 2..].find("*/")
    {
        code += &text[..begin];
        text = &text[begin + 2 + length + 2..];
    }
    code += text;
    code.split('\n').map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Returns the length of the token at the beginning of a text, or of the white space character there.
fn token(text: &str, first: char) -> usize {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let run = |fits: &dyn Fn(char) -> bool| text.find(|c| !fits(c)).unwrap_or(text.len());
    const OPERATORS: [&str; 7] = ["->", "=>", "::", "..=", "..", "&&", "||"];
    let operator = OPERATORS.into_iter().find(|operator| text.starts_with(operator)).map(str::len);
    let compound = || {
        let assigns = "-+*/%^&|=!<>".contains(first) && text[1..].starts_with('=');
        (assigns || text.starts_with("<<") || text.starts_with(">>")).then_some(2)
    };
    if let Some(length) = string(text).or_else(|| character(text)) {
        length
    } else if first.is_ascii_digit() {
        run(&|c| c.is_alphanumeric() || c == '_' || c == '.')
    } else if word(first) {
        run(&word)
    } else {
        operator.or_else(compound).unwrap_or(first.len_utf8())
    }
}

/// Returns the length of the string literal at the beginning of a text, if there is one. It may be a raw string.
fn string(text: &str) -> Option<usize> {
    let body = text.strip_prefix('r').unwrap_or(text).trim_start_matches('#').strip_prefix('"')?;
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            '\n' if escaped => return None,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => {
                let behind = &body[at + 1..];
                return Some(text.len() - behind.trim_start_matches('#').len());
            }
            _ => {}
        }
    }
    None
}

/// Returns the length of the character literal at the beginning of a text, if there is one.
fn character(text: &str) -> Option<usize> {
    let mut body = text.strip_prefix('\'')?.chars();
    match body.next()? {
        '\'' => return None,
        '\\' => body.next().filter(|c| *c != '\n')?,
        c => c,
    };
    let behind = body.as_str().strip_prefix('\'')?;
    Some(text.len() - behind.len())
}

/// Returns the paths that a file imports from the crate. The last parts of a path may be items.
fn imports(source: &Source) -> Vec<String> {
    let code: Vec<&str> = source.code().map(|(_, line)| line).collect();
    let code = code.join("\n");
    let path = |rest: &str| rest.split(|c: char| !c.is_alphanumeric() && !"_:".contains(c)).next().unwrap().to_string();
    code.split("crate::").skip(1).map(path).collect()
}

/// Returns the place in the reading order of the file that a path leads to.
fn place(sources: &[Source], path: &str) -> Option<usize> {
    let mut parts: Vec<&str> = path.split("::").filter(|part| !part.is_empty()).collect();
    while !parts.is_empty() {
        let path = parts.join("/");
        let leads = |source: &Source| source.path == format!("{path}.rs") || source.path == format!("{path}/mod.rs");
        if let Some(place) = sources.iter().position(leads) {
            return Some(place);
        }
        parts.pop();
    }
    None
}

#[test]
fn a_file_imports_only_from_files_above_it_in_the_reading_order() {
    let sources = sources();
    let mut found = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    let known: Vec<_> = sources.iter().chain(&examples()).map(|source| format!("/src/{}", source.path)).collect();
    let missing = |path: &&String| !known.iter().any(|known| path.ends_with(known));
    assert_eq!(found.iter().find(missing), None, "each file is listed by a `pub mod`, or belongs to an example");
    let mut below = Vec::new();
    for (importer, source) in sources.iter().enumerate() {
        for import in imports(source) {
            let place = place(&sources, &import).unwrap_or_else(|| panic!("{} imports {import}", source.path));
            if place > importer {
                below.push(format!("{} imports {import}", source.path));
            }
        }
    }
    assert!(below.is_empty(), "{below:#?}");
    for (folder, files) in table() {
        let folder = folder.trim_end_matches('/');
        let mut listed: Vec<_> = sources.iter().filter_map(|source| listed(&source.path, folder)).collect();
        listed.dedup(); // a wing has several files
        let files: Vec<_> = files.into_iter().filter(|file| folder != "wings" || !is_gone(file)).collect();
        assert_eq!(files, listed, "the table in lib.rs: {folder}");
    }
}

/// Returns the rows of the table in `lib.rs`: a folder and its files.
fn table() -> Vec<(String, Vec<String>)> {
    let words = |cell: &str| quoted(cell).map(String::from).collect::<Vec<_>>();
    let text = read("lib.rs").text;
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | "));
    let rows = rows.filter_map(|row| row.split_once(" | ")).map(|(folder, files)| (words(folder), words(files)));
    rows.filter_map(|(mut folder, files)| Some((folder.pop()?, files))).collect()
}

/// Returns the name by which the table lists a file. For a file of a wing this is the name of the wing.
fn listed(path: &str, folder: &str) -> Option<String> {
    let rest = path.strip_prefix(folder)?.strip_prefix('/')?;
    let name = rest.split('/').next()?.trim_end_matches(".rs");
    (name != "mod").then(|| name.to_string())
}

#[test]
fn no_file_of_the_core_names_a_wing() {
    let mut named = Vec::new();
    for source in sources().iter().filter(|source| source.is_core()) {
        // These three may name wings: the guide, the program and its command line.
        let knows = ["lib.rs", "main.rs", "flags.rs"].contains(&&*source.path);
        for (n, line) in source.text.lines().enumerate().filter(|_| !knows) {
            let words = line.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_ascii_lowercase);
            for word in words.filter(|_| !line.contains("\"TRACE\"")) {
                let wings = ["websocket", "websockets", "redis", "trace", "tap", "taps", "lab", "lesson", "lessons"];
                if wings.contains(&&*word) {
                    named.push(format!("{}:{} names {word}", source.path, n + 1));
                }
            }
            for word in ["except=", "?to=", "feature =", "wings::"] {
                if line.contains(word) {
                    named.push(format!("{}:{} has {word}", source.path, n + 1));
                }
            }
        }
    }
    assert!(named.is_empty(), "{named:#?}");
}

#[test]
fn a_function_has_at_most_forty_lines() {
    let mut long = Vec::new();
    for source in sources().into_iter().chain(examples()) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (begin, line) in lines.iter().enumerate() {
            let begins =
                line.split_whitespace().find(|word| !word.starts_with("pub") && *word != "const") == Some("fn");
            if !begins || line.ends_with([';', '}']) {
                continue;
            }
            let end = line.chars().take_while(|c| *c == ' ').chain(['}']).collect::<String>();
            let length = lines[begin..].iter().position(|line| *line == end).unwrap() + 1;
            if length > 40 {
                long.push(format!("{}:{} has {length} lines", source.path, begin + 1));
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn the_source_can_be_read_in_one_evening() {
    const CORE: usize = 48_600;
    const ALL: usize = 77_150;
    let size = |sources: &mut dyn Iterator<Item = Source>| sources.map(|source| tokens(&source.text)).sum::<usize>();
    let core = size(&mut sources().into_iter().filter(Source::is_core));
    let all = size(&mut sources().into_iter());
    println!("tokens: {core} in the core (at most {CORE}), {all} in all (at most {ALL})");
    assert!(core <= CORE && all <= ALL, "{core} and {all} tokens");
}

#[test]
fn tokens_are_identifiers_literals_and_operators() {
    for (text, count) in [
        ("", 0),
        ("fn main() {}\n", 6),
        ("// fn main() {}\n\n    /* a\nb */ x", 1),
        ("x /* never ended", 5),
        ("a_1 += 0x1f_u8..=2.5;", 6),
        ("a>>=b<<1!=c->d=>e::f", 14),
        ("a && b || c..d", 7),
        (r#""a \" b" 'c' '\'' '\n' b'x' 'static"#, 8),
        (r##"r#"a b"# r"c""##, 2),
        ("\"http://x.y\"", 3),
        ("\"a\\\nb\"", 5),
        ("é '🍲'", 2),
    ] {
        assert_eq!(tokens(text), count, "{text:?}");
    }
}

#[test]
fn nothing_in_the_source_can_be_made_to_panic_in_passing() {
    // In the seed it can: its table shows what becomes of that.
    let judge = examples().into_iter().filter(|source| source.path.starts_with("judge/"));
    for source in sources().into_iter().chain(judge) {
        for (n, line) in source.code() {
            for word in
                [".unwrap()", ".expect(", "panic!", "unreachable!", "todo!", "assert!", "unsafe {", "dbg!", "println!"]
            {
                assert!(!line.contains(word), "{}:{n} has {word}", source.path);
            }
        }
    }
}

#[test]
fn unsafe_code_is_forbidden() {
    let is_root = |source: &Source| !source.path.contains('/') || source.path.ends_with("/main.rs");
    for root in ["lib.rs", "main.rs"].map(read).into_iter().chain(examples().into_iter().filter(is_root)) {
        assert!(root.text.contains("\n#![forbid(unsafe_code)]\n"), "{}", root.path);
    }
}

#[test]
fn the_seed_can_be_read_in_five_minutes() {
    let seed = read("seed.rs");
    let lines = seed.text.lines().count();
    assert!(lines <= 100, "{lines} lines");
    for (n, line) in seed.code().filter(|(_, line)| line.starts_with("use ")) {
        assert!(line.starts_with("use std::"), "seed.rs:{n} imports something else");
    }
    for word in ["tincan::", "extern crate", "\nmod ", "include"] {
        assert!(!seed.text.contains(word), "seed.rs has {word}");
    }
}

#[test]
fn neither_source_nor_tests_have_an_atomic_number_of_64_bits() {
    // 32-bit MIPS, 32-bit PowerPC and old ARM have none, so nothing would compile for them.
    let mut paths = Vec::new();
    for folder in ["src", "tests/it"] {
        files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut paths);
    }
    for path in paths.iter().filter(|path| !path.ends_with("/core/tidy.rs")) {
        let text = read_to_string(path).unwrap();
        for word in ["AtomicU64", "AtomicI64"] {
            assert!(!text.contains(word), "{path} has {word}");
        }
    }
}

#[test]
fn prose_uses_plain_characters() {
    let sources = sources().into_iter().chain(examples()).map(|source| (source.path, source.text));
    for (name, text) in sources.chain(documents()) {
        assert!(!text.contains('\r') && !text.contains('\t'), "{name}");
        assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{name}");
        for (n, line) in text.lines().enumerate() {
            assert_eq!(line, line.trim_end(), "{name}:{}", n + 1);
        }
    }
}

#[test]
fn each_link_in_a_document_leads_to_a_file_and_a_heading() {
    for (name, text) in documents() {
        for link in links(&text) {
            let (path, heading) = link.split_once('#').map_or((&*link, None), |(path, heading)| (path, Some(heading)));
            let target = if path.is_empty() { name.clone() } else { beside(&name, path) };
            if went_with_its_wing(&target) {
                continue;
            }
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(&target).exists(), "{name}: {link} leads nowhere");
            let is_there = |heading: &str| headings(&document(&target)).iter().any(|other| other == heading);
            assert!(heading.is_none_or(is_there), "{name}: {link} leads to no heading");
        }
    }
}

/// The path in the tree of what a document names relative to itself.
fn beside(document: &str, path: &str) -> String {
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => assert!(parts.pop().is_some(), "{document}: {path} leads out of the tree"),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[test]
fn a_manual_lists_the_files_of_its_folder_in_reading_order() {
    let mut listed = 0;
    for (name, text) in documents() {
        let (Some(folder), Some((_, table))) = (name.strip_prefix("src/"), text.split_once("\n## Read the code\n"))
        else {
            continue;
        };
        let folder = folder.trim_end_matches("README.md");
        let cells = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
        let cells: Vec<_> = cells.map(|(file, rest)| (format!("{folder}{file}"), rest)).collect();
        let rows: Vec<String> = cells.iter().map(|cell| cell.0.clone()).collect();
        let mut there: Vec<String> = sources().into_iter().map(|source| source.path).collect();
        there.retain(|path| path.starts_with(folder) && (!path.ends_with("/mod.rs") || rows.contains(path)));
        assert_eq!(rows, there, "{name}");
        // A last column has functions to look for.
        for (path, look_for) in cells.iter().filter_map(|(path, rest)| Some((path, rest.split_once(" | ")?.1))) {
            let code = read(path).text;
            for name in quoted(look_for) {
                let is = |kind: &&str| code.contains(&format!("{kind} {name}"));
                assert!(["fn", "struct", "const", "static"].iter().any(is), "{name} is not in {path}");
            }
        }
        listed += 1;
    }
    assert!(listed >= 2, "{listed} manuals list their files");
}

#[test]
fn a_subscriber_is_small() {
    assert!(size_of::<tincan::channel::subscriber::Subscriber>() <= 48);
}
