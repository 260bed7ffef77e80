//! What the README shows is true: its commands run, its transcript is what the wire carries, its claims have tests.

use crate::support::commands::{commands, run};
use crate::support::documents::{document, documents, quoted, text_block};
use crate::support::harness::*;
use crate::support::sources;
use crate::support::wings::{ALL, has_all, is_gone, went_with_its_wing};
use std::fs::read_to_string;
use std::path::Path;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn readme() -> String {
    document("README.md")
}

/// Replaces what differs each time: dates, epochs and reconnection times.
fn mask(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let epoch = line.find("-").filter(|n| *n >= 13 && line[n - 13..*n].bytes().all(|b| b.is_ascii_digit()));
        out += &match (line.split_once(": "), epoch) {
            (Some((name @ ("Date" | "retry"), _)), _) => format!("{name}: …"),
            (_, Some(n)) => format!("{}EPOCH{}", &line[..n - 13], &line[n..]),
            _ => line.trim_end().to_string(),
        };
        out.push('\n');
    }
    out
}

#[test]
fn every_command_runs() {
    if !has_all() {
        return;
    }
    let ci = read_to_string(format!("{ROOT}/.ci/run")).unwrap();
    let commands = commands("README.md");
    let [install, start, used @ ..] = &commands[..] else { panic!("{commands:?}") };
    assert!(ci.contains(&format!("\n{install} --root ")), "CI does not run `{install}`");
    assert!(ci.contains(&format!("/bin/{start}\" ")), "CI does not run `{start}`");
    assert!(used.len() >= 3, "{used:?}");
    run(used, &Tincan::start(&[]));
}

#[test]
fn the_file_is_what_the_readme_shows() {
    let dir = Scratch::new();
    let server = Tincan::start(&["--data", dir.arg()]);
    server.post("/kitchen", "soup is ready");
    server.post("/kitchen", "two\nlines");
    assert_eq!(mask(&dir.read("kitchen.sse")), mask(&text_block("src/log/README.md", ": tincan log")));
}

#[test]
fn the_token_file_can_be_used_as_the_readme_shows_it() {
    let dir = Scratch::new();
    let path = dir.0.join("tokens");
    let lines = text_block("src/server/README.md", "# head");
    std::fs::write(&path, &lines).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let server = Tincan::start(&["--token-file", path.to_str().unwrap()]);
    for line in lines.lines().skip(1) {
        let (right, token) = line.split_once(' ').unwrap();
        let request = if right == "publish" { "POST /a" } else { "GET /a?wait=0" };
        let ask = |token: &str| {
            let fields = format!("Host: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n");
            server.ask(format!("{request} HTTP/1.1\r\n{fields}\r\n")).status
        };
        assert_eq!((ask(token), ask("another")), (200, 401), "{line}");
    }
}

#[test]
fn the_options_are_those_of_the_program() {
    if !has_all() {
        return;
    }
    let out = Command::new(env!("CARGO_BIN_EXE_tincan")).arg("--help").output().unwrap();
    let help = String::from_utf8(out.stdout).unwrap();
    assert!(readme().contains(&help), "the README does not show the help as it is:\n{help}");
}

/// Directives of nginx, which look like names of tests.
const NGINX: [&str; 4] = ["proxy_read_timeout", "proxy_set_header", "client_max_body_size", "worker_rlimit_nofile"];

/// Whether a word is a test's name.
fn names_a_test(word: &str) -> bool {
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit();
    word.matches('_').count() >= 2 && word.bytes().all(is_name) && !NGINX.contains(&word)
}

/// The paths of the tree that a word in a document may mean, if it means a file.
fn paths(document: &str, word: &str) -> Vec<String> {
    let folder = document.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let is_file = word.ends_with(".rs") || word.starts_with("static/");
    let folders = [&folder, "", "src/", "tests/it/"];
    if is_file { folders.map(|folder| format!("{folder}{word}")).into() } else { Vec::new() }
}

