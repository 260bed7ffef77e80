//! The README's code to copy: each piece runs as it is, and does what it says.

use crate::support::browser::{driver, guarded, url};
use crate::support::commands::shell;
use crate::support::documents::{blocks, document, text_block};
use crate::support::harness::*;
use crate::support::process::works;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

/// Returns the pieces of code in a language, for a server on this port.
fn code(language: &str, port: u16) -> Vec<String> {
    let host = format!("localhost:{port}");
    let code: Vec<String> =
        blocks("README.md", language).iter().map(|text| text.replace("localhost:8000", &host)).collect();
    assert!(!code.is_empty(), "no code in {language}");
    for text in &code {
        assert_eq!(text.lines().count(), 3, "{text}");
    }
    code
}

#[test]
fn the_code_for_pages_subscribes_and_publishes() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/kitchen"));
    page.is_open();
    let [subscribe, publish] = &code("js", server.port)[..] else { panic!("two pieces of code") };
    let log = "const console = { log: (...words) => lines.push(words.join(' ')) }";
    let run = |code: &str| page.js(&format!("(() => {{ {log}; (async () => {{ {code}\n }})() }})()"));
    page.js("(window.lines = [])");
    run(&format!("{subscribe}; window.source = source;"));
    page.becomes("source.readyState", "1");
    run(publish);
    page.becomes("lines.length", "2");
    let order = server.post("/kitchen?event=order", "bread").remove(0);
    page.becomes("lines.length", "3");
    let epoch = order.strip_suffix("-2").unwrap();
    let lines = page.js("lines.join('\\n')");
    let mut lines: Vec<String> = lines.lines().filter(|line| !line.is_empty()).map(String::from).collect();
    lines.sort();
    assert_eq!(lines, [format!("{epoch}-1 soup is ready"), "an order: bread".into(), format!("the id is {epoch}-1")]);
}

/// Runs a program that subscribes. It must print an event that is published after that.
fn subscribes(server: &Tincan, command: &mut Command) {
    let mut program = Ended(command.stdout(Stdio::piped()).spawn().unwrap());
    let (send, lines) = mpsc::channel();
    let stdout = BufReader::new(program.0.stdout.take().unwrap());
    thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
    let next = || lines.recv_timeout(10 * SOON).expect("the program prints a line");
    while !next().is_empty() {} // the prelude
    let id = server.post("/kitchen", "soup is ready").remove(0);
    let block = [next(), next(), next()];
    assert_eq!(block, ["data: soup is ready".into(), format!("id: {id}"), String::new()]);
}

#[test]
fn the_code_for_python_subscribes() {
    if !works("python3 --version") {
        return;
    }
    let server = Tincan::start(&[]);
    let code = code("python", server.port).remove(0);
    subscribes(&server, shell("exec python3 -u -c \"$0\"").arg(code));
}

#[test]
fn the_code_for_go_subscribes() {
    if !works("go version") {
        return;
    }
    let server = Tincan::start(&[]);
    let scratch = Scratch::new();
    let imports = r#"import ("io"; "log"; "net/http"; "os")"#;
    let program = format!("package main\n{imports}\nfunc main() {{\n{}}}\n", code("go", server.port)[0]);
    std::fs::write(scratch.0.join("main.go"), program).unwrap();
    let mut build = shell("exec go build -o program main.go");
    build.current_dir(&scratch.0).env("GOCACHE", scratch.0.join("cache")).env("GOFLAGS", "-mod=mod");
    assert!(build.env("GOTOOLCHAIN", "local").status().unwrap().success());
    subscribes(&server, &mut Command::new(scratch.0.join("program")));
}

/// Returns the commands and the code of a document, without comments, which may be in another language.
fn same_commands(path: &str) -> Vec<String> {
    let languages = ["sh", "js", "python", "go"];
    let lines = languages.iter().flat_map(|language| blocks(path, language));
    lines.flat_map(|block| block.lines().map(without_comment).collect::<Vec<_>>()).collect()
}

fn without_comment(line: &str) -> String {
    let end = ["  #", " // "].iter().filter_map(|comment| line.find(comment)).min();
    line[..end.unwrap_or(line.len())].trim_end().into()
}

#[test]
fn the_chinese_readme_has_the_same_commands() {
    let commands_in_english = same_commands("README.md");
    assert!(commands_in_english.len() > 15, "{commands_in_english:?}");
    assert_eq!(same_commands("README.zh-CN.md"), commands_in_english);
}

#[test]
fn the_readmes_are_short() {
    for (path, most) in [("README.md", 200), ("README.zh-CN.md", 120)] {
        let lines = document(path).lines().count();
        assert!(lines <= most, "{path} has {lines} lines");
    }
}

#[test]
fn the_refusal_that_the_readme_shows_is_sent() {
    let server = Tincan::start(&[]);
    let shown = text_block("README.md", "$ curl -d hello");
    let (command, line) = shown.split_once('\n').unwrap();
    let command = command.strip_prefix("$ ").unwrap().replace("localhost:8000", &format!("localhost:{}", server.port));
    let out = shell(&command).stderr(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8(out.stdout).unwrap(), line);
}

#[test]
fn the_tokens_of_the_readme_let_publish_and_read() {
    let shown = text_block("README.md", "$ cat tokens");
    let mut parts = shown.split("$ ").skip(1);
    let tokens = parts.next().unwrap().split_once('\n').unwrap().1;
    let scratch = Scratch::new();
    let server = guarded(&scratch, 0, tokens);
    assert_eq!(parts.next().unwrap().trim_end(), "tincan --token-file tokens");
    let host = format!("localhost:{}", server.port);
    let [publish, subscribe] = [parts.next(), parts.next()].map(|part| part.unwrap().replace("localhost:8000", &host));
    let id = shell(&publish).stderr(Stdio::null()).output().unwrap().stdout;
    let id = String::from_utf8(id).unwrap();
    assert!(id.trim_end().ends_with("-1"), "{id}");
    let poll = subscribe.trim_end().replace("/kitchen", "'/kitchen?wait=0&since=all'");
    let block = shell(&poll).stderr(Stdio::null()).output().unwrap().stdout;
    let block = String::from_utf8(block).unwrap();
    assert!(block.ends_with(&format!("data: soup is ready\nid: {id}\n")), "{block}");
    assert_eq!(server.get("/kitchen?wait=0").status, 401);
}
