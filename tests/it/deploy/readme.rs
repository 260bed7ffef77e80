//! What the README shows is true: its commands run, its transcript is what the wire carries, its claims have tests.

use crate::support::commands::{commands, run};
use crate::support::documents::{document, text_block};
use crate::support::harness::*;
use crate::support::sources;
use crate::support::wings::has_all;
use std::fs::read_to_string;
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
    let (built, used): (Vec<_>, Vec<_>) =
        commands("README.md").into_iter().partition(|line| line.starts_with("cargo ") || line.starts_with("rustc "));
    assert!(!built.is_empty() && used.len() >= 3, "{built:?} {used:?}");
    for command in built {
        match command.starts_with("cargo ") {
            true => assert!(ci.contains(&command), "CI does not run `{command}`"),
            false => assert!(ci.contains("grep '^rustc ' README.md"), "CI does not take the commands from here"),
        }
    }
    run(&used, &Tincan::start(&[]));
}

#[test]
fn the_file_is_what_the_readme_shows() {
    let dir = Scratch::new();
    let server = Tincan::start(&["--data", dir.arg()]);
    server.post("/kitchen", "soup is ready");
    server.post("/kitchen", "two\nlines");
    assert_eq!(mask(&dir.read("kitchen.sse")), mask(&text_block("README.md", ": tincan log")));
}

#[test]
fn the_token_file_can_be_used_as_the_readme_shows_it() {
    let dir = Scratch::new();
    let path = dir.0.join("tokens");
    let lines = text_block("README.md", "# head");
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

#[test]
fn every_claim_names_a_test_and_a_file_that_exist() {
    let tests = sources::tests();
    let metrics = ["channel/hub", "wings/redis/cluster"]
        .map(|room| read_to_string(format!("{ROOT}/src/{room}.rs")).unwrap())
        .concat();
    let text = readme();
    let mut named = 0;
    for word in text.split('`').skip(1).step_by(2) {
        if word.ends_with(".rs") || word.starts_with("static/") {
            let found = ["", "src/", "tests/it/"]
                .iter()
                .any(|dir| std::path::Path::new(&format!("{ROOT}/{dir}{word}")).exists());
            assert!(found, "there is no {word}");
        } else if word.matches('_').count() >= 2
            && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
        {
            if let Some(metric) = word.strip_prefix("tincan_") {
                assert!(metrics.contains(&format!("\"{metric}\"")), "there is no metric {word}");
                continue;
            }
            assert!(tests.contains(&format!("fn {word}()")), "there is no test {word}");
            named += 1;
        }
    }
    assert!(named >= 10, "{named} claims name a test");
    // Both tables: what stands behind a file's name is in that file.
    let (mut rows, mut threats) = (0, 0);
    for row in text.lines().map(|l| l.trim_matches(['|', ' ']).split(" | ").collect::<Vec<_>>()) {
        let [_, file, names, shown @ ..] = &row[..] else { continue };
        let file = file.trim_matches('`');
        if !file.ends_with(".rs") && !file.ends_with(".js") {
            continue;
        }
        let folder = if file.ends_with(".js") { ROOT } else { concat!(env!("CARGO_MANIFEST_DIR"), "/src") };
        let source = read_to_string(format!("{folder}/{file}")).unwrap();
        for name in names.split('`').skip(1).step_by(2) {
            let name = name.rsplit(':').next().unwrap();
            let kinds = ["fn", "function", "const"];
            let found = kinds.iter().any(|kind| source.contains(&format!("{kind} {name}")));
            assert!(found, "{file} has no {name}");
        }
        if let [shown] = shown {
            assert!(shown.contains("`"), "no test shows {row:?}");
            threats += 1;
        }
        rows += 1;
    }
    assert!(rows >= 30 && threats >= 20, "{rows} rows, {threats} threats");
}