#[test]
fn every_claim_names_a_test_and_a_file_that_exist() {
    let tests = sources::tests();
    let program = sources::program();
    let there = |path: &String| Path::new(ROOT).join(path).exists();
    let is_whole = !ALL.into_iter().any(is_gone);
    let metrics = ["src/channel/hub.rs", "src/wings/redis/node.rs"].map(String::from);
    let metrics = metrics.iter().filter(|path| there(path)).map(|path| document(path)).collect::<String>();
    let mut named = 0;
    for (name, text) in documents() {
        for word in quoted(&text) {
            let paths = paths(&name, word);
            let gone = paths.iter().any(|path| went_with_its_wing(path));
            assert!(paths.is_empty() || gone || paths.iter().any(there), "{name}: there is no {word}");
            if !names_a_test(word) {
                continue;
            }
            // What went with a wing cannot be found any more.
            let found = match word.strip_prefix("tincan_") {
                Some(metric) => metrics.contains(&format!("\"{metric}\"")),
                None => tests.contains(&format!("fn {word}()")) || program.contains(&format!("fn {word}(")),
            };
            assert!(found || !is_whole, "{name}: there is no {word}");
            named += usize::from(found);
        }
    }
    assert!(named >= 100, "{named} claims name a test or a metric");
}

/// A row of the tables of threats and ideas: what is claimed, the wing or `core`, the file, and names in it; for a threat the
/// tests that show it.
struct Row {
    claim: String,
    part: String,
    file: String,
    names: Vec<String>,
    tests: Option<Vec<String>>,
}

fn rows() -> Vec<Row> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches(['|', ' ']).split(" | ").collect();
        let [claim, part, file, names, tests @ ..] = &cells[..] else { return None };
        let all = |cell: &str| quoted(cell).map(String::from).collect();
        Some(Row {
            claim: claim.to_string(),
            part: part.to_string(),
            file: quoted(file).next().filter(|file| file.ends_with(".rs") || file.ends_with(".js"))?.into(),
            names: all(names),
            tests: tests.first().map(|cell| all(cell)),
        })
    };
    document("tests/README.md").lines().filter_map(row).collect()
}

#[test]
fn each_threat_and_each_idea_has_its_place_in_the_source_and_the_tests_of_its_part() {
    let of_the_core = ["core", "pages", "deploy"].map(sources::tests_in).concat();
    let all = sources::tests();
    let (mut ideas, mut threats) = (0, 0);
    for Row { claim, part, file, names, tests } in rows() {
        let is_core = part == "core";
        assert!(is_core || ALL.contains(&&*part), "{claim}: {part} is no wing");
        let count = if tests.is_some() { &mut threats } else { &mut ideas };
        *count += 1;
        if !is_core && is_gone(&part) {
            continue;
        }
        let folder = if file.ends_with(".js") { "" } else { "src/" };
        let path = format!("{folder}{file}");
        let in_wing = ALL.iter().any(|wing| path.contains(&format!("/{wing}/")));
        assert!(!in_wing || path.contains(&format!("/{part}/")), "{claim}: {file} is not of {part}");
        let source = document(&path);
        for name in &names {
            let (owner, name) = name.split_once("::").map_or((None, &**name), |(owner, name)| (Some(owner), name));
            let begins = |rest: &str| rest.starts_with(['(', '<', ':', ' ']);
            let is_there = |kind: &str| source.split(&format!("{kind} {name}")).skip(1).any(begins);
            assert!(["fn", "function", "const"].iter().any(|kind| is_there(kind)), "{claim}: {file} has no {name}");
            let has = |owner: &str| source.lines().any(|line| line.starts_with("impl") && line.contains(owner));
            assert!(owner.is_none_or(has), "{claim}: {file} has no {owner:?}");
        }
        assert!(!names.is_empty(), "{claim}: nothing to look for");
        for test in tests.iter().flatten() {
            // A build without wings is as safe as it says.
            let among = if is_core { &of_the_core } else { &all };
            assert!(among.contains(&format!("fn {test}()")), "{claim}: {part} has no test {test}");
        }
        assert!(tests.is_none_or(|tests| !tests.is_empty()), "{claim}: no test shows it");
    }
    assert!(ideas >= 25 && threats >= 33, "{ideas} ideas, {threats} threats");
}
